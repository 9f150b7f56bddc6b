"""Micro-batching: requests wait in one bounded queue, and leave it together.

A batch leaves as soon as a lane is free and takes whatever waits by then, so a lone request never
waits for company and a busy engine always gets full batches. It knows nothing of HTTP or of swaps.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from understudy.engine import Engine, Probabilities
from understudy.errors import Overloaded
from understudy.images import Pixels


@dataclass(frozen=True)
class Lanes:
    """Where batches run: ``num_lanes`` at a time, each of at most ``max_batch`` images, off the event loop."""

    executor: Executor
    num_lanes: int
    max_batch: int


class Batcher:
    """One engine's queue. Every batch of it ends on the engine that it began with."""

    def __init__(
        self, engine: Engine, lanes: Lanes, *, max_queue: int, on_batch: Callable[[int], None] = lambda _: None
    ) -> None:
        self.engine = engine
        self._lanes = lanes
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._waiting: deque[tuple[Pixels, asyncio.Future[Probabilities]]] = deque()
        self._num_busy = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def predict(self, pixels: Pixels) -> Probabilities:
        """Probabilities of one input: (size, size, 3) uint8 → (C,) float32.

        Raises Overloaded at once when the queue is full. A caller that gives up is dropped from the
        queue before its image costs anything.
        """
        if len(self._waiting) >= self._max_queue:
            raise Overloaded(
                f"{len(self._waiting)} images wait already, the limit is {self._max_queue}; try again soon"
            )
        answer: asyncio.Future[Probabilities] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, answer))
        self._dispatch()
        return await answer

    def _dispatch(self) -> None:
        while self._num_busy < self._lanes.num_lanes and (batch := self._take()):
            self._num_busy += 1
            self._on_batch(len(batch))
            running = asyncio.get_running_loop().run_in_executor(
                self._lanes.executor, self._run, [pixels for pixels, _ in batch]
            )
            running.add_done_callback(lambda done, batch=batch: self._finish(done, [a for _, a in batch]))  # type: ignore[misc]

    def _take(self) -> list[tuple[Pixels, asyncio.Future[Probabilities]]]:
        """The next batch: one lane's even share of what waits, so that no lane idles beside a full one."""
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        share = min(self._lanes.max_batch, -(-len(self._waiting) // self._lanes.num_lanes))
        batch: list[tuple[Pixels, asyncio.Future[Probabilities]]] = []
        while self._waiting and len(batch) < share:
            item = self._waiting.popleft()
            if not item[1].done():
                batch.append(item)
        return batch

    def _run(self, inputs: list[Pixels]) -> Probabilities:
        return self.engine.predict(np.stack(inputs))

    def _finish(self, done: asyncio.Future[Probabilities], answers: list[asyncio.Future[Probabilities]]) -> None:
        self._num_busy -= 1
        error = done.exception()
        for index, answer in enumerate(answers):
            if answer.done():
                continue
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(done.result()[index])
        self._dispatch()
