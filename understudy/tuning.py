"""Tuning: how many calls at once, of how many threads, on how many images make the most of one machine.

It measures an engine and chooses from the times alone, so the choice can be tested with times that are
given. It knows nothing of requests, queues or ONNX Runtime.
"""

import bisect
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from understudy.images import Pixels
from understudy.records import ModelCard

Clock = Callable[[], float]  #: seconds, from any beginning

#: A larger batch, more threads or another number format must gain this much to be worth it: below it are
#: the differences between two measurements of the same thing. On a CPU, which others share, these are larger; and a
#: large batch is dearer there: its first image waits for the last, and its memory is a process's own.
MIN_CPU_BATCH_GAIN, MIN_GPU_BATCH_GAIN = 0.10, 0.03
MIN_GAIN = 0.05
#: Turns of each size, and so the fewest calls that a median is taken of, however long one takes.
ROUNDS = 3
DEFAULT_SECONDS_EACH = 0.3


class Measurable(Protocol):
    """What can be measured: an engine, or in a test something that takes given times."""

    @property
    def card(self) -> ModelCard: ...

    def predict(self, pixels: Pixels) -> Any: ...


@dataclass(frozen=True)
class Tuning:
    """What was chosen for one engine on one machine, and the times that say so."""

    num_lanes: int  #: calls of the engine at once
    threads: int  #: of one call, on a CPU
    max_batch: int  #: images in the largest batch worth making
    batch_seconds: dict[int, float]  #: of one call, by images in it, while every lane is busy

    def seconds(self, batch: int) -> float:
        """What a batch takes while every lane is busy: measured, or on the line through the nearest two measured."""
        sizes = sorted(self.batch_seconds)
        if batch in self.batch_seconds:
            return self.batch_seconds[batch]
        if len(sizes) == 1:
            return self.batch_seconds[sizes[0]] * batch / sizes[0]
        right = min(max(bisect.bisect(sizes, batch), 1), len(sizes) - 1)
        a, b = sizes[right - 1], sizes[right]
        slope = (self.batch_seconds[b] - self.batch_seconds[a]) / (b - a)
        line = self.batch_seconds[a] + slope * (batch - a)
        # Noise can tilt the line so far that it falls; no batch takes less than a single image's share of it.
        return max(line, min(self.batch_seconds[size] / size for size in sizes))

    @property
    def images_per_second(self) -> float:
        """The most that all lanes do together, in batches of ``max_batch``."""
        return self.num_lanes * self.max_batch / self.seconds(self.max_batch)


def layout(provider: str, cores: int) -> tuple[int, int]:
    """(lanes, threads of each): one lane of one thread a core on a CPU, one lane on a GPU.

    Measured on two cores with EfficientNet-B0: two lanes of one thread each do 1.4 times what one lane
    of two threads does. On a GPU the calls of two lanes only wait for each other.
    """
    return (max(1, cores), 1) if provider == "cpu" else (1, max(1, cores))


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """What to measure up to a limit: the powers of two, and the limit itself."""
    powers = [2**n for n in range(max_batch.bit_length()) if 2**n <= max_batch]
    return tuple(sorted({*powers, max_batch}))


def measure(
    engine: Measurable,
    *,
    num_lanes: int,
    batch_sizes: Sequence[int],
    seconds_each: float = DEFAULT_SECONDS_EACH,
    clock: Clock = time.perf_counter,
) -> dict[int, float]:
    """Seconds that a call with each number of images takes while ``num_lanes`` threads call at once: the median.

    Each size is called once before, unmeasured: the first call of a size allocates and chooses algorithms.
    The sizes take turns, a third of ``seconds_each`` at a time, so that what else the machine does in a
    bad moment falls on all of them. Each lane makes at least ``ROUNDS`` calls of each size.
    """
    size = engine.card.preprocessing.size
    inputs = {n: np.full((n, size, size, 3), 127, dtype=np.uint8) for n in batch_sizes}  # any value takes as long
    for pixels in inputs.values():
        engine.predict(pixels)
    taken: dict[int, list[float]] = {batch: [] for batch in inputs}
    with ThreadPoolExecutor(num_lanes, thread_name_prefix="measure") as pool:
        for _ in range(ROUNDS):
            for batch, pixels in inputs.items():
                turn = partial(_calls, engine, pixels, seconds_each / ROUNDS, clock)
                lanes = [pool.submit(turn) for _ in range(num_lanes)]
                taken[batch] += [seconds for lane in lanes for seconds in lane.result()]
    return {batch: statistics.median(seconds) for batch, seconds in taken.items()}


