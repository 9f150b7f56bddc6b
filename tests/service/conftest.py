"""A plain HTTP client of the service that ``tests/conftest.py`` runs, and models that nobody promotes."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from understudy import registry
from understudy.catalog import Catalog
from understudy.store import Store
from understudy.testing import tiny_artifact


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    """A client of the running service."""
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def challenge(opened: tuple[Catalog, Store]) -> Callable[..., str]:
    """Publish a tiny model as a challenger, or one whose file is damaged; the version is the answer."""
    catalog, store = opened

    def published(classes: tuple[str, ...] = ("red", "green", "blue"), *, damaged: bool = False, **kwargs: Any) -> str:
        artifact, card = tiny_artifact(classes, **kwargs)
        registry.publish(store, catalog, card, artifact[:-1] if damaged else artifact, b"")
        return card.version

    return published
