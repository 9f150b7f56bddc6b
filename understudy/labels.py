"""Label sets: the pseudo-labels of one shard by one teacher, as one Parquet file, and queries over many.

The only door to pyarrow and DuckDB. A query is given the label sets that the catalog lists, never a
folder: a file that is still being written must not be read. Which pseudo-labels a student trains on is
decided in ``trainer/selection.py``; here is only how they are stored and read.
"""

import hashlib
import io
import itertools
import json
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from understudy import cores, label_files
from understudy.errors import LabelSetRefused, UnderstudyError
from understudy.records import Outcome, ReceiptEntry
from understudy.store import Store

#: The classes whose probabilities are kept by name; the rest is one number, the tail mass. The soft
#: loss spreads the tail evenly over the other classes (for 1,000 classes, 10 hold nearly all the mass).
TOP_CLASSES = 10
#: Rows in memory at a time while reading.
BATCH_ROWS = 65_536
#: What DuckDB may hold; the process takes some hundred MB besides.
MEMORY_LIMIT = "1GB"
#: What a query may put aside on the disk. Sorting 50 million rows with their soft labels takes about 8 GB.
MAX_SPILL = "64GB"

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


def batches(store: Store, key: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Columns of any Parquet file of ours, in order, ``BATCH_ROWS`` at a time. Raises FileNotFoundError."""
    with store.open(key) as file:
        yield from pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=list(columns))


def soft(
    store: Store, wanted: Mapping[str, Sequence[str]], *, spool: Path | None = None, threads: int | None = None
) -> dict[tuple[str, str], tuple[list[int], list[float]]]:
    """The most probable classes of some images and their probabilities: (label set, sha-256) → both.

    ``wanted`` are images by label set; an image that is not there is left out. For a page of them, of which each may
    be in a label set of its own, it takes half the time of a query. Raises FileNotFoundError and LabelSetRefused.
    """
    root = label_files.folder_with(store, list(wanted), cache=_cache(store, spool))
    found: dict[tuple[str, str], tuple[list[int], list[float]]] = {}
    with ThreadPoolExecutor(threads or cores.available(), thread_name_prefix="soft") as pool:
        for some in pool.map(lambda one: _soft(root, *one), wanted.items()):
            found |= some
    return found


def _soft(root: Path, key: str, sha256s: Sequence[str]) -> dict[tuple[str, str], tuple[list[int], list[float]]]:
    try:
        rows = pq.ParquetFile(root / key).read(["sha256", "top_classes", "top_probabilities"], use_threads=False)
    except (pa.ArrowException, OSError):
        _find_damage(root, [key])
        raise
    places = {sha256: pc.index(rows["sha256"], sha256).as_py() for sha256 in sha256s}
    return {
        (key, sha256): (rows["top_classes"][place].as_py(), rows["top_probabilities"][place].as_py())
        for sha256, place in places.items()
        if place >= 0
    }


def _cache(store: Store, spool: Path | None) -> Path:
    """Where label sets of a bucket are on this machine."""
    folder = spool or Path(tempfile.gettempdir())
    return folder / f"label-sets-{hashlib.sha256(store.url.encode()).hexdigest()[:12]}"


def query(
    store: Store,
    keys: Sequence[str],
    sql: str,
    parameters: dict[str, Any] | None = None,
    *,
    spool: Path | None = None,
    threads: int | None = None,
    **tables: pa.Table,
) -> pa.Table:
    """Run SQL in which ``labels`` stands for the rows of these label sets, and give the answer.

    Besides the columns of ``SCHEMA``, ``label_set`` is the key of the set that a row is from. ``tables``
    are joined by their names. The rest is as in ``opened``.
    """
    with opened(store, {"labels": keys}, spool=spool, threads=threads, tables=tables) as session:
        return session.ask(sql, parameters)


class Session:
    """A private DuckDB over some label sets; ``opened`` makes it."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, folder: Path, root: Path, fetch: Callable[[Sequence[str]], object]
    ) -> None:
        self._connection, self._folder, self._root, self._fetch = connection, folder, root, fetch
        self._shown: dict[str, Sequence[str]] = {}

    def show(self, name: str, keys: Sequence[str]) -> None:
        """From now on the name stands for the rows of these label sets, which it was opened for. Of none it has no row."""
        self._shown[name] = keys
        self._fetch(keys)
        self._connection.execute(f"DROP VIEW IF EXISTS {name}")
        if not keys:
            self._connection.register(name, _NAMED_SCHEMA.empty_table())
            return
        files = [f"{self._root}/{key}" for key in keys]
        self._connection.execute(f"SET VARIABLE files_of_{name} = $files", {"files": files})
        with self._naming_damage():
            self._connection.execute(
                f"CREATE TEMP VIEW {name} AS "
                f"SELECT * EXCLUDE filename, substr(filename, {len(str(self._root)) + 2}) AS label_set "
                f"FROM read_parquet(getvariable('files_of_{name}'), filename = true)"
            )

    def ask(self, sql: str, parameters: dict[str, Any] | None = None) -> pa.Table:
        """The answer to a query, which must fit into memory."""
        with self._naming_damage():
            return self._connection.sql(sql, params=parameters or {}).to_arrow_table()

    def keep(self, name: str, sql: str, parameters: dict[str, Any] | None = None) -> None:
        """Keep an answer as a table of that name, for what is asked later."""
        with self._naming_damage():
            self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}", parameters or {})

    def give(self, name: str, table: pa.Table) -> None:
        """Have a table of ours under that name."""
        self._connection.register(name, table)

    def write(self, sql: str, parameters: dict[str, Any] | None = None) -> Path:
        """The answer to a query, however long, as a Parquet file; it is gone when the session ends."""
        path = self._folder / f"{uuid.uuid4().hex}.parquet"
        with self._naming_damage():
            self._connection.execute(
                f"COPY ({sql}) TO '{_quoted(path)}' (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)",
                parameters or {},
            )
        return path

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            raise UnderstudyError(
                f"a query over label sets needs more memory or spool than it may have: {error}"
            ) from error
        except duckdb.Error:
            for keys in self._shown.values():
                _find_damage(self._root, keys)
            raise


