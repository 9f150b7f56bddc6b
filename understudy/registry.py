"""The registry: model versions as objects in the store and rows in the catalog, and loading them.

A version's card is written last: it is there, so the version is whole. Nothing here moves the
champion; that is one row in ``catalog/versions.py``.
"""

import hashlib
import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

from understudy import engine, tuning
from understudy.catalog import Catalog, versions
from understudy.engine import FP32, GPU_PROVIDERS, Engine
from understudy.errors import ArtifactRefused, NoChampion
from understudy.records import ModelCard, ModelFile, Variant
from understudy.store import Store, model_key

log = logging.getLogger(__name__)

#: The batch at which variants are compared; on a CPU larger ones gain nothing, a GPU needs them to be busy.
CPU_BATCH, GPU_BATCH = 4, 32


def version_id(generation: int, artifact: bytes) -> str:
    """``g0003-8f2c1a``: the generation, and the beginning of the artifact's sha-256."""
    return f"g{generation:04d}-{hashlib.sha256(artifact).hexdigest()[:6]}"


def publish(
    store: Store,
    catalog: Catalog,
    card: ModelCard,
    artifact: bytes,
    weights: bytes,
    variants: Mapping[str, bytes] | None = None,
) -> None:
    """Write a version's files, its card last, and register it as a challenger. Twice is once.

    ``variants`` are the files of the card's eligible variants, by name.
    """
    store.put(card.artifact_key, artifact)
    store.put(card.weights_key, weights)
    for variant in card.variants:
        if variant.artifact_key is not None:
            store.put(variant.artifact_key, (variants or {})[variant.name])
    store.put(model_key(card.version, "card.json"), card.to_json())
    versions.register(catalog, card)


def fetch(store: Store, catalog: Catalog, version: str) -> tuple[bytes, ModelCard]:
    """A version's artifact and card, to load an engine of once or several times. Raises NotFound, ArtifactRefused."""
    card = versions.get(catalog, version).card
    return _file(store, card.artifact_key, version), card


def files(store: Store, card: ModelCard) -> list[ModelFile]:
    """The files of a version that are in the store: artifact, variants, weights and card, each with its sha-256."""
    digests: dict[str, str | None] = {card.artifact_key: card.artifact_sha256}
    digests |= {each.artifact_key: each.artifact_sha256 for each in card.variants if each.artifact_key is not None}
    digests[card.weights_key] = card.training.get("weights_sha256")
    card_key = model_key(card.version, "card.json")
    sizes = store.sizes(model_key(card.version, ""))
    if card_key in sizes:
        digests[card_key] = hashlib.sha256(store.get(card_key)).hexdigest()
    return [
        ModelFile(name=key.rpartition("/")[2], num_bytes=sizes[key], sha256=digest)
        for key, digest in digests.items()
        if key in sizes
    ]


def fetch_variant(store: Store, card: ModelCard, name: str) -> bytes:
    """The file of one of a card's variants. Raises ArtifactRefused if it has none that may be served."""
    variant = card.variant(name)
    if variant is None or variant.artifact_key is None:
        why = variant.reason if variant is not None else "its card names none"
        raise ArtifactRefused(f"model {card.version} has no {name} variant: {why}", code="variant")
    return _file(store, variant.artifact_key, card.version)


def _file(store: Store, key: str, version: str) -> bytes:
    try:
        return store.get(key)
    except FileNotFoundError as error:
        raise ArtifactRefused(f"the file {key} of model {version} is missing from the store", code="missing") from error


def load(
    store: Store,
    catalog: Catalog,
    version: str,
    *,
    provider: str = "auto",
    threads: int = 0,
    arena: bool = False,
    variant: str | None = None,
) -> Engine:
    """A version's engine, verified and warm. Raises NotFound, ArtifactRefused.

    Labeling and the gate use it as it is, in fp32: what they say of a version does not depend on the machine.
    """
    artifact, card = fetch(store, catalog, version)
    if variant is not None and variant != FP32:
        artifact = fetch_variant(store, card, variant)
    return engine.load(artifact, card, provider=provider, threads=threads, arena=arena, variant=variant)


