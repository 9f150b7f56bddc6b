"""Label sets: the pseudo-labels of one shard by one teacher, as one Parquet file, and queries over many.

The only door to pyarrow and DuckDB. A query is given the label sets that the catalog lists, never a
folder: a file that is still being written must not be read. Which pseudo-labels a student trains on is
decided in ``trainer/selection.py``; here is only how they are stored and read.
"""

import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from understudy.records import ReceiptEntry
from understudy.store import Store

#: The classes whose probabilities are kept by name; the rest is one number, the tail mass. The soft
#: loss spreads the tail evenly over the other classes (for 1,000 classes, 10 hold nearly all the mass).
TOP_CLASSES = 10
#: Rows in memory at a time while reading.
BATCH_ROWS = 65_536

SCHEMA = pa.schema(
    [
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),  # argmax, an index into the teacher's classes
        pa.field("confidence", pa.float32(), nullable=False),  # the largest probability
        pa.field("top_classes", pa.list_(pa.int32()), nullable=False),  # most probable first
        pa.field("top_probabilities", pa.list_(pa.float32()), nullable=False),
        pa.field("tail_mass", pa.float32(), nullable=False),  # of all classes not in top_classes
    ]
)

_NAMED_SCHEMA = SCHEMA.append(pa.field("label_set", pa.string(), nullable=False))

RECEIPT_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("copy_of", pa.string()),
        pa.field("resembles", pa.string()),
    ]
)
#: Lines of a receipt that are in memory at a time.
RECEIPT_LINES = 10_000


def to_parquet(sha256s: Sequence[str], probabilities: npt.NDArray[np.float32], provenance: dict[str, Any]) -> bytes:
    """One label set as a file.

    ``probabilities`` is (N, C) float32, row i of image ``sha256s[i]``; ``provenance`` (teacher,
    classes, shard, software) goes into the file's metadata. The same input gives the same rows.
    """
    num_kept = min(TOP_CLASSES, probabilities.shape[1])
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :num_kept].astype(np.int32)  # (N, K)
    top = np.take_along_axis(probabilities, order, axis=1)  # (N, K)
    tail = np.clip(1.0 - top.sum(axis=1), 0.0, 1.0).astype(np.float32)
    offsets = np.arange(0, (len(sha256s) + 1) * num_kept, num_kept, dtype=np.int32)
    table = pa.Table.from_arrays(
        [
            pa.array(list(sha256s), pa.string()),
            pa.array(order[:, 0], pa.int32()),
            pa.array(top[:, 0], pa.float32()),
            pa.ListArray.from_arrays(offsets, pa.array(order.ravel(), pa.int32())),
            pa.ListArray.from_arrays(offsets, pa.array(top.ravel(), pa.float32())),
            pa.array(tail, pa.float32()),
        ],
        schema=SCHEMA.with_metadata({"understudy": json.dumps(provenance, sort_keys=True)}),
    )
    return _write(table)


def provenance(store: Store, key: str) -> dict[str, Any]:
    """What a label set says of where it came from."""
    with store.open(key) as file:
        metadata = pq.read_schema(file).metadata or {}
    return dict(json.loads(metadata[b"understudy"]))


def read(store: Store, keys: Sequence[str]) -> pa.RecordBatchReader:
    """The rows of many label sets, in order, in bounded memory."""
    return pa.RecordBatchReader.from_batches(SCHEMA, _batches(store, keys))


def _batches(store: Store, keys: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for key in keys:
        with store.open(key) as file:
            for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS):
                yield pa.RecordBatch.from_arrays(batch.columns, schema=SCHEMA)


def _named_batches(store: Store, keys: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for key in keys:
        for batch in _batches(store, [key]):
            yield pa.RecordBatch.from_arrays(
                [*batch.columns, pa.array([key] * batch.num_rows, pa.string())], schema=_NAMED_SCHEMA
            )


def query(
    store: Store, keys: Sequence[str], sql: str, parameters: dict[str, Any] | None = None, **tables: pa.Table
) -> pa.Table:
    """Run SQL in which ``labels`` stands for the rows of these label sets, and give the answer.

    Besides the columns of ``SCHEMA``, ``label_set`` is the key of the set that a row is from. ``tables``
    are joined by their names. The connection is private and cannot reach any file.
    """
    with duckdb.connect(":memory:", config={"enable_external_access": False, "memory_limit": "2GB"}) as connection:
        named = pa.RecordBatchReader.from_batches(_NAMED_SCHEMA, _named_batches(store, keys))
        connection.register("incoming", named)
        connection.execute("CREATE TEMP TABLE labels AS SELECT * FROM incoming")
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(sql, params=parameters or {}).to_arrow_table()


def dense(
    top_classes: Sequence[int], top_probabilities: Sequence[float], tail: float, num_classes: int
) -> npt.NDArray[np.float32]:
    """A stored soft label as a whole distribution: (C,) float32, the tail spread evenly."""
    rest = num_classes - len(top_classes)
    probabilities = np.full(num_classes, tail / rest if rest else 0.0, dtype=np.float32)
    probabilities[np.asarray(top_classes, dtype=np.int64)] = top_probabilities
    normalised: npt.NDArray[np.float32] = probabilities / probabilities.sum()
    return normalised


def table_to_parquet(table: pa.Table) -> bytes:
    """Any table as a Parquet file in memory."""
    return _write(table)


def table_from_parquet(data: bytes) -> pa.Table:
    """The table of a Parquet file in memory."""
    return pq.read_table(pa.BufferReader(data))


def receipt_to_parquet(entries: Iterable[ReceiptEntry]) -> bytes:
    """A short receipt as a file in memory."""
    sink = io.BytesIO()
    write_receipt(sink, entries)
    return sink.getvalue()


def write_receipt(target: Path | IO[bytes], entries: Iterable[ReceiptEntry]) -> None:
    """A receipt of any length into a local file, a few lines in memory at a time."""
    with pq.ParquetWriter(target, RECEIPT_SCHEMA, compression="zstd") as writer:
        lines = iter(entries)
        while some := [line.model_dump(mode="json") for line in itertools.islice(lines, RECEIPT_LINES)]:
            writer.write_table(pa.Table.from_pylist(some, schema=RECEIPT_SCHEMA))


def receipt_lines(store: Store, key: str, *, offset: int = 0) -> Iterator[ReceiptEntry]:
    """The lines of a receipt from ``offset`` on, in order; what lies before is not read."""
    with store.open(key) as file:
        parquet = pq.ParquetFile(file)
        first = 0
        for group in range(parquet.num_row_groups):
            num_rows = parquet.metadata.row_group(group).num_rows
            if offset < first + num_rows:
                table = parquet.read_row_group(group).slice(max(0, offset - first))
                for batch in table.to_batches(max_chunksize=1000):
                    yield from (ReceiptEntry(**row) for row in batch.to_pylist())
            first += num_rows


def read_receipt(store: Store, key: str, *, offset: int, limit: int) -> list[ReceiptEntry]:
    """Some lines of a receipt, from ``offset``."""
    return list(itertools.islice(receipt_lines(store, key, offset=offset), limit))


def _write(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