@contextmanager
def opened(
    store: Store,
    named: Mapping[str, Sequence[str]],
    *,
    more: Sequence[str] = (),
    spool: Path | None = None,
    memory: str = MEMORY_LIMIT,
    threads: int | None = None,
    tables: Mapping[str, pa.Table] = MappingProxyType({}),
) -> Iterator[Session]:
    """A DuckDB in which each name of ``named`` stands for the rows of its label sets, and whose SQL reaches no other file.

    ``more`` are label sets that may be shown later. Columns and conditions are pushed down into the files. What does
    not fit into ``memory`` goes to ``spool`` (None: the system's temporary folder), at most ``MAX_SPILL``. ``threads``
    None: one a core. Raises FileNotFoundError for a label set that is not there and LabelSetRefused for one
    that is damaged.
    """
    if spool is not None:
        spool.mkdir(parents=True, exist_ok=True)
    cache = _cache(store, spool)
    root = store.folder or cache
    keys = {key for some in (*named.values(), more) for key in some}
    settings: dict[str, Any] = {"memory_limit": memory, "threads": threads or cores.available()}
    with (
        tempfile.TemporaryDirectory(dir=spool, prefix="query-") as folder,
        duckdb.connect(":memory:", config=settings) as connection,
    ):
        _close_off(connection, [f"{root}/{key}" for key in keys], Path(folder))
        fetch = partial(label_files.folder_with, store, cache=cache)
        session = Session(connection, Path(folder), root, fetch)
        for name, some in named.items():
            session.show(name, some)
        for name, table in tables.items():
            session.give(name, table)
        yield session


def _close_off(connection: duckdb.DuckDBPyConnection, files: Sequence[str], folder: Path) -> None:
    """From here on the connection reads these files, writes into the folder, and reaches nothing else."""
    if files:
        listed = ", ".join(f"'{_quoted(file)}'" for file in files)
        connection.execute(f"SET allowed_paths = [{listed}]")
    connection.execute(f"SET allowed_directories = ['{_quoted(folder)}/']")
    connection.execute(f"SET temp_directory = '{_quoted(folder)}/spill'")
    connection.execute(f"SET max_temp_directory_size = '{MAX_SPILL}'")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _quoted(path: Path | str) -> str:
    return str(path).replace("'", "''")


def _find_damage(root: Path, keys: Sequence[str]) -> None:
    """Read every label set to its end. Raises FileNotFoundError or LabelSetRefused for the first that cannot be."""
    for key in keys:
        try:
            for _ in pq.ParquetFile(root / key).iter_batches(BATCH_ROWS):
                pass
        except FileNotFoundError as error:
            raise FileNotFoundError(f"label set {key} is not in the store") from error
        except (pa.ArrowException, OSError) as error:
            raise LabelSetRefused(
                f"label set {key} is damaged ({str(error).splitlines()[0][:200]}); delete it and label its shard again"
            ) from error


def dense(
    top_classes: Sequence[int], top_probabilities: Sequence[float], tail: float, num_classes: int
) -> npt.NDArray[np.float32]:
    """A stored soft label as a whole distribution: (C,) float32, the tail spread evenly."""
    rest = num_classes - len(top_classes)
    probabilities = np.full(num_classes, tail / rest if rest else 0.0, dtype=np.float32)
    probabilities[np.asarray(top_classes, dtype=np.int64)] = top_probabilities
    normalised: npt.NDArray[np.float32] = probabilities / probabilities.sum()
    return normalised


def table(columns: Mapping[str, Sequence[Any]], **types: str) -> pa.Table:
    """A table of our own, for a query to join; ``types`` are Arrow's names, by column."""
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in types.items()])
    return pa.table({name: list(values) for name, values in columns.items()}, schema=schema)


def digests(column: pa.ChunkedArray) -> npt.NDArray[np.bytes_]:
    """A column of binary sha-256 as (N,) S32."""
    fixed = column.cast(pa.binary(32)).combine_chunks()
    return (
        np.frombuffer(fixed.buffers()[1], "S32", count=len(fixed), offset=32 * fixed.offset)
        if len(fixed)
        else np.empty(0, "S32")
    )


def grouped(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The different values of a column of text, and the number of its value for each row."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()


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


def receipt_lines(store: Store, key: str, *, offset: int = 0, only: Outcome | None = None) -> Iterator[ReceiptEntry]:
    """The lines of a receipt from ``offset`` on, in order, or those of one outcome; what lies before is not read."""
    with store.open(key) as file:
        parquet = pq.ParquetFile(file)
        first = 0
        for group in range(parquet.num_row_groups):
            num_rows = parquet.metadata.row_group(group).num_rows
            if offset < first + num_rows:
                table = parquet.read_row_group(group).slice(max(0, offset - first))
                if only is not None:
                    table = table.filter(pc.equal(table["outcome"], only.value))
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
