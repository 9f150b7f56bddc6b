"""Batches: who shares one, who is worth waiting for, who is dropped, and who gets the whole machine."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from service.batcher import Arrivals, Batcher, Lanes
from understudy.errors import ArtifactRefused, DeadlineExceeded, ImageRefused
from understudy.tuning import Tuning

PIXELS = np.zeros((8, 8, 3), np.uint8)
#: As on a CPU: a batch of n takes n times as long. As on a GPU: it takes hardly longer than one.
ON_CPU = {1: 0.02, 2: 0.04, 4: 0.08}
ON_GPU = {1: 0.02, 2: 0.021, 4: 0.023}


@dataclass
class GatedEngine:
    """An engine whose batches wait until they are released; it answers each image's first pixel."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    sizes: list[int] = field(default_factory=list)
    fault: Exception | None = None

    def predict(self, pixels: Any) -> Any:
        self.entered.set()
        assert self.gate.wait(10)
        self.sizes.append(len(pixels))
        if self.fault:
            raise self.fault
        return pixels[:, 0, 0, :].astype(np.float32)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What ends with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def engine() -> GatedEngine:
    return GatedEngine()


@pytest.fixture
def batcher(engine: GatedEngine, opened: ExitStack) -> Any:
    """Makes a batcher of the gated engine."""

    def made(
        *,
        lanes: int = 1,
        max_batch: int = 4,
        seconds: dict[int, float] = ON_CPU,
        has_decoders: bool = False,
        **more: Any,
    ) -> Batcher:
        pool = opened.enter_context(ThreadPoolExecutor(lanes))
        decoders = opened.enter_context(ThreadPoolExecutor(lanes)) if has_decoders else None
        chosen = Tuning(lanes, 1, max_batch, seconds)
        return Batcher(engine, chosen, Lanes(pool, lanes, 1, decoders), **more)  # type: ignore[arg-type]

    return made


def image(value: int) -> Any:
    return np.full((8, 8, 3), value, np.uint8)


def in_time() -> float:
    return asyncio.get_running_loop().time() + 30


def ask(queue: Batcher, value: int) -> asyncio.Task[Any]:
    return asyncio.create_task(queue.predict(image(value), in_time()))


async def test_a_lone_request_leaves_at_once(engine: GatedEngine, batcher: Any):
    """Nobody waits for company that nobody expects."""
    engine.gate.set()
    assert (await batcher(seconds=ON_GPU).predict(image(7), in_time()))[0] == 7
    assert engine.sizes == [1]


async def test_what_waits_while_a_lane_is_busy_leaves_together_and_each_gets_its_own_answer(
    engine: GatedEngine, batcher: Any
):
    """Requests that came during a batch share the next ones, none larger than the limit."""
    queue = batcher(max_batch=4)
    running = [ask(queue, i) for i in range(8)]
    await asyncio.sleep(0)
    engine.gate.set()
    answers = await asyncio.gather(*running)
    assert [int(a[0]) for a in answers] == list(range(8))
    assert engine.sizes == [1, 4, 3]


async def test_where_batches_are_cheap_and_arrivals_frequent_a_batch_waits_for_company(
    engine: GatedEngine, batcher: Any
):
    """The second image is worth the first one's wait; with both the batch is full and leaves."""
    engine.gate.set()
    queue = batcher(max_batch=2, seconds={1: 20.0, 2: 20.1}, arrivals=Arrivals(interval_s=0.001))
    first = ask(queue, 1)
    await asyncio.sleep(0)
    assert queue.num_waiting == 1
    assert not engine.entered.is_set()
    second = ask(queue, 2)
    assert [int(a[0]) for a in await asyncio.gather(first, second)] == [1, 2]
    assert engine.sizes == [2]


async def test_company_that_does_not_come_is_not_waited_for_beyond_its_worth(engine: GatedEngine, batcher: Any):
    """The wait ends by itself, at the user's limit at the latest."""
    engine.gate.set()
    queue = batcher(seconds={1: 20.0, 2: 20.1}, arrivals=Arrivals(interval_s=0.001), max_wait_s=0.01)
    assert int((await asyncio.wait_for(queue.predict(image(3), in_time()), 10))[0]) == 3
    assert engine.sizes == [1]


@pytest.mark.parametrize(
    ("seconds", "interval_s", "num_waiting", "waits"),
    [
        (ON_CPU, 0.0001, 1, False),  # two take twice as long as one: company gains nothing
        (ON_GPU, 0.0001, 1, True),
        (ON_GPU, 0.0001, 4, False),  # full
        (ON_GPU, 0.5, 1, False),  # the next one is too far away
        (ON_GPU, float("inf"), 1, False),  # nobody knows of a next one
        ({1: 0.02, 2: 0.029, 4: 0.049}, 0.0001, 1, True),  # t(1)/2 = 10 ms to win, 9 ms to lose
        ({1: 0.02, 2: 0.031, 4: 0.053}, 0.0001, 1, False),  # 11 ms to lose
    ],
)
async def test_waiting_is_weighed_by_the_engines_times_and_the_rate_of_arrival(
    batcher: Any, seconds: dict[int, float], interval_s: float, num_waiting: int, waits: bool
):
    """The inequality of `_worth_waiting`, at its corners."""
    queue = batcher(seconds=seconds, arrivals=Arrivals(interval_s=interval_s))
    queue._waiting.extend([None] * num_waiting)
    assert (queue._worth_waiting(0) > 0) is waits


