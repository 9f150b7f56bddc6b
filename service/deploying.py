"""Keeps a process on the active deployment: loads the challenger, reports what was counted, withdraws what is worse.

Every process does so by itself and they meet in the catalog: whichever sees first that a limit is passed
withdraws the challenger for all. While the catalog is away, each goes on by what it knows.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool

from service import limits, memory
from service.batcher import Batcher
from service.metrics import Metrics
from service.traffic import Deployed, Traffic
from understudy.catalog import Catalog, deployments
from understudy.errors import NotFound, UnderstudyError
from understudy.records import Counts, Deployment

log = logging.getLogger(__name__)

#: A challenger that could not be loaded for a passing reason is tried again after this long.
RETRY_AFTER_S = 10.0


class DeploymentFollower:
    """Keeps the traffic of a process on the deployment that the catalog says is active."""

    def __init__(
        self,
        catalog: Catalog,
        traffic: Traffic,
        *,
        load: Callable[[str], Awaitable[Batcher]],
        champion: Callable[[], str | None],
        metrics: Metrics,
    ) -> None:
        """``champion`` says which version serves in this process: only beside that one a challenger is loaded."""
        self._catalog, self._traffic, self._metrics = catalog, traffic, metrics
        self._load, self._champion = load, champion
        self._known = Counts()  # of all processes, at the last report
        self._condemned: dict[str, tuple[str, str]] = {}  # id to cause and reason, until the catalog knows
        self._not_before = 0.0
        self._is_away = False
        self._has_stopped = False

    async def step(self) -> None:
        """Report and judge; withdraw what failed; then follow the catalog."""
        if self._has_stopped:  # by now its last request has let go of it
            self._has_stopped = False
            await run_in_threadpool(memory.trim)
        if self._traffic.deployed is not None:
            await self._report(self._traffic.deployed)
        for deployment_id, (cause, reason) in list(self._condemned.items()):
            await self._withdraw(deployment_id, cause, reason)
        active = await run_in_threadpool(deployments.active, self._catalog)
        serving = self._traffic.deployed
        if serving is not None and (active is None or active.id != serving.deployment.id):
            self._stop()
            log.info("deployment %s of %s is over", serving.deployment.id, serving.deployment.version)
        if active is not None and self._traffic.deployed is None and self._champion() == active.champion:
            await self._start(active)

    async def follow(self, poll_s: float) -> None:
        """Look for ever. Whatever fails (the catalog is away), the champion answers."""
        while True:
            try:
                await self.step()
                self._is_away = False
            except Exception:
                if not self._is_away:  # once, not at every look
                    log.exception("could not follow the deployments; what is known goes on counting")
                self._is_away = True
            await asyncio.sleep(poll_s)

    async def _report(self, deployed: Deployed) -> None:
        counts = deployed.take()
        try:
            seen = await run_in_threadpool(deployments.add, self._catalog, deployed.deployment.id, counts)
        except NotFound:
            self._stop()  # another catalog is in its place
            raise
        except Exception:
            deployed.give_back(counts)
            self._judge(deployed, _sum(self._known, deployed.pending()))
            raise
        self._known = seen.counts
        self._judge(deployed, seen.counts)

    def _judge(self, deployed: Deployed, counts: Counts) -> None:
        deployment = deployed.deployment
        fault = limits.fault_of(deployment.kind, deployment.limits, counts)
        if fault is not None:
            self._stop()
            last = f"; the newest failure: {deployed.error}" if fault.cause == "errors" and deployed.error else ""
            self._condemned[deployment.id] = (fault.cause, fault.reason + last)

    async def _withdraw(self, deployment_id: str, cause: str, reason: str) -> None:
        withdrew = await run_in_threadpool(deployments.withdraw, self._catalog, deployment_id, reason)
        del self._condemned[deployment_id]
        if withdrew:
            self._metrics.deployments_withdrawn.labels(cause).inc()
            log.warning("deployment %s is withdrawn: %s", deployment_id, reason)

    async def _start(self, active: Deployment) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._not_before:
            return
        try:
            batcher = await self._load(active.version)
        except UnderstudyError as error:
            await self._withdraw_unloaded(active, error)
            return
        except Exception:
            self._not_before = now + RETRY_AFTER_S  # the store is away: that is not the challenger's fault
            raise
        self._known = active.counts
        self._metrics.deployed(active.version, active.kind, active.share)
        self._traffic.deployed = Deployed(active, batcher, self._metrics)
        log.info("%s is a %s with %g of the requests", active.version, active.kind, active.share)

    async def _withdraw_unloaded(self, active: Deployment, error: UnderstudyError) -> None:
        reason = f"it cannot be loaded: {error}"
        self._condemned[active.id] = ("load", reason)
        await self._withdraw(active.id, "load", reason)

    def _stop(self) -> None:
        deployed, self._traffic.deployed = self._traffic.deployed, None
        if deployed is not None:
            self._has_stopped = True
            self._metrics.deployed(deployed.deployment.version, deployed.deployment.kind, 0.0)


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(**{name: count + getattr(other, name) for name, count in one.model_dump().items()})
