"""Micro-batching: prepared images wait in a queue, and leave it together for a lane that is free.

A batch leaves when it is full, or when waiting for one more no longer pays: that follows from the
engine's measured seconds a batch and from how fast images arrive. It knows nothing of HTTP or of swaps.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from understudy.engine import Engine, Probabilities
from understudy.errors import DeadlineExceeded
from understudy.images import Pixels
from understudy.tuning import Tuning

#: How one image becomes input: called in a thread of the decoders' pool. Raises ImageRefused.
Prepare = Callable[[], Pixels]

#: The interval between arrivals is an exponential mean over about this many of them.
ARRIVALS_REMEMBERED = 8


@dataclass(frozen=True)
class Lanes:
    """Where work is done, off the event loop: ``executor`` runs batches, ``decoders`` makes input beside it."""

    executor: Executor
    decoders: Executor
    num_lanes: int  #: batches that run at the same time
    threads: int = 1  #: of each, on a CPU


@dataclass
class Arrivals:
    """How far apart images arrive: what decides whether company is worth waiting for."""

    interval_s: float = float("inf")
    _last: float | None = None

    def note(self, now: float) -> None:
        """One arrived."""
        if self._last is not None:
            elapsed = now - self._last
            known = self.interval_s if self.interval_s < float("inf") else elapsed
            self.interval_s = known + (elapsed - known) / ARRIVALS_REMEMBERED
        self._last = now


class Waiting(NamedTuple):
    """One prepared image in the queue."""

    pixels: Pixels
    deadline: float  # by the event loop's clock
    answer: asyncio.Future[Probabilities]


@dataclass(eq=False)
class Batcher:
    """One engine's queue. Every batch of it ends on the engine that it began with.

    ``lone`` is the same version loaded with all cores for one call: it answers an image that has the
    machine to itself, which ``is_alone`` tells. None: the engine has all of the machine anyway.
    """

    engine: Engine
    tuning: Tuning
    lanes: Lanes
    lone: Engine | None = None
    is_alone: Callable[[], bool] = lambda: False
    max_wait_s: float = float("inf")  #: no batch waits longer for company, whatever it is worth
    on_batch: Callable[[int, float], None] = lambda num_images, seconds: None
    arrivals: Arrivals = field(default_factory=Arrivals)
    _waiting: deque[Waiting] = field(default_factory=deque)
    _num_busy: int = 0
    _timer: asyncio.TimerHandle | None = None

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def classify(self, prepare: Prepare, deadline: float) -> Probabilities:
        """Probabilities of one image: ``prepare`` gives (size, size, 3) uint8 → (C,) float32.

        ``deadline`` is by the event loop's clock. Raises DeadlineExceeded when it passes first, and what
        ``prepare`` raises. A caller that is cancelled is dropped before its image costs anything more.
        """
        loop = asyncio.get_running_loop()
        if self.lone is not None and self._num_busy == 0 and self.is_alone():
            return await self._alone(self.lone, prepare)
        pixels = await loop.run_in_executor(self.lanes.decoders, _in_time, prepare, deadline, loop.time)
        return await self.predict(pixels, deadline)

    async def predict(self, pixels: Pixels, deadline: float) -> Probabilities:
        """The same for an image that is prepared: (size, size, 3) uint8 → (C,) float32."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Probabilities] = loop.create_future()
        self._waiting.append(Waiting(pixels, deadline, answer))
        self.arrivals.note(loop.time())
        self._dispatch()
        return await answer

    async def _alone(self, lone: Engine, prepare: Prepare) -> Probabilities:
        """Decode and predict in one go: nobody waits, so two stages would gain nothing but a handover."""
        loop = asyncio.get_running_loop()
        self._num_busy += 1
        began = loop.time()
        running = loop.run_in_executor(self.lanes.executor, lambda: lone.predict(prepare()[np.newaxis])[0])
        # The lane is free when the work has ended, not when its client has gone.
        running.add_done_callback(lambda done: self._ended(1, loop.time() - began, done))
        return await asyncio.shield(running)

    def _dispatch(self, *, is_patient: bool = True) -> None:
        """Send off as many batches as there are free lanes and reasons."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._num_busy < self.lanes.num_lanes and self._drop_the_late(loop.time()):
            if is_patient and (wait_s := self._worth_waiting()) > 0:
                self._timer = loop.call_later(wait_s, lambda: self._dispatch(is_patient=False))
                return
            self._send(loop)

    def _worth_waiting(self) -> float:
        """How long company is worth waiting for, in seconds: 0 if the batch shall leave now.

        With n images waiting for the last free lane and t(n) the seconds of a batch: sent off now, the next
        to arrive, d from now, waits t(n) - d for the lane and takes t(1). Waited for, it takes t(n + 1), and
        the n others d + t(n + 1) - t(n) more each. In the sum waiting pays while
        d < t(1) / (n + 1) - (t(n + 1) - t(n)): on a CPU, where t grows with n, never; on a GPU, where it
        hardly does, at high rates.
        """
        num = len(self._waiting)
        if num >= self.tuning.max_batch or self._num_busy < self.lanes.num_lanes - 1:
            return 0.0
        seconds = self.tuning.seconds
        gain_s = seconds(1) / (num + 1) - (seconds(num + 1) - seconds(num))
        return min(gain_s, self.max_wait_s) if self.arrivals.interval_s < gain_s else 0.0

    def _drop_the_late(self, now: float) -> bool:
        """Take whose client has gone or whose time is over from the queue's head; whether anybody is left."""
        while self._waiting:
            head = self._waiting[0]
            if not head.answer.done() and head.deadline > now:
                return True
            if not head.answer.done():
                head.answer.set_exception(_too_late())
            self._waiting.popleft()
        return False

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        """One batch to one lane: an even share of what waits, so that no lane idles beside a full one or soon will."""
        share = min(self.tuning.max_batch, -(-len(self._waiting) // self.lanes.num_lanes))
        batch: list[Waiting] = []
        while len(batch) < share and self._drop_the_late(loop.time()):
            batch.append(self._waiting.popleft())
        if not batch:
            return
        self._num_busy += 1
        began = loop.time()
        running = loop.run_in_executor(self.lanes.executor, self._run, [waiting.pixels for waiting in batch])
        running.add_done_callback(lambda done: self._answer(batch, loop.time() - began, done))

    def _run(self, inputs: list[Pixels]) -> Probabilities:
        return self.engine.predict(np.stack(inputs))

    def _answer(self, batch: list[Waiting], seconds: float, done: asyncio.Future[Probabilities]) -> None:
        error = done.exception()
        for index, waiting in enumerate(batch):
            if waiting.answer.done():
                continue
            if error is not None:
                waiting.answer.set_exception(error)
            else:
                waiting.answer.set_result(done.result()[index])
        self._ended(len(batch), seconds, done)

    def _ended(self, num_images: int, seconds: float, done: asyncio.Future[Probabilities]) -> None:
        self._num_busy -= 1
        if done.exception() is None:
            self.on_batch(num_images, seconds)
        self._dispatch()


def _in_time(prepare: Prepare, deadline: float, clock: Callable[[], float]) -> Pixels:
    """Prepare an image whose turn has come, unless it has come too late."""
    if deadline <= clock():
        raise _too_late()
    return prepare()


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the request's time is over before its turn came; give it more with X-Request-Timeout-Ms")
