"""Receipts: one line for every entry of a job's uploads, and the judgement whether an image is new.

The same judgement on every attempt, so that a job which is killed and begun again gives the same receipt.
"""

from collections import Counter
from typing import Any

from understudy import labels
from understudy.catalog.claims import Claim
from understudy.catalog.shards import Known
from understudy.records import Outcome, ReceiptEntry
from understudy.store import Store, receipt_key


class Receipt:
    """The lines so far. A line may be written again: an image that was to be accepted can be lost to another job."""

    def __init__(self) -> None:
        self._lines: dict[int, ReceiptEntry] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def write(self, line: ReceiptEntry) -> None:
        """Write the line of one entry, over an earlier one if there is one."""
        self._lines[line.index] = line

    def lines(self) -> list[ReceiptEntry]:
        """Every line, in the order of the upload."""
        return [self._lines[index] for index in sorted(self._lines)]

    def store(self, store: Store, claim: Claim) -> dict[str, Any]:
        """Put the receipt into the store under this attempt; gives the job's result, whose outcomes sum to its entries."""
        key = receipt_key(str(claim.id), claim.attempt)
        store.replace(key, labels.receipt_to_parquet(self.lines()))
        outcomes = Counter(line.outcome for line in self._lines.values())
        reasons = Counter(line.reason for line in self._lines.values() if line.reason is not None)
        return {
            "entries": len(self._lines),
            **{outcome.value: outcomes[outcome] for outcome in Outcome},
            "reasons": dict(sorted(reasons.items())),
            "receipt_key": key,
        }


def judge(index: int, name: str, sha256: str, *, job_id: str, known: Known | None, first: int | None) -> ReceiptEntry:
    """What becomes of an image for a bucket.

    ``known``: where the catalog has it already; ``first``: the earlier entry of this job with the same bytes.
    """

    def line(outcome: Outcome, detail: str | None = None) -> ReceiptEntry:
        return ReceiptEntry(index=index, name=name, outcome=outcome, detail=detail, sha256=sha256)

    if known is not None and known.split == "holdout":
        return line(Outcome.HOLDOUT_LEAK, f"it is in the holdout: {_place(known)}")
    if first is not None:
        return line(Outcome.DUPLICATE, f"the same as entry {first} of this upload")
    if known is None or is_own(known, job_id, index):
        return line(Outcome.ACCEPTED)
    if known.job_id == job_id:
        return line(Outcome.DUPLICATE, f"the same as entry {known.entry} of this upload")
    return line(Outcome.DUPLICATE, f"it is {'labeled' if known.class_name else 'there'} already: {_place(known)}")


def is_own(known: Known, job_id: str, index: int) -> bool:
    """Whether an earlier attempt at this very job has sealed this very entry."""
    return known.job_id == job_id and known.entry == index


def _place(known: Known) -> str:
    as_class = f" as {known.class_name!r}" if known.class_name is not None else ""
    return f"entry {known.entry} of job {known.job_id}{as_class}"
