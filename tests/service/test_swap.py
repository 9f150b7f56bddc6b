"""The swap: what runs ends where it began, what fails leaves the old engine serving."""

import asyncio
from typing import Any

import pytest

from service.swap import ChampionFollower, EngineSlot
from understudy.errors import ArtifactRefused, NoChampion


class Named:
    """Stands where a batcher does: only its engine's version is asked for."""

    num_waiting = 0

    def __init__(self, version: str) -> None:
        self.engine: Any = self
        self.version = version


def test_before_the_first_champion_a_lease_says_what_to_do():
    """No model: the error names the command that brings one."""
    with pytest.raises(NoChampion, match="understudy init"), EngineSlot().lease():
        pass


def test_a_request_ends_on_the_engine_it_began_with_and_the_next_gets_the_new_one():
    """A swap between changes the next lease, not this one."""
    slot = EngineSlot()
    slot.swap(Named("old"))  # type: ignore[arg-type]
    with slot.lease() as running:
        drained = slot.swap(Named("new"))  # type: ignore[arg-type]
        assert running.engine.version == "old"
        assert not drained.is_set()
        with slot.lease() as following:
            assert following.engine.version == "new"
    assert drained.is_set()


def test_an_idle_engine_is_drained_at_once():
    """Nobody holds it: nothing to wait for."""
    slot = EngineSlot()
    slot.swap(Named("old"))  # type: ignore[arg-type]
    assert slot.swap(Named("new")).is_set()  # type: ignore[arg-type]


class Champions:
    """A catalog and a registry in miniature."""

    def __init__(self) -> None:
        self.version: str | None = None
        self.broken: set[str] = set()
        self.loaded: list[str] = []

    async def current(self) -> str | None:
        return self.version

    async def load(self, version: str) -> Any:
        self.loaded.append(version)
        if version in self.broken:
            raise ArtifactRefused("its checksum is wrong")
        return Named(version)


def follower(champions: Champions) -> tuple[EngineSlot, ChampionFollower]:
    slot = EngineSlot()
    return slot, ChampionFollower(slot, current=champions.current, load=champions.load)


async def test_a_new_champion_is_loaded_once_and_swapped_in():
    """Looking again at the same champion costs nothing."""
    champions = Champions()
    slot, following = follower(champions)
    await following.step()
    assert slot.version is None
    champions.version = "a"
    await following.step()
    await following.step()
    assert slot.version == "a"
    assert champions.loaded == ["a"]


async def test_a_champion_that_cannot_be_loaded_leaves_the_old_one_serving_and_says_why():
    """The reason is kept to be shown, and the broken one is not tried at every look."""
    champions = Champions()
    slot, following = follower(champions)
    champions.version = "good"
    await following.step()
    champions.version, champions.broken = "bad", {"bad"}
    await following.step()
    await following.step()
    assert slot.version == "good"
    assert following.refused == {"bad": "its checksum is wrong"}
    assert champions.loaded == ["good", "bad"]
    champions.version = "better"
    await following.step()
    assert slot.version == "better"


async def test_following_survives_a_catalog_that_is_away():
    """An error of the catalog is logged; the next look finds the champion."""
    champions = Champions()
    slot = EngineSlot()
    faults = iter([OSError("away")])

    async def current() -> str | None:
        for fault in faults:
            raise fault
        return "a"

    following = asyncio.create_task(ChampionFollower(slot, current=current, load=champions.load).follow(poll_s=0.001))
    async with asyncio.timeout(10):
        while slot.version != "a":
            await asyncio.sleep(0.001)
    following.cancel()
