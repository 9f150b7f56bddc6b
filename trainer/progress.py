"""How far a generation is, and whether it may go on: shown in the catalog, asked between two pieces of work.

A trainer stops in two ways only: its lease was lost (LeaseLost: write nothing more), or somebody asked
this process to end (Stopped: what is done is in the store, another trainer goes on from there).
"""

import threading
import time
from collections.abc import Callable

from understudy.catalog import Catalog, jobs
from understudy.catalog.claims import Claim
from understudy.records import TrainingProgress

#: People look at most this often, and each report is a transaction.
MIN_INTERVAL_S = 0.5


class Stopped(Exception):
    """This process was asked to end; the work goes back unharmed."""


class Progress:
    """Reports the steps of one claimed generation; cheap enough to call after every batch."""

    def __init__(
        self,
        catalog: Catalog,
        claim: Claim,
        stopping: threading.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog, self._claim, self._stopping, self._clock = catalog, claim, stopping, clock
        self._step, self._reported_at = "", 0.0

    def show(self, step: str, done: int, total: int | None, metrics: TrainingProgress | None = None) -> None:
        """Show ``done`` of ``total`` units of a step, and figures, at most twice a second. Raises LeaseLost."""
        self._claim.check()
        is_edge = step != self._step or done == total
        if is_edge or self._clock() - self._reported_at >= MIN_INTERVAL_S:
            jobs.progress(self._catalog, self._claim, step, done, total, metrics)
            self._step, self._reported_at = step, self._clock()

    @property
    def is_stopping(self) -> bool:
        """Whether this process was asked to end."""
        return self._stopping.is_set()

    def check(self) -> None:
        """Raise Stopped or LeaseLost if the work must not go on."""
        self._claim.check()
        if self.is_stopping:
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Do nothing for a while. Raises Stopped or LeaseLost."""
        self._stopping.wait(seconds)
        self.check()
