"""Loading: what is accepted goes by the speed of the champion, whoever else is loaded beside it."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.admission import Admission, Rate
from service.batcher import Lanes
from service.loading import Loader
from service.metrics import Metrics
from understudy.catalog import Catalog
from understudy.settings import ServiceSettings
from understudy.store import Store


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    """One lane."""
    with ThreadPoolExecutor(1) as executor:
        yield Lanes(executor, 1)


async def test_only_a_champion_changes_what_is_accepted(
    service_settings: ServiceSettings, opened: tuple[Catalog, Store], lanes: Lanes, challenge: Callable[..., str]
):
    """A challenger of another architecture is loaded and timed; the expected rate stays that of the champion."""
    catalog, store = opened
    rate = Rate(1.0, asyncio.get_running_loop().time)
    admission = Admission(rate, max_images=8, num_lanes=1)
    loader = Loader(store, catalog, service_settings, lanes, admission, Metrics())
    champion, slower = challenge(), challenge(size=256)

    await loader.load(champion)
    expected: Any = rate.per_second
    batcher = await loader.load_challenger(slower)

    assert expected > 10 * batcher.tuning.images_per_second
    assert rate.per_second == expected