def _calls(engine: Measurable, pixels: Pixels, seconds: float, clock: Clock) -> list[float]:
    """The seconds of each call of one lane, at least one."""
    taken: list[float] = []
    began = clock()
    while not taken or clock() - began < seconds:
        before = clock()
        engine.predict(pixels)
        taken.append(clock() - before)
    return taken


def min_batch_gain(provider: str) -> float:
    """The share that a larger batch must gain in images a second."""
    return MIN_CPU_BATCH_GAIN if provider == "cpu" else MIN_GPU_BATCH_GAIN


def choose(batch_seconds: Mapping[int, float], *, provider: str, num_lanes: int, threads: int) -> Tuning:
    """The tuning that the measured times ask for; the largest size measured is the limit.

    On a CPU the smallest batch that the best throughput is not 10 % above: a larger one would only let its first
    image wait. On a GPU the largest batch up to which each size measured gains 3 % over the one before.
    """
    rates = {batch: batch / batch_seconds[batch] for batch in sorted(batch_seconds)}
    max_batch = _smallest_good(rates) if provider == "cpu" else _last_growing(rates)
    return Tuning(num_lanes, threads, max_batch, dict(batch_seconds))


def _smallest_good(rates: Mapping[int, float]) -> int:
    best = max(rates.values())
    return next(batch for batch in sorted(rates) if rates[batch] * (1 + MIN_CPU_BATCH_GAIN) >= best)


def _last_growing(rates: Mapping[int, float]) -> int:
    sizes = sorted(rates)
    chosen = sizes[0]
    for batch in sizes[1:]:
        if rates[batch] < rates[chosen] * (1 + MIN_GPU_BATCH_GAIN):
            break
        chosen = batch
    return chosen


def tune(
    engine: Measurable,
    *,
    provider: str,
    num_lanes: int,
    threads: int,
    max_batch: int,
    seconds_each: float = DEFAULT_SECONDS_EACH,
    clock: Clock = time.perf_counter,
) -> Tuning:
    """Measure an engine up to ``max_batch`` images and choose. ``engine`` was loaded with that many ``threads``."""
    sizes = batch_sizes(max_batch)
    seconds = measure(engine, num_lanes=num_lanes, batch_sizes=sizes, seconds_each=seconds_each, clock=clock)
    return choose(seconds, provider=provider, num_lanes=num_lanes, threads=threads)


def is_faster_alone(
    wide: Measurable,
    narrow: Measurable,
    *,
    seconds_each: float = DEFAULT_SECONDS_EACH,
    clock: Clock = time.perf_counter,
) -> bool:
    """Whether a lone image is answered 5 % sooner by ``wide`` (all cores in one call) than by a lane's engine.

    It is worth a second session in memory then, for the image that comes while nothing else runs.
    """
    alone = [
        measure(engine, num_lanes=1, batch_sizes=(1,), seconds_each=seconds_each, clock=clock)[1]
        for engine in (wide, narrow)
    ]
    return alone[0] * (1 + MIN_GAIN) <= alone[1]


def fastest(images_per_second: Mapping[str, float], *, base: str) -> str:
    """The name with the highest rate, if it is at least 5 % above that of ``base``; else ``base``."""
    best = max(images_per_second, key=lambda name: images_per_second[name])
    return best if images_per_second[best] >= images_per_second[base] * (1 + MIN_GAIN) else base
