"""From an entry to a candidate: bytes that proved to be an image, with their identity.

The whole image is decoded once here, so that nothing in a shard fails later. Whether it is new, it does
not know.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from understudy import images
from understudy.errors import ImageRefused
from understudy.records import Outcome, ReceiptEntry
from worker.uploads import Numbered

#: Candidates that are looked up in the catalog together, so that a query is shared by many.
BATCH_ENTRIES = 64
#: Of how many bytes at most: a batch of large photos is a small one.
BATCH_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Candidate:
    """An image that could be accepted."""

    index: int
    name: str
    folder: str  #: the nearest folder's name; empty if there is none
    split: Literal["unlabeled", "labeled", "holdout"]
    data: bytes
    sha256: str
    facts: images.Facts


def check(numbered: Numbered) -> Candidate | ReceiptEntry:
    """Decode an entry: a candidate, or the line of the receipt that says why it is none."""
    index, entry = numbered.index, numbered.entry
    if entry.attached_to is not None:
        detail = f"it belongs to {entry.attached_to}"
        return ReceiptEntry(index=index, name=entry.name, outcome=Outcome.ATTACHED, detail=detail)
    if entry.refusal is not None:
        return quarantined(index, entry.name, entry.refusal.code, entry.refusal.detail)
    try:
        images.decode(entry.data)
        facts = images.inspect(entry.data)
    except ImageRefused as refused:
        return quarantined(index, entry.name, refused.code, str(refused))
    sha256 = hashlib.sha256(entry.data).hexdigest()
    return Candidate(index, entry.name, entry.folder, numbered.split, entry.data, sha256, facts)


def quarantined(index: int, name: str, code: str, detail: str) -> ReceiptEntry:
    """The line of an entry that cannot be used."""
    return ReceiptEntry(index=index, name=name, outcome=Outcome.QUARANTINED, reason=code, detail=detail)


def batches(checked: Iterable[Candidate | ReceiptEntry]) -> Iterator[list[Candidate | ReceiptEntry]]:
    """The same in lists of bounded length and bounded size."""
    batch: list[Candidate | ReceiptEntry] = []
    num_bytes = 0
    for item in checked:
        batch.append(item)
        num_bytes += len(item.data) if isinstance(item, Candidate) else 0
        if len(batch) >= BATCH_ENTRIES or num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch
