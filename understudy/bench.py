"""What ``understudy bench`` measures: what one machine makes of a model, and what the service will therefore choose.

It measures with what the service tunes itself with, so the two cannot disagree but by the machine's load.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.table import Table

from understudy import engine, registry, settings, tuning
from understudy.catalog import Catalog
from understudy.engine import FP32, GPU_PROVIDERS, Engine
from understudy.errors import ArtifactRefused, NotFound
from understudy.records import ModelCard
from understudy.store import Store
from understudy.tuning import Tuning


@dataclass(frozen=True)
class Candidate:
    """One file that may be measured: a version's artifact or one of its variants."""

    name: str  #: as the table calls it
    artifact: bytes
    card: ModelCard
    variant: str


@dataclass(frozen=True)
class Measurement:
    """One candidate in one layout."""

    name: str
    provider: str
    fallback: str | None
    tuning: Tuning  #: its max_batch is what the service would take in this layout

    def images_per_second(self, batch: int) -> float:
        return self.tuning.num_lanes * batch / self.tuning.batch_seconds[batch]


@dataclass(frozen=True)
class Choice:
    """What the service will do on this machine, and why."""

    name: str
    provider: str
    num_lanes: int
    threads: int
    max_batch: int
    images_per_second: float
    lone_ms: float  #: a single image while nothing else runs, in a lane
    wide_ms: float | None  #: the same on all cores; None: not measured, for there is only one core, or a GPU
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Bench:
    """Everything that was measured of one model, and what the service will choose."""

    version: str
    kind: str  #: the provider that ``auto`` comes to
    cores: int
    measured: tuple[Measurement, ...]
    choice: Choice


def run(
    *,
    model: str | None,
    artifact: Sequence[Path] | None,
    data: Path,
    provider: str,
    threads: int,
    max_batch: int,
    seconds: float,
) -> Bench:
    """Measure a version of a data folder, or files. Raises NotFound and ArtifactRefused."""
    candidates, left_out = _files(artifact) if artifact else _version(data, model, provider)
    cores = engine.available_cores()
    kind = _opened(candidates[0], provider, threads or 1).provider
    layouts = _layouts(kind, cores, threads)
    measured = [
        _measured(candidate, kind if provider == "auto" else provider, layout, max_batch, seconds)
        for candidate in candidates
        for layout in layouts
    ]
    choice = choose(measured, layouts[0], left_out, _alone(candidates, measured, layouts[0], cores, seconds))
    return Bench(candidates[0].card.version, kind, cores, tuple(measured), choice)


# -- what to measure ----------------------------------------------------------------------------------


def _version(data: Path, version: str | None, provider: str) -> tuple[list[Candidate], list[str]]:
    """A published version and its variants for this provider, and why others are left out."""
    read = settings.read(settings.Settings, data=data)
    if read.catalog_url.startswith("sqlite") and not (read.data / "catalog.db").exists():
        raise NotFound(f"there is no data folder {data}; name one with --data, or a file with --artifact")
    store, catalog = Store(read.store_url), Catalog(read.catalog_url)
    try:
        artifact, card = registry.fetch(store, catalog, version or registry.champion(catalog))
    finally:
        catalog.close()
    on_gpu = provider in GPU_PROVIDERS or (provider == "auto" and engine.default_provider() in GPU_PROVIDERS)
    candidates, left_out = [Candidate(FP32, artifact, card, FP32)], []
    for variant in card.variants:
        if variant.provider != ("cuda" if on_gpu else "cpu"):
            left_out.append(f"{variant.name} is for {variant.provider}")
        elif not variant.is_eligible:
            left_out.append(f"{variant.name} is not served: {variant.reason}")
        else:
            file = registry.fetch_variant(store, card, variant.name)
            candidates.append(Candidate(variant.name, file, card, variant.name))
    return candidates, left_out


def _files(paths: Sequence[Path]) -> tuple[list[Candidate], list[str]]:
    """ONNX files, each with the ``card.json`` beside it if that is its card."""
    candidates: list[Candidate] = []
    for path in paths:
        artifact = path.read_bytes()
        card, variant = _card_beside(path, artifact)
        name = variant if variant != FP32 or len(paths) == 1 else path.stem
        if name in [candidate.name for candidate in candidates]:
            name = str(path)
        candidates.append(Candidate(name, artifact, card, variant))
    return candidates, []


def _card_beside(path: Path, artifact: bytes) -> tuple[ModelCard, str]:
    """The card in the same folder and the variant's name, if it names this file; else a bare card."""
    sha256, beside = hashlib.sha256(artifact).hexdigest(), path.with_name("card.json")
    if beside.exists():
        try:
            card = ModelCard.model_validate_json(beside.read_bytes())
        except ValidationError as error:
            raise ArtifactRefused(f"{beside} is no model card: {error}", code="card") from error
        names = {card.artifact_sha256: FP32} | {v.artifact_sha256: v.name for v in card.variants if v.artifact_sha256}
        if sha256 in names:
            return card, names[sha256]
    return engine.bare_card(artifact, path.stem), FP32


