"""Receipts: one line for every entry of a job's uploads, and the judgement whether an image is new.

The same judgement on every attempt, so that a job which is killed and begun again gives the same receipt.
The lines lie in a file of the job's folder, so that a million of them take no more memory than ten.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from understudy import labels
from understudy.catalog.claims import Claim
from understudy.catalog.shards import Known
from understudy.records import Outcome, ReceiptEntry
from understudy.store import Store, receipt_key

_COLUMNS = tuple(ReceiptEntry.model_fields)
_CREATE = f"""CREATE TABLE lines ({", ".join(f'"{name}"' for name in _COLUMNS)}, PRIMARY KEY ("index")) WITHOUT ROWID"""
_WRITE = f"INSERT OR REPLACE INTO lines VALUES ({', '.join('?' for _ in _COLUMNS)})"


class Receipt:
    """The lines so far. A line may be written again: an image that was to be accepted can be lost to another job.

    ``folder`` is deleted by its maker, and the file with it. Close it before.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "receipt.parquet"
        self._database = sqlite3.connect(folder / "receipt.db", isolation_level=None)
        # Nobody reads it after a crash: the next attempt begins with an empty one.
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(_CREATE)
        self._database.execute("BEGIN")

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM lines").fetchone()[0])

    def write(self, line: ReceiptEntry) -> None:
        """Write the line of one entry, over an earlier one if there is one."""
        self._database.execute(_WRITE, [getattr(line, name) for name in _COLUMNS])

    def lines(self) -> Iterator[ReceiptEntry]:
        """Every line, in the order of the upload."""
        with closing(self._database.execute('SELECT * FROM lines ORDER BY "index"')) as rows:
            for row in rows:
                yield ReceiptEntry(**dict(zip(_COLUMNS, row, strict=True)))

    def accepted(self) -> set[int]:
        """The indexes of the entries that were accepted."""
        rows = self._database.execute('SELECT "index" FROM lines WHERE outcome = ?', [Outcome.ACCEPTED])
        return {index for (index,) in rows}

    def store(self, store: Store, claim: Claim) -> dict[str, Any]:
        """Put the receipt into the store under this attempt; gives the job's result, whose outcomes sum to its entries."""
        key = receipt_key(str(claim.id), claim.attempt)
        labels.write_receipt(self._path, self.lines())
        store.replace(key, self._path)
        outcomes = self._counts("outcome")
        return {
            "entries": len(self),
            **{outcome.value: outcomes.get(outcome, 0) for outcome in Outcome},
            "reasons": self._counts("reason"),
            "near_duplicates": self._num_near_duplicates(),
            "receipt_key": key,
        }

    def _counts(self, column: str) -> dict[str, int]:
        counted = f"SELECT {column}, count(*) FROM lines WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 1"
        return dict(self._database.execute(counted).fetchall())

    def _num_near_duplicates(self) -> int:
        counted = "SELECT count(*) FROM lines WHERE resembles IS NOT NULL AND outcome = ?"
        return int(self._database.execute(counted, [Outcome.ACCEPTED]).fetchone()[0])

    def close(self) -> None:
        """Close the file of the lines."""
        self._database.close()


def judge(index: int, name: str, sha256: str, *, job_id: str, known: Known | None, first: int | None) -> ReceiptEntry:
    """What becomes of an image for a bucket.

    ``known``: where the catalog has it already; ``first``: the earlier entry of this job with the same bytes.
    """

    def line(outcome: Outcome, detail: str | None = None, copy_of: str | None = None) -> ReceiptEntry:
        return ReceiptEntry(index=index, name=name, outcome=outcome, detail=detail, sha256=sha256, copy_of=copy_of)

    if known is not None and known.split == "holdout":
        return line(Outcome.HOLDOUT_LEAK, f"it is in the holdout: {_place(known)}", place(known))
    if first is not None:
        return line(Outcome.DUPLICATE, f"the same as entry {first} of this upload", f"{job_id}/{first}")
    if known is None or is_own(known, job_id, index):
        return line(Outcome.ACCEPTED)
    if known.job_id == job_id:
        return line(Outcome.DUPLICATE, f"the same as entry {known.entry} of this upload", place(known))
    where = "labeled" if known.class_name else "there"
    return line(Outcome.DUPLICATE, f"it is {where} already: {_place(known)}", place(known))


def is_own(known: Known, job_id: str, index: int) -> bool:
    """Whether an earlier attempt at this very job has sealed this very entry."""
    return known.job_id == job_id and known.entry == index


def place(known: Known) -> str:
    """Where an image came in, as a receipt names a first copy: job/index."""
    return f"{known.job_id}/{known.entry}"


def _place(known: Known) -> str:
    as_class = f" as {known.class_name!r}" if known.class_name is not None else ""
    return f"entry {known.entry} of job {known.job_id}{as_class}"
