"""Batches: who shares one, who is refused, and who is dropped."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from service.batcher import Batcher, Lanes
from understudy.errors import ArtifactRefused, Overloaded

PIXELS = np.zeros((8, 8, 3), np.uint8)


@dataclass
class GatedEngine:
    """An engine whose batches wait until they are released; it answers each image's first pixel."""

    gate: threading.Event = field(default_factory=threading.Event)
    sizes: list[int] = field(default_factory=list)
    fault: Exception | None = None

    def predict(self, pixels: Any) -> Any:
        assert self.gate.wait(10)
        self.sizes.append(len(pixels))
        if self.fault:
            raise self.fault
        return pixels[:, 0, 0, :].astype(np.float32)


def batcher(engine: GatedEngine, *, lanes: int = 1, max_batch: int = 4, max_queue: int = 100) -> Batcher:
    executor = ThreadPoolExecutor(lanes)
    return Batcher(engine, Lanes(executor, lanes, max_batch), max_queue=max_queue)  # type: ignore[arg-type]


def image(value: int) -> Any:
    return np.full((8, 8, 3), value, np.uint8)


async def test_a_lone_request_leaves_at_once():
    """Nobody waits for company."""
    engine = GatedEngine()
    engine.gate.set()
    assert (await batcher(engine).predict(image(7)))[0] == 7
    assert engine.sizes == [1]


async def test_what_waits_while_a_lane_is_busy_leaves_together_and_each_gets_its_own_answer():
    """Requests that came during a batch share the next ones, none larger than the limit."""
    engine = GatedEngine()
    queue = batcher(engine, max_batch=4)
    running = [asyncio.create_task(queue.predict(image(i))) for i in range(8)]
    await asyncio.sleep(0)
    engine.gate.set()
    answers = await asyncio.gather(*running)
    assert [int(a[0]) for a in answers] == list(range(8))
    assert engine.sizes == [1, 4, 3]


async def test_a_full_queue_refuses_at_once_and_those_accepted_are_answered():
    """More than the limit may not wait."""
    engine = GatedEngine()
    queue = batcher(engine, max_queue=2)
    accepted = [asyncio.create_task(queue.predict(PIXELS)) for _ in range(3)]  # one runs, two wait
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="limit is 2"):
        await queue.predict(PIXELS)
    engine.gate.set()
    assert len(await asyncio.gather(*accepted)) == 3


async def test_who_gives_up_is_dropped_before_it_costs_anything():
    """A cancelled request is in no batch."""
    engine = GatedEngine()
    queue = batcher(engine)
    first = asyncio.create_task(queue.predict(image(1)))
    gone = asyncio.create_task(queue.predict(image(2)))
    last = asyncio.create_task(queue.predict(image(3)))
    await asyncio.sleep(0)
    gone.cancel()
    engine.gate.set()
    assert int((await first)[0]) == 1
    assert int((await last)[0]) == 3
    assert engine.sizes == [1, 1]


async def test_a_fault_of_the_engine_reaches_its_batch_and_the_next_batch_runs():
    """An error ends the requests of its batch, not the queue."""
    engine = GatedEngine(fault=ArtifactRefused("not finite"))
    engine.gate.set()
    queue = batcher(engine)
    with pytest.raises(ArtifactRefused):
        await queue.predict(PIXELS)
    engine.fault = None
    assert (await queue.predict(image(5)))[0] == 5


async def test_free_lanes_share_what_waits():
    """Two lanes take half each rather than one taking all."""
    engine = GatedEngine()
    queue = batcher(engine, lanes=2, max_batch=8)
    running = [asyncio.create_task(queue.predict(PIXELS)) for _ in range(10)]
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(*running)
    assert sum(engine.sizes) == 10
    assert max(engine.sizes) < 8
