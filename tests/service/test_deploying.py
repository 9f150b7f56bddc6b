"""Following deployments: each process loads, reports and judges by itself, and all of them come to the same end."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.bodies import Budget
from service.deploying import DeploymentFollower
from service.metrics import Metrics
from service.traffic import Traffic
from understudy import registry
from understudy.catalog import Catalog, deployments, versions
from understudy.errors import ArtifactRefused
from understudy.records import Deployment, DeploymentKind, DeploymentRequest, DeploymentState, Limits
from understudy.store import Store
from understudy.testing import tiny_artifact


class Loaded:
    """Stands where a batcher does."""

    def __init__(self, version: str) -> None:
        self.engine: Any = self
        self.version = version


class Process:
    """One service process: its traffic, its follower, and what its loading comes to."""

    def __init__(self, catalog: Catalog, champion: str) -> None:
        self.metrics = Metrics()
        self.traffic = Traffic(Budget(100, timeout_s=1), has_room=lambda: True)
        self.champion, self.fault, self.loaded = champion, None, list[str]()
        self.fault: Exception | None = None
        self.follower = DeploymentFollower(
            catalog,
            self.traffic,
            load=self.load,  # type: ignore[arg-type]
            champion=lambda: self.champion,
            metrics=self.metrics,
        )

    async def load(self, version: str) -> Any:
        self.loaded.append(version)
        if self.fault:
            raise self.fault
        return Loaded(version)

    @property
    def serves(self) -> str | None:
        return self.traffic.deployed and self.traffic.deployed.batcher.engine.version  # type: ignore[return-value]

    def counted(self, *, images: int, errors: int = 0) -> None:
        """As if the challenger had been asked so often, and had failed at the first."""
        assert self.traffic.deployed is not None
        for number in range(images):
            fault = RuntimeError("out of memory") if number < errors else None
            self.traffic.deployed.answered("challenger", 1, 0.001, fault)


@pytest.fixture
def pair(sqlite_catalog: Catalog, local_store: Store) -> tuple[str, str]:
    """A champion and a challenger in the catalog."""
    names = []
    for generation in (0, 1):
        artifact, card = tiny_artifact(("a", "b"), generation=generation, sharpness=3.0 + generation)
        registry.publish(local_store, sqlite_catalog, card, artifact, b"")
        names.append(card.version)
    with sqlite_catalog.write() as session:
        versions.promote(session, names[0], instead_of=None, reason="test", actor="test")
    return names[0], names[1]


@pytest.fixture
def process(sqlite_catalog: Catalog, pair: tuple[str, str]) -> Callable[[], Process]:
    return lambda: Process(sqlite_catalog, pair[0])


@pytest.fixture
def deploy(sqlite_catalog: Catalog, pair: tuple[str, str]) -> Callable[..., Deployment]:
    """Open a deployment of the challenger."""

    def opened(**fields: Any) -> Deployment:
        asked = {"version": pair[1], "kind": DeploymentKind.CANARY, "share": 0.5} | fields
        return deployments.open_deployment(sqlite_catalog, DeploymentRequest(**asked), actor="test")

    return opened


async def test_every_process_follows_and_stops(
    sqlite_catalog: Catalog, process: Callable[[], Process], deploy: Callable[..., Deployment]
):
    """A look at the catalog is enough to begin, and to stop when somebody has ended it."""
    one, other = process(), process()
    await one.follower.step()
    assert one.serves is None
    made = deploy()
    for each in (one, other):
        await each.follower.step()
        await each.follower.step()
        assert (each.serves, each.loaded) == (made.version, [made.version])
    assert b'understudy_deployment_share{kind="canary"' in one.metrics.render()
    deployments.end(sqlite_catalog, made.id, "enough", actor="test")
    for each in (one, other):
        await each.follower.step()
        assert each.serves is None
    assert b"understudy_deployment_share{" not in one.metrics.render()


async def test_what_one_process_sees_by_the_counts_of_all_stops_all(
    sqlite_catalog: Catalog, process: Callable[[], Process], deploy: Callable[..., Deployment]
):
    """Neither alone has seen enough errors; together they have, and the second to report withdraws."""
    one, other = process(), process()
    made = deploy(limits=Limits(min_images=100, max_error_rate_increase=0.05))
    for each in (one, other):
        await each.follower.step()
        each.counted(images=4, errors=3)
    await one.follower.step()
    assert one.serves == made.version
    await other.follower.step()
    assert other.serves is None
    await one.follower.step()
    assert one.serves is None
    over = deployments.get(sqlite_catalog, made.id)
    assert over.state == DeploymentState.WITHDRAWN
    assert over.reason is not None
    assert over.reason.startswith("6 of its 8 requests failed")
    assert over.reason.endswith("the newest failure: out of memory")
    assert over.counts.challenger_errors == 6
    assert b'understudy_deployments_withdrawn_total{cause="errors"} 1.0' in other.metrics.render()
    assert b"understudy_deployments_withdrawn_total{" not in one.metrics.render()


async def test_one_that_cannot_be_loaded_is_withdrawn_with_the_reason(
    sqlite_catalog: Catalog, process: Callable[[], Process], deploy: Callable[..., Deployment]
):
    """By the first process that tries; the next does not try any more."""
    one, other = process(), process()
    one.fault = ArtifactRefused("its checksum is wrong")
    made = deploy()
    await one.follower.step()
    await other.follower.step()
    assert (one.serves, other.serves, other.loaded) == (None, None, [])
    over = deployments.get(sqlite_catalog, made.id)
    assert (over.state, over.reason) == (DeploymentState.WITHDRAWN, "it cannot be loaded: its checksum is wrong")


async def test_a_store_that_is_away_is_not_the_challengers_fault(
    sqlite_catalog: Catalog, process: Callable[[], Process], deploy: Callable[..., Deployment]
):
    """It stays active, and is tried again after a while, not at every look."""
    one = process()
    one.fault = ConnectionError("away")
    made = deploy()
    with pytest.raises(ConnectionError):
        await one.follower.step()
    await one.follower.step()
    assert len(one.loaded) == 1
    assert deployments.get(sqlite_catalog, made.id).state == DeploymentState.ACTIVE


async def test_nothing_is_loaded_before_the_champion_that_it_is_compared_with(
    process: Callable[[], Process], deploy: Callable[..., Deployment]
):
    """A process that starts loads the champion first."""
    one = process()
    made = deploy()
    champion, one.champion = one.champion, None  # type: ignore[assignment]
    await one.follower.step()
    assert one.loaded == []
    one.champion = champion
    await one.follower.step()
    assert one.serves == made.version


async def test_while_the_catalog_is_away_each_process_judges_by_what_it_knows(
    sqlite_catalog: Catalog, tmp_path: Path, process: Callable[[], Process], deploy: Callable[..., Deployment]
):
    """Counts are kept, a bad canary is stopped at once, stays so, and is withdrawn when the catalog is back."""
    one = process()
    made = deploy(limits=Limits(min_images=100, max_error_rate_increase=0.05))
    await one.follower.step()
    one.counted(images=3, errors=3)
    # Without its table every statement fails, as without its server.
    rename(sqlite_catalog, "deployments", "away")
    with pytest.raises(Exception, match="no such table"):
        await one.follower.step()
    assert one.serves == made.version
    one.counted(images=3, errors=3)
    for _ in range(2):
        with pytest.raises(Exception, match="no such table"):
            await one.follower.step()
        assert one.serves is None
    rename(sqlite_catalog, "away", "deployments")
    await one.follower.step()
    assert one.serves is None
    over = deployments.get(sqlite_catalog, made.id)
    assert over.state == DeploymentState.WITHDRAWN
    assert "6 of its 6 requests failed" in str(over.reason)


def rename(catalog: Catalog, old: str, new: str) -> None:
    with catalog.write() as session:
        session.connection().exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")


async def test_following_survives_whatever_fails(process: Callable[[], Process], deploy: Callable[..., Deployment]):
    """An error is logged, and the next look goes on from there."""
    one = process()
    champion = one.champion
    looks = iter([OSError("away")])

    def serving() -> str:
        for fault in looks:
            raise fault
        return champion

    one.follower._champion = serving
    made = deploy()
    following = asyncio.create_task(one.follower.follow(poll_s=0.001))
    async with asyncio.timeout(10):
        while one.serves != made.version:
            await asyncio.sleep(0.001)
    following.cancel()
