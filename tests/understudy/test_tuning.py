"""Tuning: what is chosen from given times, and that measuring measures what it says. No ONNX Runtime, no waiting."""

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from understudy import engine, tuning
from understudy.testing import tiny_artifact
from understudy.tuning import Tuning

_, CARD = tiny_artifact(("red", "green", "blue"))


class LaneClock:
    """A clock for each thread, which only what takes time moves on."""

    def __init__(self) -> None:
        self._lane = threading.local()

    def __call__(self) -> float:
        return getattr(self._lane, "now", 0.0)

    def advance(self, seconds: float) -> None:
        self._lane.now = self() + seconds


@dataclass
class TimedEngine:
    """Takes a given time for each batch size; the first call of a size takes ten times as long."""

    seconds: dict[int, float]
    clock: LaneClock = field(default_factory=LaneClock)
    card = CARD
    seen: list[int] = field(default_factory=list)

    def predict(self, pixels):
        batch = len(pixels)
        assert pixels.shape == (batch, CARD.preprocessing.size, CARD.preprocessing.size, 3)
        assert pixels.dtype == np.uint8
        self.clock.advance(self.seconds[batch] * (1 if batch in self.seen else 10))
        self.seen.append(batch)


@pytest.mark.parametrize("num_lanes", [1, 3])
def test_the_median_call_is_measured(num_lanes):
    """The slow first call of a size is not counted, and each lane calls until its time is over."""
    timed = TimedEngine({1: 0.01, 4: 0.02})

    measured = tuning.measure(timed, num_lanes=num_lanes, batch_sizes=(1, 4), seconds_each=0.3, clock=timed.clock)

    assert measured == {1: pytest.approx(0.01), 4: pytest.approx(0.02)}
    assert timed.seen.count(4) == pytest.approx(1 + num_lanes * 15, abs=num_lanes * 3)


def test_a_slow_engine_is_called_a_few_times_all_the_same():
    """A median needs more than one call, however long one takes."""
    timed = TimedEngine({8: 60.0})

    tuning.measure(timed, num_lanes=2, batch_sizes=(8,), seconds_each=0.1, clock=timed.clock)

    assert len(timed.seen) == 1 + 2 * tuning.ROUNDS


def test_lanes_call_at_once():
    """Every lane is within a call before any of them comes back."""

    class Meeting:
        card = CARD
        calls = 0
        barrier = threading.Barrier(3)

        def predict(self, pixels):
            self.calls += 1
            if self.calls > 1:  # the first is the unmeasured one, which is alone
                self.barrier.wait(timeout=10)

    tuning.measure(Meeting(), num_lanes=3, batch_sizes=(1,), seconds_each=0.0)


def test_a_real_engine_is_measured():
    """Engines are measurable as they are."""
    artifact, card = tiny_artifact(("red", "green", "blue"))
    loaded = engine.load(artifact, card, provider="cpu", threads=1)

    tuned = tuning.tune(loaded, provider="cpu", num_lanes=2, threads=1, max_batch=3, seconds_each=0.0)

    assert set(tuned.batch_seconds) == {1, 2, 3}
    assert tuned.images_per_second > 0


def choose(provider: str, **milliseconds: float) -> int:
    """The largest batch that is chosen from times given as b1=20.0, b2=..."""
    seconds = {int(name[1:]): value / 1000 for name, value in milliseconds.items()}
    return tuning.choose(seconds, provider=provider, num_lanes=2, threads=1).max_batch


def test_a_cpu_takes_the_smallest_batch_that_is_as_good_as_any():
    """Two percent more throughput is no reason to let the first image of a batch wait."""
    assert choose("cpu", b1=12.6, b2=25.0, b4=49.6, b8=120.0) == 1
    assert choose("cpu", b1=12.6, b2=23.0, b4=46.0, b8=120.0) == 1
    assert choose("cpu", b1=12.6, b2=20.0, b4=39.0, b8=120.0) == 2
    assert choose("cpu", b1=1.0, b2=1.0, b4=1.1, b8=2.2) == 4
    assert choose("cpu", b1=12.6) == 1


def test_a_gpu_takes_batches_as_long_as_they_grow_the_throughput():
    """It stops at the size after which 3 % are no longer gained, also if a later one were better by a trifle."""
    assert choose("cuda", b1=2.0, b2=2.1, b4=2.3, b8=3.0, b16=5.9, b32=11.7) == 8
    assert choose("cuda", b1=2.0, b2=2.1, b4=2.3, b8=3.0) == 8
    assert choose("tensorrt", b1=2.0, b2=4.0) == 1


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (16, (1, 2, 4, 8, 16)), (17, (1, 2, 4, 8, 16, 17))],
)
def test_the_limit_is_measured_and_nothing_above_it(max_batch, sizes):
    """A user's limit holds, whatever power of two it is not."""
    assert tuning.batch_sizes(max_batch) == sizes


def test_times_between_and_beyond_the_measured_lie_on_a_line():
    """From 1 to 4 and from 4 to 8 the line through both; beyond 8 the last one goes on."""
    tuned = Tuning(2, 1, 4, {1: 0.010, 4: 0.040, 8: 0.100})

    assert tuned.seconds(4) == 0.040
    assert tuned.seconds(2) == pytest.approx(0.020)
    assert tuned.seconds(6) == pytest.approx(0.070)
    assert tuned.seconds(12) == pytest.approx(0.160)
    assert Tuning(1, 1, 2, {2: 0.010}).seconds(3) == pytest.approx(0.015)
    assert tuned.images_per_second == pytest.approx(2 * 4 / 0.040)


def test_noise_never_makes_a_batch_take_no_time():
    """Where a larger batch was measured faster than a smaller one, the line would end below zero."""
    tuned = Tuning(1, 1, 1, {1: 0.020, 2: 0.010})

    assert tuned.seconds(16) > 0


def test_lanes_fill_a_cpu_and_one_serves_a_gpu():
    """A thread for each core in either case."""
    assert tuning.layout("cpu", 4) == (4, 1)
    assert tuning.layout("cuda", 4) == (1, 4)
    assert tuning.layout("tensorrt", 1) == (1, 1)


@pytest.mark.parametrize(("wide", "narrow", "expected"), [(7.0, 11.0, True), (11.0, 11.2, False), (12.0, 11.0, False)])
def test_a_second_session_must_be_worth_it(wide, narrow, expected):
    """All cores on one image must be 5 % faster than one core: else its memory is better saved."""
    clock = LaneClock()
    engines = [TimedEngine({1: ms / 1000}, clock) for ms in (wide, narrow)]

    assert tuning.is_faster_alone(*engines, seconds_each=0.1, clock=clock) is expected


def test_another_number_format_must_be_worth_it():
    """It is taken from 5 % on, and the fastest of them; on a par the base stays."""
    assert tuning.fastest({"fp32": 100.0, "int8": 104.0}, base="fp32") == "fp32"
    assert tuning.fastest({"fp32": 100.0, "int8": 105.1}, base="fp32") == "int8"
    assert tuning.fastest({"fp32": 100.0, "int8": 70.0}, base="fp32") == "fp32"
    assert tuning.fastest({"fp32": 100.0, "fp16": 180.0, "int8": 150.0}, base="fp32") == "fp16"