@dataclass(frozen=True)
class VariantChoice:
    """Which number format serves on this machine, and why."""

    variant: str  #: fp32, fp16 or int8
    images_per_second: dict[str, float] = field(default_factory=dict)  #: of each that was measured
    reasons: tuple[str, ...] = ()  #: in words, for the log


#: What was measured in this process before, by the key of :func:`variant_key`: a new version of the same
#: architecture is as fast as the one before.
Remembered = MutableMapping[str, dict[str, float]]


def choose_variant(
    store: Store,
    loaded: Engine,
    *,
    num_lanes: int,
    seconds_each: float = 0.5,
    arena: bool = False,
    remembered: Remembered | None = None,
) -> tuple[Engine, VariantChoice]:
    """The engine to serve with: ``loaded`` (fp32), or a variant that is measured at least 5 % faster here.

    Only the variants that the card has for this provider and that lost no more accuracy than their recipe
    allows are tried, each with ``num_lanes`` calls at once, as it would serve. A variant that cannot be
    loaded is left out with a warning; this never raises for one.
    """
    remembered = {} if remembered is None else remembered
    rates = remembered.setdefault(variant_key(loaded), {})
    engines: dict[str, Engine] = {FP32: loaded}
    reasons: list[str] = []
    for variant in _made_for(loaded):
        if not variant.is_eligible:
            reasons.append(f"{variant.name} is not served: {variant.reason}")
        elif not _is_known_slower(variant.name, rates):  # what is known to be slower is not even loaded
            try:
                engines[variant.name] = _load_variant(store, loaded, variant.name, arena)
            except (ArtifactRefused, OSError) as error:
                log.warning("the %s variant of %s cannot be used, fp32 serves: %s", variant.name, loaded.version, error)
                reasons.append(f"{variant.name} is not served: {error}")
    if len(engines) > 1:
        for name in engines.keys() - rates.keys():
            rates[name] = _images_per_second(engines[name], num_lanes, seconds_each)
    here = {name: rates[name] for name in engines if name in rates}
    chosen = tuning.fastest(here, base=FP32) if here.keys() == engines.keys() else FP32
    reasons += [f"{name} does {rate:.0f} images/s here" for name, rate in rates.items()]
    return engines[chosen], VariantChoice(chosen, dict(rates), tuple(reasons))


def _made_for(loaded: Engine) -> list[Variant]:
    kind = "cuda" if loaded.provider in GPU_PROVIDERS else "cpu"
    return [variant for variant in loaded.card.variants if variant.provider == kind]


def _is_known_slower(name: str, rates: Mapping[str, float]) -> bool:
    if not {name, FP32} <= rates.keys():
        return False
    return tuning.fastest({FP32: rates[FP32], name: rates[name]}, base=FP32) == FP32


def _load_variant(store: Store, loaded: Engine, name: str, arena: bool) -> Engine:
    return engine.load(
        fetch_variant(store, loaded.card, name),
        loaded.card,
        provider=loaded.provider,
        threads=loaded.threads,
        arena=arena,
        variant=name,
    )


def _images_per_second(candidate: Engine, num_lanes: int, seconds_each: float) -> float:
    batch = GPU_BATCH if candidate.provider in GPU_PROVIDERS else CPU_BATCH
    seconds = tuning.measure(candidate, num_lanes=num_lanes, batch_sizes=(batch,), seconds_each=seconds_each)
    return num_lanes * batch / seconds[batch]


def variant_key(loaded: Engine) -> str:
    """What the speed of a version's variants depends on, on one machine."""
    card = loaded.card
    return f"{card.student}@{card.preprocessing.size}/{loaded.provider}/{loaded.threads}"


def champion(catalog: Catalog) -> str:
    """The version that serves. Raises NoChampion."""
    newest = versions.champion(catalog)
    if newest is None:
        raise NoChampion(
            "no model has been promoted yet; send a labeled set with `understudy init` or POST /labeled, "
            "and wait for generation 0"
        )
    return newest.version
