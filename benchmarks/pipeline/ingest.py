"""Ingest against its bare cost: ``python -m benchmarks.pipeline.ingest ARCHIVE.tar [--repeat N] [--rounds N]``.

The bare cost is reading the same files, their sha-256 and decoding them in the same limited children: what no
ingest can do without. Both take turns, so that what else the machine does hits both. ``--repeat`` makes the
archive so many times as large, of images that differ in bytes behind their end.
"""

import argparse
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from understudy import settings
from understudy.catalog import Catalog, jobs
from understudy.records import JobKind, Upload
from understudy.settings import WorkerSettings
from understudy.store import Store, upload_key
from worker.checkers import Checkers
from worker.resources import Resources
from worker.unpack import unpack

#: Between two looks at the memory.
SAMPLE_S = 0.1


@dataclass(frozen=True)
class IngestMeasurement:
    """Medians of some rounds."""

    num_images: int
    megabytes: float
    ingest_images_per_s: float
    ingest_megabytes_per_s: float
    bare_images_per_s: float
    ratio: float  #: of the rates, ingest to bare
    peak_megabytes: float  #: of this process and its decoding children in an ingest, pages that are shared counted once


def measure(
    archive: Path, *, rounds: int = 3, repeat: int = 1, children: int | None = None, place: Path | None = None
) -> IngestMeasurement:
    """Ingest a tar of images into a fresh catalog and store in ``place``, and do the bare work, ``rounds`` times each."""
    ingest_s, bare_s, peaks = [], [], []
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        files = _files(archive, folder / "files", repeat)
        packed = folder / "packed.tar"
        with tarfile.open(packed, "w") as tar:
            for file in files:
                tar.add(file, file.name)
        checkers = Checkers(children)
        _bare(checkers, files[:64])  # the children are started
        for number in range(rounds):
            bare_s.append(_bare(checkers, files))
            with _memory() as peak:
                ingest_s.append(_ingest(checkers, packed, folder / str(number), len(files)))
            peaks.append(peak[0])
        checkers.close()
        megabytes = packed.stat().st_size / 1e6
    ingest, bare = statistics.median(ingest_s), statistics.median(bare_s)
    return IngestMeasurement(
        num_images=len(files),
        megabytes=round(megabytes, 1),
        ingest_images_per_s=round(len(files) / ingest, 1),
        ingest_megabytes_per_s=round(megabytes / ingest, 1),
        bare_images_per_s=round(len(files) / bare, 1),
        ratio=round(statistics.median(b / i for b, i in zip(bare_s, ingest_s, strict=True)), 3),
        peak_megabytes=round(max(peaks) / 1e6, 1),
    )


def apart(archive: Path, *, rounds: int, repeat: int = 1, place: Path | None = None) -> IngestMeasurement:
    """The same in a process of its own, in whose memory nothing else is."""
    command = [sys.executable, "-m", "benchmarks.pipeline.ingest", str(archive)]
    options = ["--rounds", str(rounds), "--repeat", str(repeat), *(["--place", str(place)] if place else [])]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, check=True)
    return IngestMeasurement(**json.loads(done.stdout))


def _files(archive: Path, folder: Path, repeat: int) -> list[Path]:
    folder.mkdir()
    files = []
    with tarfile.open(archive) as tar:
        for number, member in enumerate(member for member in tar if member.isfile()):
            data = (tar.extractfile(member) or io.BytesIO()).read()
            for turn in range(repeat):
                path = folder / f"{turn:04d}-{number:06d}{Path(member.name).suffix}"
                path.write_bytes(data + (turn.to_bytes(4, "big") if turn else b""))
                files.append(path)
    return sorted(files)


def _bare(checkers: Checkers, files: list[Path]) -> float:
    began = time.perf_counter()
    for data, _ in checkers.check((path.read_bytes() for path in files), lambda data: data):
        hashlib.sha256(data).hexdigest()
    return time.perf_counter() - began


def _ingest(checkers: Checkers, packed: Path, folder: Path, num_images: int) -> float:
    folder.mkdir()
    own = settings.read(WorkerSettings, data=folder)
    catalog, store = Catalog(own.catalog_url), Store(own.store_url)
    catalog.migrate()
    job = jobs.open_upload(catalog, JobKind.INGEST, bucket="photos", params={})
    key = upload_key(job.id, 0)
    store.put(key, packed)
    jobs.received(catalog, job.id, [Upload(key=key, name=packed.name, num_bytes=packed.stat().st_size)])
    resources = Resources(catalog, store, own, lambda task, work_id: None, checkers)
    began = time.perf_counter()
    unpack(resources, job.id)
    seconds = time.perf_counter() - began
    result = jobs.get(catalog, job.id).result
    assert result is not None, "the job has succeeded"
    assert result["entries"] == num_images, "every file is in the receipt"
    catalog.close()
    return seconds


@contextmanager
def _memory() -> Iterator[list[int]]:
    """The peak of what this process and its children hold, while the block runs: one number, in bytes."""
    peak, is_over = [0], threading.Event()

    def sample() -> None:
        while not is_over.wait(SAMPLE_S):
            peak[0] = max(peak[0], sum(_held(pid) for pid in _family(os.getpid())))

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        yield peak
    finally:
        is_over.set()
        sampling.join()


def _family(pid: int) -> list[int]:
    try:
        children = [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(each for child in children for each in _family(child))]


def _held(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)


def main() -> None:
    """Measure, and print the record as JSON."""
    parser = argparse.ArgumentParser(description="Ingest against its bare cost.")
    parser.add_argument("archive", type=Path, help="a tar of images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=1, help="make the archive so many times as large")
    parser.add_argument("--children", type=int, help="decoding children; one a core if not said")
    parser.add_argument("--place", type=Path, help="where to write; the system's temporary folder")
    chosen = parser.parse_args()
    found = measure(
        chosen.archive, rounds=chosen.rounds, repeat=chosen.repeat, children=chosen.children, place=chosen.place
    )
    print(json.dumps(asdict(found), indent=1))


if __name__ == "__main__":
    main()
