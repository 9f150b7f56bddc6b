"""Micro-batching: images wait in a queue, and leave it together for a lane that is free.

A batch leaves when it is full, or when waiting for one more no longer pays: that follows from the
engine's measured seconds a batch and from how fast images arrive. It knows nothing of HTTP or of swaps.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from understudy.engine import Engine, Probabilities
from understudy.errors import DeadlineExceeded
from understudy.images import Pixels
from understudy.tuning import Tuning

#: How one image becomes input: called in a thread of the decoders' pool. Raises ImageRefused.
Prepare = Callable[[], Pixels]

#: How a row of probabilities becomes what is asked for: called in a lane too. (C,) float32 → anything.
Finish = Callable[[Probabilities], Any]

#: The interval between arrivals is an exponential mean over about this many of them.
ARRIVALS_REMEMBERED = 8


@dataclass(frozen=True)
class Lanes:
    """Where work is done, off the event loop: ``executor`` runs batches, as many at once as there are lanes.

    On a CPU a lane also decodes the images of its batch: every core is busy either way, and an image that stays
    on one is not handed over twice. On a GPU ``decoders`` do it beside the one lane, so that it never waits.
    """

    executor: Executor
    num_lanes: int  #: batches that run at the same time
    threads: int = 1  #: of each, on a CPU
    decoders: Executor | None = None
    lone: Executor | None = None  #: for an image that gets all cores; None: a lane, which may be bound to one of them


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
    """One image in the queue."""

    prepare: Prepare
    finish: Finish
    deadline: float  # by the event loop's clock
    answer: asyncio.Future[Any]


def _as_it_is(row: Probabilities) -> Probabilities:
    return row


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
    _num_busy: int = 0  #: lanes that have a batch of ours
    _lock: threading.Lock = field(default_factory=threading.Lock)  #: of what waits and who is busy
    _timer: asyncio.TimerHandle | None = None

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def classify(self, prepare: Prepare, deadline: float, finish: Finish = _as_it_is) -> Any:
        """What ``finish`` makes of one image's probabilities, (C,) float32; ``prepare`` gives (size, size, 3) uint8.

        Both are called off the event loop. ``deadline`` is by the event loop's clock. Raises DeadlineExceeded
        when it passes first, and what ``prepare`` raises. A caller that is cancelled is dropped before its
        image costs anything more.
        """
        if self.lanes.decoders is None:
            return await self._enqueue(prepare, deadline, finish)
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self.lanes.decoders, _in_time, prepare, deadline)
        return await self._enqueue(lambda: pixels, deadline, finish)

    async def predict(self, pixels: Pixels, deadline: float) -> Probabilities:
        """Probabilities, (C,) float32, of an image that is prepared: (size, size, 3) uint8. Raises DeadlineExceeded."""
        row: Probabilities = await self._enqueue(lambda: pixels, deadline, _as_it_is)
        return row

    def _enqueue(self, prepare: Prepare, deadline: float, finish: Finish) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self.arrivals.note(loop.time())
        with self._lock:
            self._waiting.append(Waiting(prepare, finish, deadline, answer))
        self._dispatch()
        return answer

    def _dispatch(self, *, is_patient: bool = True) -> None:
        """Send off as many batches as there are free lanes and reasons."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with self._lock:
            while self._num_busy < self.lanes.num_lanes and self._drop_the_late(loop.time()):
                if is_patient and (wait_s := self._worth_waiting(self._num_busy)) > 0:
                    self._timer = loop.call_later(wait_s, lambda: self._dispatch(is_patient=False))
                    return
                is_lone = self._num_busy == 0 and len(self._waiting) == 1 and self.lone is not None and self.is_alone()
                self._num_busy += 1
                self._send(loop, self._taken(), is_lone=is_lone)

    def _worth_waiting(self, num_busy: int) -> float:
        """How long company is worth waiting for, in seconds: 0 if the batch shall leave now.

        With n images waiting for the last free lane and t(n) the seconds of a batch: sent off now, the next
        to arrive, d from now, waits t(n) - d for the lane and takes t(1). Waited for, it takes t(n + 1), and
        the n others d + t(n + 1) - t(n) more each. In the sum waiting pays while
        d < t(1) / (n + 1) - (t(n + 1) - t(n)): on a CPU, where t grows with n, never; on a GPU, where it
        hardly does, at high rates.
        """
        num = len(self._waiting)
        if num >= self.tuning.max_batch or num_busy < self.lanes.num_lanes - 1:
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

    def _taken(self) -> list[Waiting]:
        """The next batch: an even share of what waits, so that no lane idles beside a full one or soon will."""
        share = min(self.tuning.max_batch, -(-len(self._waiting) // self.lanes.num_lanes))
        return [self._waiting.popleft() for _ in range(share)]

    def _send(self, loop: asyncio.AbstractEventLoop, batch: list[Waiting], *, is_lone: bool = False) -> None:
        """A batch to a lane. Not by run_in_executor: its futures and their chaining cost as much as all the rest here."""
        executor = (self.lanes.lone if is_lone else None) or self.lanes.executor
        executor.submit(self._work, loop, batch, is_lone=is_lone)

    def _work(self, loop: asyncio.AbstractEventLoop, batch: list[Waiting], *, is_lone: bool) -> None:
        """A batch, in its lane; and the next one follows behind whatever else waits for a lane.

        Sent off by the lane, not by the event loop that it would have to wait for.
        """
        engine = self.lone if is_lone and self.lone is not None else self.engine
        began = time.perf_counter()
        try:
            answers = _run(engine, batch, self.tuning.seconds(1))
        except Exception as error:
            answers = [error] * len(batch)
        seconds = time.perf_counter() - began
        following = [] if is_lone else self._following()
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(self._answer, batch, answers, seconds, not following)
        if following:
            with suppress(RuntimeError):  # the lanes have
                self._send(loop, following)

    def _following(self) -> list[Waiting]:
        """What the lane that asks takes next; nothing if nothing waits, or waits for company."""
        with self._lock:
            return self._taken() if self._waiting and self._worth_waiting(self._num_busy - 1) == 0 else []

    def _answer(self, batch: Sequence[Waiting], answers: Sequence[Any], seconds: float, is_free: bool) -> None:
        if is_free:
            with self._lock:
                self._num_busy -= 1
            self._dispatch()  # first, so that the lane works while these are being answered
        num_predicted = 0
        for waiting, answer in zip(batch, answers, strict=True):
            is_fault = isinstance(answer, BaseException)
            num_predicted += not is_fault
            if waiting.answer.done():
                continue
            if is_fault:
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)
        if num_predicted:
            self.on_batch(num_predicted, seconds)


def _run(engine: Engine, batch: Sequence[Waiting], needed_s: float) -> list[Any]:
    """An answer or an error for each image: one that cannot be prepared harms no other.

    What has less than ``needed_s`` left is not begun: an answer that comes too late costs as much as one in time.
    """
    answers: dict[int, Any] = {}
    inputs: dict[int, Pixels] = {}
    for index, waiting in enumerate(batch):
        if waiting.answer.done():  # its client has gone: nobody hears this
            answers[index] = _too_late()
            continue
        try:
            inputs[index] = _in_time(waiting.prepare, waiting.deadline - needed_s)
        except Exception as error:
            answers[index] = error
    if inputs:
        rows = engine.predict(np.stack(list(inputs.values())))
        answers |= {index: batch[index].finish(row) for index, row in zip(inputs, rows, strict=True)}
    return [answers[index] for index in range(len(batch))]


def _in_time(prepare: Prepare, deadline: float) -> Pixels:
    """Prepare an image whose turn has come, unless it has come too late."""
    if deadline <= time.monotonic():  # the clock of asyncio's and of uvloop's event loops
        raise _too_late()
    return prepare()


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the request's time is over before its turn came; give it more with X-Request-Timeout-Ms")
