"""Pseudo-labels of the test's own, and what looks at them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.catalog import Catalog
from understudy.pseudo_labels import Looking
from understudy.store import Store


@pytest.fixture
def world(teaching: Callable[..., Any], sqlite_catalog: Catalog, local_store: Store) -> Any:
    """Pseudo-labels can be published here."""
    return teaching(sqlite_catalog, local_store)


@pytest.fixture
def looking(sqlite_catalog: Catalog, local_store: Store, tmp_path: Path) -> Looking:
    """Where they are looked at."""
    return Looking(sqlite_catalog, local_store, tmp_path / "spool", threads=1)
