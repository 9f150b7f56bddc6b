"""What this machine can do at all: decode and inference in one process, all cores busy, nobody to answer to.

Several ways to arrange the same work are tried and the fastest is the limit; also one image alone, with all cores on it.
A program of its own, with threads and memory of its own. It prints all arrangements as one JSON line, and then measures the
fastest again whenever it is asked to: right before and after a server, because a machine's speed is not the same
for minutes.
"""

import argparse
import contextlib
import itertools
import json
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.serving import servers
from benchmarks.serving.work import Work, available_cores
from understudy.images import Pixels

BATCHES = (1, 2, 4)
#: So often each arrangement has its turn.
TURNS = 3
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
        stream = itertools.islice(itertools.cycle(photos), index % len(photos), None)
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


#: By name: how, and images in a batch.
ARRANGEMENTS = {f"{how.__name__}, batch {batch}": (how, batch) for how in (together, apart) for batch in BATCHES}


class Measuring:
    """The work, ready to be measured."""

    def __init__(self, model: Path, photos: Sequence[bytes]) -> None:
        self._photos, self._cores = photos, available_cores()
        self._lane, self._whole = Work.open(model, threads=1), Work.open(model, threads=self._cores)
        for photo in photos[:NUM_WARM_UP]:
            self._lane.classify(photo)
            self._whole.classify(photo)

    def everything(self, seconds: float) -> Limit:
        """Every arrangement for ``seconds`` each, in turns: the median of a few."""
        taken: dict[str, list[float]] = {}
        for _ in range(TURNS):
            for name in ARRANGEMENTS:
                taken.setdefault(name, []).append(self.rate(name, seconds / TURNS))
        rates = {name: statistics.median(rates) for name, rates in taken.items()}
        return Limit(rates, *alone(self._whole, self._photos, seconds=seconds))

    def rate(self, arrangement: str, seconds: float) -> float:
        """Images a second of one of them."""
        how, batch = ARRANGEMENTS[arrangement]
        return how(self._lane, self._photos, cores=self._cores, batch=batch, seconds=seconds)

    def single_ms(self, seconds: float) -> float:
        """The median of one image alone."""
        return alone(self._whole, self._photos, seconds=seconds)[0]


class Beside:
    """The program at the other end: the limit in figures, taken when it is asked for."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.limit = Limit(**json.loads(self._line()))
        self._best = max(self.limit.images_per_second, key=self.limit.images_per_second.__getitem__)

    def rate(self, seconds: float) -> float:
        """Images a second of the fastest arrangement, now."""
        return float(self._ask(f"{seconds} {self._best}"))

    def single_ms(self, seconds: float) -> float:
        """The median of one image alone, now."""
        return float(self._ask(f"{seconds}"))

    def _ask(self, question: str) -> str:
        assert self._process.stdin is not None, "it was opened with pipes"
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None, "it was opened with pipes"
        if line := self._process.stdout.readline():
            return line
        raise servers.ServerFailed(f"the limit's program ended with {self._process.wait()}")


@contextlib.contextmanager
def running(model: Path, photos: Path, *, seconds: float) -> Iterator[Beside]:
    """Measure every arrangement, and be there for more while the block runs. Raises ServerFailed."""
    command = [sys.executable, "-m", "benchmarks.serving.limit", str(model), str(photos), "--seconds", str(seconds)]
    environment = os.environ | {"PYTHONPATH": str(servers.ROOT)}
    with subprocess.Popen(
        command, cwd=servers.ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Beside(process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder with model.onnx and card.json")
    parser.add_argument("photos", type=Path, help="folder of *.body files, each a JPEG")
    parser.add_argument("--seconds", type=float, default=3.0)
    chosen = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(chosen.photos.glob("*.body"))]
    measuring = Measuring(chosen.model, photos)
    print(json.dumps(asdict(measuring.everything(chosen.seconds))), flush=True)
    for question in sys.stdin:
        seconds, _, arrangement = question.strip().partition(" ")
        measured = measuring.rate(arrangement, float(seconds)) if arrangement else measuring.single_ms(float(seconds))
        print(measured, flush=True)


if __name__ == "__main__":
    main()
