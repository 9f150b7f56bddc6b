"""The registry: model versions as objects in the store and rows in the catalog, and loading them.

A version's card is written last: it is there, so the version is whole. Nothing here moves the
champion; that is one row in ``catalog/versions.py``.
"""

import hashlib

from understudy import engine
from understudy.catalog import Catalog, versions
from understudy.engine import Engine
from understudy.errors import ArtifactRefused, NoChampion
from understudy.records import ModelCard
from understudy.store import Store, model_key


def version_id(generation: int, artifact: bytes) -> str:
    """``g0003-8f2c1a``: the generation, and the beginning of the artifact's sha-256."""
    return f"g{generation:04d}-{hashlib.sha256(artifact).hexdigest()[:6]}"


def publish(store: Store, catalog: Catalog, card: ModelCard, artifact: bytes, weights: bytes) -> None:
    """Write a version's files, its card last, and register it as a challenger. Twice is once."""
    store.put(card.artifact_key, artifact)
    store.put(card.weights_key, weights)
    store.put(model_key(card.version, "card.json"), card.to_json())
    versions.register(catalog, card)


def load(store: Store, catalog: Catalog, version: str, *, provider: str = "auto", threads: int = 0) -> Engine:
    """A version's engine, verified and warm. Raises NotFound, ArtifactRefused."""
    card = versions.get(catalog, version).card
    try:
        artifact = store.get(card.artifact_key)
    except FileNotFoundError as error:
        raise ArtifactRefused(f"the file of model {version} is missing from the store", code="missing") from error
    return engine.load(artifact, card, provider=provider, threads=threads)


def champion(catalog: Catalog) -> str:
    """The version that serves. Raises NoChampion."""
    newest = versions.champion(catalog)
    if newest is None:
        raise NoChampion(
            "no model has been promoted yet; send a labeled set with `understudy init` or POST /labeled, "
            "and wait for generation 0"
        )
    return newest.version
