"""Selection over millions of pseudo-labels, beside the bare DuckDB query for the same answer; facets and a page.

``python -m benchmarks.pipeline.selection [--rows N]`` writes label sets of the real shape (1,000 rows each) into a
temporary folder, and runs each contestant as a process of its own, so that each has its own peak of memory.
"""

import argparse
import hashlib
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from service.looking import THREADS
from trainer import selection
from understudy import labels, pseudo_labels, recipes, registry
from understudy.catalog import Catalog, jobs, versions
from understudy.catalog.tables import LabelSetRow, ShardRow
from understudy.label_records import LabelSort, PreviewRequest
from understudy.pseudo_labels import Filters, Looking
from understudy.records import JobKind, JobState
from understudy.store import Store
from understudy.testing import tiny_artifact

NUM_CLASSES = 1000
ROWS_PER_SET = 1000
#: The paper wants 130,000 of each of 1,000 classes from 300 million images.
PER_CLASS_SHARE = 130 / 300_000
#: Bytes a row in a file, to see before writing whether the disk has room for them and for what is spilled.
BYTES_PER_ROW = 500

BARE = """
WITH candidates AS (SELECT * FROM read_parquet($files) WHERE confidence >= 0.3),
counts AS (SELECT label, count(*) AS available FROM candidates GROUP BY label),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY label ORDER BY confidence DESC, sha256) AS place FROM candidates
)
SELECT sha256, label, confidence, top_classes, top_probabilities, tail_mass,
       least(4, $target // available + (place <= $target % available)::BIGINT)::INTEGER AS copies
FROM ranked JOIN counts USING (label)
WHERE copies > 0
ORDER BY label, place
"""


@dataclass(frozen=True)
class Cost:
    """What one contestant took."""

    seconds: float
    peak_mb: float
    answer: str  #: digest of (sha256, copies) in their order, to see that both answered the same


@dataclass(frozen=True)
class Figures:
    """One run."""

    num_rows: int
    bare: Cost
    ours: Cost
    ratio: float  #: of seconds


def write_label_sets(store: Store, num_rows: int) -> selection.LabelSets:
    """Label sets as a labeling worker writes them: skewed classes, a teacher that is mostly sure."""
    rng = np.random.default_rng(0)
    weights = 1 / (np.arange(NUM_CLASSES) + 20.0)
    keys = []
    for number in range(num_rows // ROWS_PER_SET):
        chosen = rng.choice(NUM_CLASSES, ROWS_PER_SET, p=weights / weights.sum()).astype(np.int32)
        confidence = rng.beta(2, 0.7, ROWS_PER_SET).astype(np.float32)  # (1000,)
        rest = -np.sort(-rng.dirichlet(np.full(9, 0.5), ROWS_PER_SET), axis=1)  # (1000, 9)
        top = np.column_stack([confidence, rest * 0.9 * (1 - confidence)[:, None]]).astype(np.float32)  # (1000, 10)
        others = rng.integers(0, NUM_CLASSES, (ROWS_PER_SET, 9), dtype=np.int32)
        names = rng.bytes(32 * ROWS_PER_SET).hex()
        offsets = np.arange(0, (ROWS_PER_SET + 1) * 10, 10, dtype=np.int32)
        table = pa.Table.from_arrays(
            [
                pa.array([names[i * 64 : i * 64 + 64] for i in range(ROWS_PER_SET)]),
                pa.array(chosen),
                pa.array(confidence),
                pa.ListArray.from_arrays(offsets, pa.array(np.column_stack([chosen, others]).ravel())),
                pa.ListArray.from_arrays(offsets, pa.array(top.ravel())),
                pa.array(1 - top.sum(axis=1)),
            ],
            schema=labels.SCHEMA,
        )
        key = f"labels/g0000-000000/b/{number:06d}.1.parquet"
        assert store.folder is not None
        (store.folder / key).parent.mkdir(parents=True, exist_ok=True)
        (store.folder / key).write_bytes(labels.table_to_parquet(table))  # without the store's fsync of each
        keys.append(key)
    return selection.LabelSets(
        teacher="g0000-000000", label_sets=tuple(keys), shards=tuple(key.replace("labels", "shards") for key in keys)
    )


def select_ours(folder: Path, sets: selection.LabelSets, num_rows: int) -> Path:
    """As the trainer does."""
    selection.select(
        Store((folder / "store").as_uri()),
        sets,
        classes=[str(n) for n in range(NUM_CLASSES)],
        labeled_counts={},
        human_labeled=set(),
        recipe=recipes.recipe("small", {"per_class": _target(num_rows), "threshold": 0.3, "max_copies": 4}),
        rows=folder / "ours.parquet",
        spool=folder / "spool",
    )
    return folder / "ours.parquet"


def select_bare(folder: Path, sets: selection.LabelSets, num_rows: int) -> Path:
    """The query that says what is wanted, under the same limit of memory."""
    files = [str(folder / "store" / key) for key in sets.label_sets]
    config: dict[str, Any] = {"memory_limit": labels.MEMORY_LIMIT, "temp_directory": str(folder / "spill")}
    with duckdb.connect(":memory:", config=config) as connection:
        connection.execute(
            f"COPY ({BARE}) TO '{folder / 'bare.parquet'}' (FORMAT parquet, COMPRESSION zstd)",
            {"files": files, "target": _target(num_rows)},
        )
    return folder / "bare.parquet"


def _target(num_rows: int) -> int:
    return max(1, int(num_rows * PER_CLASS_SHARE))


def contestant(name: str, folder: Path, num_rows: int) -> Cost:
    """Run one in this process, and look at its memory before the answers are read."""
    sets = selection.LabelSets.model_validate_json((folder / "sets.json").read_bytes())
    started = time.perf_counter()
    answer = (select_ours if name == "ours" else select_bare)(folder, sets, num_rows)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    digest = hashlib.sha256()
    with duckdb.connect(":memory:", config={"memory_limit": "1GB"}) as connection:
        reader = connection.sql("SELECT sha256, copies FROM read_parquet($f)", params={"f": str(answer)})
        for batch in reader.to_arrow_reader(100_000):
            digest.update("".join(map(str, batch.column(0).to_pylist())).encode())
            digest.update(np.ascontiguousarray(batch.column(1).to_numpy(zero_copy_only=False)).tobytes())
    answer.unlink()
    return Cost(seconds=seconds, peak_mb=peak, answer=digest.hexdigest())


def _in_a_process(name: str, folder: Path, num_rows: int) -> Cost:
    command = [sys.executable, "-m", "benchmarks.pipeline.selection"]
    options = ["--contestant", name, "--folder", str(folder), "--rows", str(num_rows)]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, check=True, timeout=3600)
    print(f"{num_rows:,} rows, {name}: {done.stdout.decode().strip()}", file=sys.stderr, flush=True)
    return Cost(**json.loads(done.stdout))


