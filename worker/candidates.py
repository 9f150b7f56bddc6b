"""From an entry to a candidate: bytes that proved to be an image, with their identity.

The whole image is decoded once, in a child that may die of it, so that nothing in a shard fails later.
Whether it is new, this does not know.
"""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from understudy import images
from understudy.records import Outcome, Problem, ReceiptEntry
from worker.checkers import Checked, Checkers
from worker.entries import Folder
from worker.uploads import Numbered

#: Candidates that are looked up in the catalog together, so that a query is shared by many.
BATCH_ENTRIES = 256
#: Of how many bytes at most: a batch of large photos is a small one.
BATCH_BYTES = 8 * 2**20


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
    is_animated: bool = False
    fingerprint: bytes = b""  #: see ``understudy/fingerprints.py``; empty if nothing can resemble it


@dataclass(frozen=True)
class Unused:
    """An entry that is no candidate: its line, and the bytes of one in quarantine if they were read."""

    line: ReceiptEntry
    data: bytes = b""


Found = Candidate | Unused


def check(checkers: Checkers, found: Iterable[Numbered | Folder]) -> Iterator[Found | Folder]:
    """Decode every entry: a candidate, or why it is none. Folders pass; the order stays."""
    for item, answer in checkers.check(found, _image_of):
        yield item if isinstance(item, Folder) else _judged(item, answer)


def _image_of(item: Numbered | Folder) -> bytes | None:
    """What is to be decoded; None: nothing, because it is refused already, or only belongs to an image."""
    if isinstance(item, Folder) or item.entry.refusal is not None or item.entry.attached_to is not None:
        return None
    return item.entry.data


def _judged(numbered: Numbered, answer: Checked | Problem | None) -> Found:
    index, entry = numbered.index, numbered.entry
    if entry.attached_to is not None:
        detail = f"it belongs to {entry.attached_to}"
        return Unused(ReceiptEntry(index=index, name=entry.name, outcome=Outcome.ATTACHED, detail=detail))
    problem = entry.refusal if answer is None else answer
    if isinstance(problem, Problem):
        return Unused(quarantined(index, entry.name, problem.code, problem.detail), entry.data)
    assert isinstance(answer, Checked), "what was not refused was checked"
    sha256 = hashlib.sha256(entry.data).hexdigest()
    return Candidate(
        index, entry.name, entry.folder, numbered.split, entry.data, sha256,
        answer.facts, answer.is_animated, answer.fingerprint,
    )  # fmt: skip


def quarantined(index: int, name: str, code: str, detail: str) -> ReceiptEntry:
    """The line of an entry that cannot be used."""
    return ReceiptEntry(index=index, name=name, outcome=Outcome.QUARANTINED, reason=code, detail=detail)


def batches(checked: Iterable[Found]) -> Generator[list[Found]]:
    """The same in lists of bounded length and bounded size."""
    batch: list[Found] = []
    num_bytes = 0
    for item in checked:
        batch.append(item)
        num_bytes += len(item.data)
        if len(batch) >= BATCH_ENTRIES or num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch
