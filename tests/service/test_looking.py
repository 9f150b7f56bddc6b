"""One query at a time, a few that wait, and no more."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from service.looking import Looker
from understudy.errors import Overloaded
from understudy.pseudo_labels import Looking


@pytest.fixture
def looking(sqlite_catalog: Any, local_store: Any, tmp_path: Path) -> Looking:
    return Looking(sqlite_catalog, local_store, tmp_path)


def test_more_than_may_wait_are_refused_at_once_and_the_loop_goes_on(looking: Looking):
    """The one that runs and those that wait are answered; a later one is taken again."""
    entered, release, running = threading.Event(), threading.Event(), []

    def query(given: Looking) -> str:
        entered.set()
        running.append(threading.current_thread().name)
        assert release.wait(30)
        return "told"

    async def ask() -> None:
        looker = Looker(looking, max_waiting=1)
        first, second = (asyncio.ensure_future(looker.look(query)) for _ in range(2))
        assert await asyncio.to_thread(entered.wait, 30)
        with pytest.raises(Overloaded, match="2 queries") as refused:
            await looker.look(query)
        assert refused.value.retry_after_s > 0
        assert len(running) == 1
        release.set()
        assert await asyncio.gather(first, second) == ["told", "told"]
        await asyncio.sleep(0)
        assert await looker.look(query) == "told"
        looker.close()

    asyncio.run(ask())
    assert set(running) == {"look_0"}


def test_a_query_whose_client_has_left_counts_until_it_ends(looking: Looking):
    """Its thread works on, so its place is not given away."""
    entered, release = threading.Event(), threading.Event()

    def query(given: Looking) -> None:
        entered.set()
        assert release.wait(30)

    async def ask() -> None:
        looker = Looker(looking, max_waiting=0)
        left = asyncio.ensure_future(looker.look(query))
        assert await asyncio.to_thread(entered.wait, 30)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        with pytest.raises(Overloaded):
            await looker.look(query)
        release.set()
        looker.close()

    asyncio.run(ask())


def test_what_a_query_raises_is_raised(looking: Looking):
    """And its place is free again."""

    def query(given: Looking) -> None:
        raise KeyError("broken")

    async def ask() -> None:
        looker = Looker(looking, max_waiting=0)
        for _ in range(3):
            with pytest.raises(KeyError):
                await looker.look(query)
            await asyncio.sleep(0)
        looker.close()

    asyncio.run(ask())
