"""A plain HTTP client of the service that ``tests/conftest.py`` runs."""

from collections.abc import Iterator

import httpx
import pytest


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    """A client of the running service."""
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client
