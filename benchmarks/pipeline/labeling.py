"""Labeling against the in-process limit, and two workers of one core against one: ``python -m benchmarks.pipeline.labeling``.

EfficientNet-B0 at 224 px with 1,000 classes over photos of 500 × 375, as in ``benchmarks.serving``. The limit is decode and
inference on all cores with nobody to answer to, measured right before and after each worker, because a machine's speed
is not the same for minutes. Each worker is a process of its own, the engine warm before the clock starts, and
labels whole shards: claims, reads, decodes, infers, writes, publishes.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import update

from benchmarks.serving import limit, photos
from benchmarks.serving.limit import Beside
from understudy import settings
from understudy.catalog import Catalog, jobs, shards, versions
from understudy.catalog.tables import LabelSetRow
from understudy.records import JobKind, JobState, Upload
from understudy.settings import WorkerSettings
from understudy.store import Store, upload_key
from worker.label import label
from worker.resources import Resources
from worker.unpack import unpack

#: Seconds of each arrangement that may be the limit; and of the best of them, before and after each worker.
LIMIT_S, BESIDE_S = 3.0, 4.0


@dataclass(frozen=True)
class Labeled:
    """Images a second: medians of the rounds; the ratios are medians of each round's own."""

    num_images: int
    rounds: int
    cores: int
    limit: float  #: all cores
    one_worker: float  #: all cores
    one_core_limit: float
    one_worker_of_one_core: float
    two_workers_of_one_core: float | None  #: together; None: there is only one core
    of_limit: float
    of_one_core_limit: float
    two_to_one: float | None


def measure(*, num_images: int = 1200, shard_images: int = 200, rounds: int = 3) -> Labeled:
    """Measure in a folder of its own, which is deleted."""
    folder = Path(tempfile.mkdtemp(prefix="understudy-labeling-"))
    cores = sorted(os.sched_getaffinity(0))
    try:
        _prepare(folder, num_images, shard_images)
        with _limit(folder, cores) as all_cores, _limit(folder, cores[:1]) as one_core:
            taken = [_round(folder, cores, num_images, all_cores, one_core) for _ in range(rounds)]
    finally:
        shutil.rmtree(folder)
    limits, ones, one_core_limits, singles, pairs = zip(*taken, strict=True)
    several = len(cores) > 1
    return Labeled(
        num_images=num_images,
        rounds=rounds,
        cores=len(cores),
        limit=statistics.median(limits),
        one_worker=statistics.median(ones),
        one_core_limit=statistics.median(one_core_limits),
        one_worker_of_one_core=statistics.median(singles),
        two_workers_of_one_core=statistics.median(pairs) if several else None,
        of_limit=_ratio(ones, limits),
        of_one_core_limit=_ratio(singles, one_core_limits),
        two_to_one=_ratio(pairs, singles) if several else None,
    )


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _round(
    folder: Path, cores: Sequence[int], num_images: int, all_cores: Beside, one_core: Beside
) -> tuple[float, ...]:
    worker, limit_rate = _beside(all_cores, lambda: _label(folder, [list(cores)], num_images))
    single, one_core_rate = _beside(one_core, lambda: _label(folder, [cores[:1]], num_images))
    pair = _label(folder, [[core] for core in cores[:2]], num_images) if len(cores) > 1 else 0.0
    return limit_rate, worker, one_core_rate, single, pair


def _beside(program: Beside, work: Callable[[], float]) -> tuple[float, float]:
    """A rate, and the mean of the limits before and after it."""
    before = program.rate(BESIDE_S)
    rate = work()
    return rate, (before + program.rate(BESIDE_S)) / 2


@contextmanager
def _limit(folder: Path, cores: Sequence[int]) -> Iterator[Beside]:
    """The program that measures the limit on some cores."""
    model = next(iter(sorted((folder / "store" / "models").iterdir())))
    some = folder / f"photos-{len(cores)}"
    bodies = photos.write(photos.make(2), some)["raw"].folder
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # what is started inherits it
    try:
        with limit.running(model, bodies, seconds=LIMIT_S) as program:
            os.sched_setaffinity(0, before)
            yield program
    finally:
        os.sched_setaffinity(0, before)


def _settings(folder: Path, shard_images: int = 1000) -> WorkerSettings:
    return settings.read(WorkerSettings, data=folder, shard_images=shard_images, provider="cpu")


def _prepare(folder: Path, num_images: int, shard_images: int) -> None:
    """A champion, and a bucket of distinct photos with its shards."""
    subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.model", str(folder)], check=True, stdout=subprocess.DEVNULL
    )
    read = _settings(folder, shard_images)
    catalog, store = Catalog(read.catalog_url), Store(read.store_url)
    job = jobs.open_upload(catalog, JobKind.INGEST, bucket="photos", params={})
    archive = folder / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number, photo in enumerate(photos.make(1, num_images)):
            file.writestr(f"{number}.jpg", photo)
    store.put(upload_key(job.id, 0), archive)
    upload = Upload(key=upload_key(job.id, 0), name="a.zip", num_bytes=archive.stat().st_size, split="unlabeled")
    jobs.received(catalog, job.id, [upload])
    unpack(Resources(catalog, store, read, lambda task, work_id: None), job.id)
    assert jobs.get(catalog, job.id).state is JobState.SUCCEEDED
    catalog.close()


def _child(folder: Path, cores: Sequence[int]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.pipeline.labeling", "label", str(folder), *map(str, cores)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _label(folder: Path, workers: Sequence[Sequence[int]], num_images: int) -> float:
    """Images a second of workers on these cores, from the start of all to the last label set."""
    read = _settings(folder)
    catalog = Catalog(read.catalog_url)
    with catalog.write() as session:
        again = {"state": JobState.QUEUED, "forgiven": LabelSetRow.attempt, "lease_until": None}
        session.execute(update(LabelSetRow).values(**again))
    children = [_child(folder, cores) for cores in workers]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()  # its engine is warm
    began = time.perf_counter()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()  # nothing is left to label
    seconds = time.perf_counter() - began
    for child in children:
        child.communicate()
    assert shards.label_progress(catalog, _teacher(catalog)).num_images_done == num_images
    catalog.close()
    return num_images / seconds


def _teacher(catalog: Catalog) -> str:
    champion = versions.champion(catalog)
    assert champion is not None  # it was promoted before anything was sealed
    return champion.version


def _run_label(folder: Path, cores: Sequence[int]) -> None:
    os.sched_setaffinity(0, cores)
    read = _settings(folder)
    catalog = Catalog(read.catalog_url)
    resources = Resources(catalog, Store(read.store_url), read, lambda task, work_id: None)
    resources.engine(_teacher(catalog))
    print("warm", flush=True)
    sys.stdin.readline()
    label(resources, 0)
    print("done", flush=True)
    resources.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--shard-images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    measured = measure(num_images=chosen.images, shard_images=chosen.shard_images, rounds=chosen.rounds)
    print(json.dumps(asdict(measured), indent=2))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["label", folder, *cores]:
            _run_label(Path(folder), [int(core) for core in cores])
        case _:
            main()