async def test_while_another_lane_is_free_nobody_waits(batcher: Any):
    """The next to arrive has a lane of its own."""
    queue = batcher(lanes=2, seconds=ON_GPU, arrivals=Arrivals(interval_s=0.0001))
    queue._waiting.append(None)
    assert queue._worth_waiting(0) == 0


def test_the_interval_between_arrivals_follows_them():
    """A mean over the last few."""
    arrivals = Arrivals()
    for now in (0.0, 1.0):
        arrivals.note(now)
    assert arrivals.interval_s == 1.0
    for tenth in range(1, 100):
        arrivals.note(1.0 + tenth / 10)
    assert arrivals.interval_s == pytest.approx(0.1, rel=0.01)


async def test_who_gives_up_is_dropped_before_it_costs_anything(engine: GatedEngine, batcher: Any):
    """A cancelled request is in no batch."""
    queue = batcher()
    first, gone, last = (ask(queue, i) for i in (1, 2, 3))
    await asyncio.sleep(0)
    gone.cancel()
    engine.gate.set()
    assert int((await first)[0]) == 1
    assert int((await last)[0]) == 3
    assert engine.sizes == [1, 1]


async def test_whose_time_is_over_is_dropped_from_the_queue_and_told_so(engine: GatedEngine, batcher: Any):
    """The engine never sees it, and those behind it are answered."""
    queue = batcher()
    loop = asyncio.get_running_loop()
    running = ask(queue, 1)
    await asyncio.sleep(0)
    late = asyncio.create_task(queue.predict(image(2), loop.time()))
    behind = ask(queue, 3)
    await asyncio.sleep(0)
    engine.gate.set()
    with pytest.raises(DeadlineExceeded, match="X-Request-Timeout-Ms"):
        await late
    assert int((await running)[0]) == 1
    assert int((await behind)[0]) == 3
    assert engine.sizes == [1, 1]


async def test_whose_time_is_over_is_not_even_decoded(batcher: Any):
    """Decoding costs as much as a small model."""
    decoded = []
    with pytest.raises(DeadlineExceeded):
        await batcher().classify(lambda: decoded.append(1) or PIXELS, asyncio.get_running_loop().time())
    assert decoded == []


async def test_a_fault_of_the_engine_reaches_its_batch_and_the_next_batch_runs(engine: GatedEngine, batcher: Any):
    """An error ends the requests of its batch, not the queue."""
    engine.fault = ArtifactRefused("not finite")
    engine.gate.set()
    queue = batcher()
    with pytest.raises(ArtifactRefused):
        await queue.predict(PIXELS, in_time())
    engine.fault = None
    assert (await queue.predict(image(5), in_time()))[0] == 5


async def test_an_image_that_cannot_be_decoded_is_in_no_batch(engine: GatedEngine, batcher: Any):
    """Its error is its own; the others are answered."""

    def broken() -> Any:
        raise ImageRefused("no picture")

    engine.gate.set()
    queue = batcher()
    answers = await asyncio.gather(
        queue.classify(lambda: image(1), in_time()),
        queue.classify(broken, in_time()),
        queue.classify(lambda: image(2), in_time()),
        return_exceptions=True,
    )
    assert isinstance(answers[1], ImageRefused)
    assert [int(answers[i][0]) for i in (0, 2)] == [1, 2]


async def test_free_lanes_share_what_waits(engine: GatedEngine, batcher: Any):
    """Two lanes take half each rather than one taking all."""
    queue = batcher(lanes=2, max_batch=8)
    running = [ask(queue, 0) for _ in range(10)]
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(*running)
    assert sum(engine.sizes) == 10
    assert max(engine.sizes) < 8


async def test_an_image_that_has_the_machine_to_itself_gets_all_of_it(engine: GatedEngine, batcher: Any):
    """The engine of all cores answers it; with company the lanes' engine does."""
    lone, alone = GatedEngine(), True
    for each in (lone, engine):
        each.gate.set()
    queue = batcher(lone=lone, is_alone=lambda: alone)
    assert int((await queue.classify(lambda: image(4), in_time()))[0]) == 4
    assert (lone.sizes, engine.sizes) == ([1], [])
    alone = False
    assert int((await queue.classify(lambda: image(5), in_time()))[0]) == 5
    assert (lone.sizes, engine.sizes) == ([1], [1])


async def test_an_image_that_gets_all_cores_is_not_worked_on_in_a_lane(engine: GatedEngine, opened: ExitStack):
    """A lane may be bound to a core, which the others' threads would have to share with it."""
    lane, apart = (opened.enter_context(ThreadPoolExecutor(1, name)) for name in ("lane", "apart"))
    engine.gate.set()
    queue = Batcher(
        engine,  # type: ignore[arg-type]
        Tuning(1, 1, 1, ON_CPU),
        Lanes(lane, 1, lone=apart),
        lone=engine,  # type: ignore[arg-type]
        is_alone=lambda: True,
    )
    where = await queue.classify(lambda: PIXELS, in_time(), lambda row: threading.current_thread().name)
    assert where.startswith("apart")


