"""What this machine can do at all: decode and inference in one process, all cores busy, nobody to answer to.

Several ways to arrange the same work are tried and the fastest is the limit; also one image alone, with all cores on it.
A program of its own, so that its memory and threads are gone when a server is measured; prints one JSON line.
"""

import argparse
import contextlib
import itertools
import json
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.serving.work import Work, available_cores
from understudy.images import Pixels

BATCHES = (1, 2, 4)
#: Photos classified before anything is measured.
NUM_WARM_UP = 8
#: At the end of a measurement one side of a queue is gone; the other waits no longer than this.
PATIENCE_S = 0.5


@dataclass(frozen=True)
class Limit:
    """One measurement: images a second of every arrangement, and the latency of one image alone."""

    images_per_second: dict[str, float]
    single_p50_ms: float
    single_p99_ms: float


def together(work: Work, photos: Sequence[bytes], *, cores: int, batch: int, seconds: float) -> float:
    """Images a second of one thread a core, each decoding a batch and then inferring it."""

    def classify(photos: Iterator[bytes]) -> int:
        pixels = [work.decode(photo) for photo in itertools.islice(photos, batch)]
        return len(work.infer(pixels))

    return _rate([classify] * cores, photos, seconds)


def apart(work: Work, photos: Sequence[bytes], *, cores: int, batch: int, seconds: float) -> float:
    """Images a second of a decoding thread a core that feeds an inferring thread a core, as a server would."""
    decoded: queue.Queue[Pixels] = queue.Queue(maxsize=2 * cores * batch)

    def decode(photos: Iterator[bytes]) -> int:
        pixels = work.decode(next(photos))
        with contextlib.suppress(queue.Full):  # at the end: the lanes that would take it are gone
            decoded.put(pixels, timeout=PATIENCE_S)
        return 0

    def infer(_: Iterator[bytes]) -> int:
        pixels: list[Pixels] = []
        with contextlib.suppress(queue.Empty):
            pixels.append(decoded.get(timeout=PATIENCE_S))
            while len(pixels) < batch:
                pixels.append(decoded.get_nowait())
        return len(work.infer(pixels)) if pixels else 0

    return _rate([decode] * cores + [infer] * cores, photos, seconds)


def _rate(steps: Sequence[Callable[[Iterator[bytes]], int]], photos: Sequence[bytes], seconds: float) -> float:
    """Repeat every step in a thread of its own until the time is over; images done a second in all."""
    counts = [0] * len(steps)
    began = time.perf_counter()
    until = began + seconds

    def repeat(index: int) -> None:
        stream = itertools.cycle(photos[index % len(photos) :] + photos[: index % len(photos)])
        while time.perf_counter() < until:
            counts[index] += steps[index](stream)

    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(len(steps))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def alone(work: Work, photos: Sequence[bytes], *, seconds: float) -> tuple[float, float]:
    """Median and 99th percentile of one image at a time, decode and inference, in milliseconds."""
    taken: list[float] = []
    stream = itertools.cycle(photos)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        work.classify(next(stream))
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken), float(np.percentile(taken, 99))


def measure(model: Path, photos: Sequence[bytes], *, seconds: float) -> Limit:
    """Measure every arrangement for ``seconds`` each."""
    cores = available_cores()
    lane = Work.open(model, threads=1)
    for photo in photos[:NUM_WARM_UP]:
        lane.classify(photo)
    rates = {
        f"{arrangement.__name__}, batch {batch}": arrangement(lane, photos, cores=cores, batch=batch, seconds=seconds)
        for arrangement in (together, apart)
        for batch in BATCHES
    }
    del lane
    whole = Work.open(model, threads=cores)
    for photo in photos[:NUM_WARM_UP]:
        whole.classify(photo)
    p50_ms, p99_ms = alone(whole, photos, seconds=seconds)
    return Limit(rates, p50_ms, p99_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder with model.onnx and card.json")
    parser.add_argument("photos", type=Path, help="folder of *.body files, each a JPEG")
    parser.add_argument("--seconds", type=float, default=3.0)
    chosen = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(chosen.photos.glob("*.body"))]
    print(json.dumps(asdict(measure(chosen.model, photos, seconds=chosen.seconds))))


if __name__ == "__main__":
    main()