def measure(num_rows: int, place: Path | None = None) -> Figures:
    """Write label sets, run both contestants, and leave nothing behind."""
    free = shutil.disk_usage(place or tempfile.gettempdir()).free
    if free < num_rows * BYTES_PER_ROW:
        raise SystemExit(
            f"{num_rows:,} rows may need {num_rows * BYTES_PER_ROW / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
        )
    with tempfile.TemporaryDirectory(dir=place, prefix="selection-") as name:
        folder = Path(name)
        sets = write_label_sets(Store((folder / "store").as_uri()), num_rows)
        (folder / "sets.json").write_bytes(sets.to_json())
        ours, bare = _in_a_process("ours", folder, num_rows), _in_a_process("bare", folder, num_rows)
    assert ours.answer == bare.answer, "the two selections differ"
    return Figures(num_rows, bare, ours, ours.seconds / bare.seconds)


@dataclass(frozen=True)
class Answers:
    """Server time of looking at pseudo-labels, on as many threads as in the service, the median of some.

    CPU seconds stand beside those on the clock.
    """

    num_rows: int
    prepare_s: float  #: what is read once, when the service starts
    prepare_cpu_s: float
    facets_s: float
    facets_cpu_s: float
    page_s: float  #: of one class, over a confidence, sorted by confidence
    page_cpu_s: float
    margin_page_s: float  #: the same sorted by margin
    margin_page_cpu_s: float
    preview_s: float
    preview_cpu_s: float


def measure_looking(num_rows: int, place: Path | None = None, *, repeats: int = 5) -> Answers:
    """Facets and pages over label sets of the real shape, with a catalog that lists them."""
    with tempfile.TemporaryDirectory(dir=place, prefix="looking-") as name:
        folder = Path(name)
        store, catalog = Store((folder / "store").as_uri()), Catalog(f"sqlite:///{folder / 'catalog.db'}")
        catalog.migrate()
        artifact, card = tiny_artifact([str(n) for n in range(NUM_CLASSES)])
        registry.publish(store, catalog, card, artifact, b"")
        with catalog.write() as session:
            versions.promote(session, card.version, instead_of=None, reason="measured", actor="benchmark")
        _list(catalog, card.version, write_label_sets(store, num_rows))
        looking = Looking(catalog, store, folder / "spool", threads=THREADS)
        narrow = Filters(class_name="3", min_confidence=0.5)
        told = [
            *_median(lambda: pseudo_labels.prepare(looking), 1),
            *_median(lambda: pseudo_labels.facets(looking), repeats),
            *_median(lambda: pseudo_labels.page(looking, narrow), repeats),
            *_median(lambda: pseudo_labels.page(looking, narrow, sort=LabelSort.MARGIN), repeats),
            *_median(lambda: pseudo_labels.preview(looking, PreviewRequest()), repeats),
        ]
        catalog.close()
    return Answers(num_rows, *told)


def _list(catalog: Catalog, version: str, sets: selection.LabelSets) -> None:
    """As if each shard had been sealed and labeled."""
    job = jobs.open_upload(catalog, JobKind.INGEST, bucket="b", params={})
    common = {"created_at": 0.0}
    with catalog.write() as session:
        for key, shard in zip(sets.label_sets, sets.shards, strict=True):
            row = ShardRow(
                key=shard, split="unlabeled", bucket="b", job_id=job.id, num_images=ROWS_PER_SET, num_bytes=1, **common
            )
            session.add(row)
            session.flush()
            session.add(
                LabelSetRow(
                    state=JobState.SUCCEEDED, shard_id=row.id, version=version, key=key, num_rows=ROWS_PER_SET,
                    updated_at=0.0, **common,
                )
            )  # fmt: skip


def _median(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds on the clock and of CPU."""
    seconds, cpu = [], []
    for _ in range(repeats):
        began, began_cpu = time.perf_counter(), time.process_time()
        work()
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    return statistics.median(seconds), statistics.median(cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000, 50_000_000])
    parser.add_argument("--looking", action="store_true", help="measure facets and pages instead")
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder")
    parser.add_argument("--contestant", choices=["ours", "bare"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contestant:
        print(json.dumps(asdict(contestant(asked.contestant, asked.folder, asked.rows[0]))))
        return
    for num_rows in asked.rows:
        figures = measure_looking(num_rows, asked.folder) if asked.looking else measure(num_rows, asked.folder)
        print(json.dumps(asdict(figures)), flush=True)


if __name__ == "__main__":
    main()