async def test_a_lone_client_that_goes_leaves_the_lane_as_it_found_it(engine: GatedEngine, batcher: Any):
    """Its work cannot be stopped half way; the lane counts as busy until it has ended, and then as free."""
    lone = GatedEngine()
    engine.gate.set()
    queue = batcher(lone=lone, is_alone=lambda: True)
    gone = asyncio.create_task(queue.classify(lambda: PIXELS, in_time()))
    await asyncio.to_thread(lone.entered.wait, 10)
    gone.cancel()
    following = ask(queue, 6)
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert engine.sizes == []
    lone.gate.set()
    assert int((await following)[0]) == 6


async def test_on_a_gpu_images_are_prepared_beside_the_lane(engine: GatedEngine, batcher: Any):
    """While the lane is busy the next image is decoded already; what cannot be decoded never reaches the lane."""
    queue = batcher(has_decoders=True)
    decoded = threading.Event()

    def prepare() -> Any:
        decoded.set()
        return image(2)

    def broken() -> Any:
        raise ImageRefused("no picture")

    first = ask(queue, 1)
    await asyncio.sleep(0)
    second = asyncio.create_task(queue.classify(prepare, in_time()))
    assert await asyncio.to_thread(decoded.wait, 10)
    with pytest.raises(ImageRefused):
        await queue.classify(broken, in_time())
    engine.gate.set()
    assert [int(a[0]) for a in await asyncio.gather(first, second)] == [1, 2]
    with pytest.raises(DeadlineExceeded):
        await queue.classify(prepare, asyncio.get_running_loop().time())


async def test_what_is_asked_for_is_made_of_the_probabilities_in_the_lane(engine: GatedEngine, batcher: Any):
    """Ranking a thousand classes is no work for the event loop."""
    engine.gate.set()
    here = threading.get_ident()
    answer = await batcher().classify(
        lambda: image(9), in_time(), lambda row: (int(row[0]), threading.get_ident() == here)
    )
    assert answer == (9, False)


async def test_a_lane_takes_the_next_batch_without_waiting_for_the_event_loop(
    engine: GatedEngine, batcher: Any, until: Any
):
    """While the event loop is busy with something else, all that waits is done, in batches; answered when it is free."""
    queue = batcher(max_batch=2)
    running = [ask(queue, value) for value in range(5)]
    await asyncio.sleep(0)
    engine.gate.set()
    until(lambda: sum(engine.sizes) == 5)  # the event loop stands still meanwhile
    assert engine.sizes == [1, 2, 2]
    assert not any(each.done() for each in running)
    assert [int(a[0]) for a in await asyncio.gather(*running)] == list(range(5))
    assert int((await queue.predict(image(7), in_time()))[0]) == 7  # the lane is free again


async def test_two_queues_share_a_lane_in_turns(engine: GatedEngine):
    """A version that is tried beside the champion gets its turn, however much waits for the champion."""
    with ThreadPoolExecutor(1) as pool:
        tuning = Tuning(1, 1, 1, ON_CPU)
        champion, challenger = (Batcher(engine, tuning, Lanes(pool, 1)) for _ in range(2))  # type: ignore[arg-type]
        order: list[str] = []
        asked = [ask(champion, n) for n in range(4)]
        await asyncio.sleep(0)
        asked.append(ask(challenger, 9))
        for number, each in enumerate(asked):
            each.add_done_callback(lambda _, name="challenger" if number == 4 else "champion": order.append(name))
        await asyncio.sleep(0)
        engine.gate.set()
        await asyncio.gather(*asked)
    assert order.index("challenger") == 1


async def test_whose_time_is_over_while_it_waits_is_not_even_decoded(engine: GatedEngine, batcher: Any):
    """Whether the event loop finds it or a lane."""
    queue = batcher(max_batch=1)
    first = ask(queue, 1)
    await asyncio.sleep(0)
    decoded = []
    late = asyncio.create_task(
        queue.classify(lambda: decoded.append(1) or PIXELS, asyncio.get_running_loop().time() + 0.01)
    )
    last = ask(queue, 3)
    await asyncio.sleep(0.05)
    assert queue.num_waiting == 2
    engine.gate.set()
    with pytest.raises(DeadlineExceeded):
        await late
    assert [int(a[0]) for a in await asyncio.gather(first, last)] == [1, 3]
    assert decoded == []


async def test_what_would_come_too_late_is_not_begun(engine: GatedEngine, batcher: Any):
    """With less time left than an image takes, it is neither decoded nor inferred: others could still be in time."""
    queue = batcher(max_batch=1, seconds={1: 5.0})
    engine.gate.set()
    decoded = []
    with pytest.raises(DeadlineExceeded):
        await queue.classify(lambda: decoded.append(1) or PIXELS, asyncio.get_running_loop().time() + 4.0)
    assert (decoded, engine.sizes) == ([], [])