def _layouts(provider: str, cores: int, threads: int) -> list[tuple[int, int]]:
    """(lanes, threads): the service's own first, then one lane of all cores to compare it with."""
    if provider in GPU_PROVIDERS:
        return [tuning.layout(provider, cores)]
    first = (max(1, cores // threads), threads) if threads else tuning.layout(provider, cores)
    return list(dict.fromkeys((first, (1, cores))))


# -- measuring ----------------------------------------------------------------------------------------


def _opened(candidate: Candidate, provider: str, threads: int) -> Engine:
    variant = None if candidate.variant == FP32 else candidate.variant
    return engine.load(
        candidate.artifact, candidate.card, provider=provider, threads=threads, arena=True, variant=variant
    )


def _measured(
    candidate: Candidate, provider: str, layout: tuple[int, int], max_batch: int, seconds: float
) -> Measurement:
    num_lanes, threads = layout
    loaded = _opened(candidate, provider, threads)
    tuned = tuning.tune(
        loaded,
        provider=loaded.provider,
        num_lanes=num_lanes,
        threads=threads,
        max_batch=max_batch,
        seconds_each=seconds,
    )
    return Measurement(candidate.name, loaded.provider, loaded.fallback, tuned)


def _alone(
    candidates: Sequence[Candidate],
    measured: Sequence[Measurement],
    layout: tuple[int, int],
    cores: int,
    seconds: float,
) -> tuple[float, float | None]:
    """Milliseconds of a lone image of the chosen candidate: in a lane, and on all cores."""
    first = [m for m in measured if (m.tuning.num_lanes, m.tuning.threads) == layout]
    chosen = next(c for c in candidates if c.name == fastest(first))
    provider = first[0].provider
    wanted = [layout[1]] if provider in GPU_PROVIDERS or layout[1] == cores else [layout[1], cores]
    times = [
        tuning.measure(_opened(chosen, provider, threads), num_lanes=1, batch_sizes=(1,), seconds_each=seconds)[1]
        for threads in wanted
    ]
    return times[0] * 1000, times[1] * 1000 if len(times) > 1 else None


# -- choosing and showing -----------------------------------------------------------------------------


def compared(measured: Sequence[Measurement]) -> tuple[int, dict[str, float]]:
    """The batch at which the service compares number formats, and the images/s of each there."""
    batch = registry.GPU_BATCH if measured[0].provider in GPU_PROVIDERS else registry.CPU_BATCH
    return batch, {m.name: m.tuning.num_lanes * batch / m.tuning.seconds(batch) for m in measured}


def fastest(measured: Sequence[Measurement]) -> str:
    """The name that the service would serve, of measurements in one layout; the first is the base."""
    return tuning.fastest(compared(measured)[1], base=measured[0].name)


def choose(
    measured: Sequence[Measurement],
    layout: tuple[int, int],
    left_out: Sequence[str],
    alone: tuple[float, float | None],
) -> Choice:
    """The service's choice from these measurements; ``alone`` is the lone image's times in milliseconds."""
    first = [m for m in measured if (m.tuning.num_lanes, m.tuning.threads) == layout]
    name = fastest(first)
    chosen = next(m for m in first if m.name == name)
    lane, wide = alone
    reasons = [chosen.fallback] if chosen.fallback else []
    if len(first) > 1:
        batch, rates_by_name = compared(first)
        base, *others = rates_by_name.items()
        rates = ", ".join(f"{other} {rate:,.0f}" for other, rate in others)
        reasons.append(f"{base[0]} does {base[1]:,.0f} images/s in batches of {batch}, {rates}")
    if wide is not None:
        keeps = wide * (1 + tuning.MIN_GAIN) <= lane
        reasons.append(
            f"a lone image takes {lane:.1f} ms in a lane and {wide:.1f} ms on all cores: "
            f"{'it gets' if keeps else 'not worth'} a session of its own"
        )
    return Choice(
        name=name,
        provider=chosen.provider,
        num_lanes=chosen.tuning.num_lanes,
        threads=chosen.tuning.threads,
        max_batch=chosen.tuning.max_batch,
        images_per_second=chosen.tuning.images_per_second,
        lone_ms=lane,
        wide_ms=wide,
        reasons=(*reasons, *left_out),
    )


def table(measured: Sequence[Measurement]) -> Table:
    """A row for each batch size, a column for each candidate in each layout."""
    columns = [f"{m.name}, {m.tuning.num_lanes} × {m.tuning.threads}" for m in measured]
    shown = Table("batch", *columns, title="images/s (ms a batch), lanes × threads", title_justify="left", min_width=44)
    for batch in sorted(measured[0].tuning.batch_seconds):
        cells = [f"{m.images_per_second(batch):,.0f} ({m.tuning.batch_seconds[batch] * 1000:.1f})" for m in measured]
        shown.add_row(str(batch), *cells)
    return shown


def sentence(choice: Choice) -> str:
    """The choice in one line."""
    lanes = f"{choice.num_lanes} lane{'s' if choice.num_lanes > 1 else ''}"
    threads = f"{choice.threads} thread{'s' if choice.threads > 1 else ''}"
    return (
        f"The service will choose {choice.name} on {choice.provider}: {lanes} of {threads}, batches of up to "
        f"{choice.max_batch}, {choice.images_per_second:,.0f} images/s."
    )


def report(measured: Sequence[Measurement], choice: Choice, cores: int) -> dict[str, Any]:
    """Everything as JSON has it."""
    return {
        "cores": cores,
        "measured": [
            {
                "name": m.name,
                "provider": m.provider,
                "num_lanes": m.tuning.num_lanes,
                "threads": m.tuning.threads,
                "batches": [
                    {"images": batch, "seconds": seconds, "images_per_second": m.images_per_second(batch)}
                    for batch, seconds in sorted(m.tuning.batch_seconds.items())
                ],
            }
            for m in measured
        ],
        "choice": asdict(choice),
    }
