"""What pages and counts of pseudo-labels are found by: a few columns of each label set, kept in memory.

A label set is written once, so what was read of it stays true; which of them count, the catalog says each time. Soft
labels are not here: they are most of a label set, and only those that are shown are read. Used from one thread.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy import labels
from understudy.catalog.label_sets import Listed
from understudy.store import Store

#: 44 bytes a row: the rows of six million images stay. Of more, the rest is read each time.
MAX_BYTES = 256 * 2**20
#: Label sets that are read and looked at together: their rows are in memory besides.
GROUP_SETS = 256

_COLUMNS = """
SELECT label_set, unhex(sha256) AS digest, label, confidence,
       top_probabilities[1] - coalesce(top_probabilities[2], 0) AS margin
FROM labels
"""


@dataclass(frozen=True)
class Rows:
    """Rows of label sets, as columns."""

    digests: npt.NDArray[np.bytes_]  # (N,) S32: the sha-256
    labels: npt.NDArray[np.int32]  # (N,)
    confidences: npt.NDArray[np.float32]  # (N,)
    margins: npt.NDArray[np.float32]  # (N,)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_bytes(self) -> int:
        return sum(column.nbytes for column in (self.digests, self.labels, self.confidences, self.margins))

    def part(self, which: Any) -> "Rows":
        """Some of the rows: a slice, a mask or numbers."""
        return Rows(self.digests[which], self.labels[which], self.confidences[which], self.margins[which])


NONE = Rows(
    np.empty(0, "S32"), np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float32)
)  # fmt: skip

#: A label set with its rows, and with those of the teacher before; None: there is none, or it was not asked for.
Read = tuple[Listed, Rows, Rows | None]


class LabelIndex:
    """The rows of label sets, in bounded memory."""

    def __init__(self, store: Store, spool: Path, threads: int | None, *, max_bytes: int = MAX_BYTES) -> None:
        self._store, self._spool, self._threads, self._max_bytes = store, spool, threads, max_bytes
        self._kept: OrderedDict[str, Rows] = OrderedDict()  # by key, what was used longest ago first
        self._num_bytes = 0

    def read(self, sets: Sequence[Listed], *, compare: bool = False) -> Iterator[list[Read]]:
        """The rows of these label sets, some sets at a time; with ``compare`` those of the teacher before besides.

        Raises FileNotFoundError for a label set that is not there and LabelSetRefused for one that is damaged.
        """
        wanted = {key for one in sets for key in _keys(one, compare)}
        for start in range(0, len(sets), GROUP_SETS):
            group = sets[start : start + GROUP_SETS]
            rows = self._rows([key for one in group for key in _keys(one, compare)], wanted)
            yield [
                (one, rows[one.key], rows[one.previous_key or ""] if _is_compared(one, compare) else None)
                for one in group
            ]

    def __contains__(self, key: str) -> bool:
        """Whether the rows of a label set are at hand."""
        return key in self._kept

    def _rows(self, keys: Sequence[str], wanted: set[str]) -> dict[str, Rows]:
        found = {key: self._kept[key] for key in keys if key in self._kept}
        for key in found:
            self._kept.move_to_end(key)
        if missing := [key for key in dict.fromkeys(keys) if key not in found]:
            found |= self._fetched(missing, wanted)
        return found

    def _fetched(self, keys: Sequence[str], wanted: set[str]) -> dict[str, Rows]:
        with labels.opened(
            self._store, {"labels": keys}, spool=self._spool, threads=self._threads
        ) as session:  # fmt: skip
            table = session.ask(_COLUMNS)
        rows = dict.fromkeys(keys, NONE) | _by_label_set(table)
        for key, some in rows.items():
            self._keep(key, some, wanted)
        return rows

    def _keep(self, key: str, rows: Rows, wanted: set[str]) -> None:
        """Keep rows if there is room, or room can be made of what is not wanted now.

        So of more label sets than there is room for, the same ones stay from one query to the next.
        """
        while self._num_bytes + rows.num_bytes > self._max_bytes:
            oldest = next(iter(self._kept), None)
            if oldest is None or oldest in wanted:
                return
            self._num_bytes -= self._kept.pop(oldest).num_bytes
        self._kept[key] = rows
        self._num_bytes += rows.num_bytes


def _is_compared(one: Listed, compare: bool) -> bool:
    return compare and one.previous_key is not None


def _keys(one: Listed, compare: bool) -> tuple[str, ...]:
    return (one.key, one.previous_key or "") if _is_compared(one, compare) else (one.key,)


def _by_label_set(table: Any) -> dict[str, Rows]:
    """The rows of an answer, apart by their label sets; each has memory of its own, so that it can go alone."""
    names, numbers = labels.grouped(table.column("label_set"))
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=len(names)))
    rows = Rows(
        labels.digests(table.column("digest")),
        table.column("label").to_numpy(),
        table.column("confidence").to_numpy(),
        table.column("margin").to_numpy(),
    )
    starts = (0, *ends[:-1].tolist())
    return {name: rows.part(order[start:end]) for name, start, end in zip(names, starts, ends.tolist(), strict=True)}


# -- looked at together --------------------------------------------------------------------------------

#: What became of an image's label since the teacher before; these numbers put changed ones first.
NOT_COMPARED, SAME, CHANGED = 0, 2, 4
#: Its shard was not labeled before, or this image not.
NOBODY = -1


@dataclass(frozen=True)
class Seen:
    """The rows of some label sets of one teacher, in one row of columns."""

    group: Sequence[Read]
    labels: npt.NDArray[np.int32]  # (N,)
    confidences: npt.NDArray[np.float32]  # (N,)
    margins: npt.NDArray[np.float32]  # (N,)
    before: npt.NDArray[np.int64] | None  # (N,) what the teacher before said, as this one numbers it; None: not asked

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """Where each label set's rows end."""
        return np.cumsum([len(rows) for _, rows, _ in self.group])

    @property
    def changes(self) -> npt.NDArray[np.int64]:
        """(N,) ``NOT_COMPARED``, ``SAME`` or ``CHANGED``."""
        assert self.before is not None, "it was not asked what the teacher before said"
        return np.select([self.before == NOBODY, self.before == self.labels], [NOT_COMPARED, SAME], CHANGED)

    def sets_of(self, which: npt.NDArray[np.int64]) -> list[Listed]:
        """The label set of each of these rows."""
        return [self.group[number][0] for number in np.searchsorted(self.ends, which, side="right").tolist()]

    def digests(self, which: npt.NDArray[np.int64]) -> npt.NDArray[np.bytes_]:
        """(M,) S32: the sha-256 of these rows. Of many rows only these are put together."""
        numbers = np.searchsorted(self.ends, which, side="right")
        found = np.empty(len(which), "S32")
        for number in np.unique(numbers).tolist():
            rows = self.group[number][1]
            here = numbers == number
            found[here] = rows.digests[which[here] - (self.ends[number] - len(rows))]
        return found


def seen(
    index: LabelIndex,
    sets: Sequence[Listed],
    classes: Sequence[str],
    earlier: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Seen]:
    """All rows of a teacher's label sets, some sets at a time, in bounded memory.

    ``earlier`` are the classes of the teachers before, by their versions; with them it is told what those said.
    Raises as ``LabelIndex.read``.
    """
    places = {name: i for i, name in enumerate(classes)}
    numbers = {
        teacher: np.array([places.get(name, len(classes)) for name in names])
        for teacher, names in (earlier or {}).items()
    }
    for group in index.read(sets, compare=earlier is not None):
        before = None
        if earlier is not None:
            before = [_before(rows, then, numbers.get(one.previous_teacher or "")) for one, rows, then in group]
        yield Seen(
            group,
            np.concatenate([rows.labels for _, rows, _ in group]),
            np.concatenate([rows.confidences for _, rows, _ in group]),
            np.concatenate([rows.margins for _, rows, _ in group]),
            np.concatenate(before) if before is not None else None,
        )


def _before(now: Rows, then: Rows | None, numbers: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    """(N,) what the teacher before said of the same images, in the numbers of now."""
    if then is None or numbers is None or not len(then):
        return np.full(len(now), NOBODY)
    if len(now) == len(then) and np.array_equal(now.digests, then.digests):  # as is usual: one shard, one order
        return numbers[then.labels]
    order = np.argsort(then.digests)
    places = order[np.minimum(np.searchsorted(then.digests, now.digests, sorter=order), len(then) - 1)]
    return np.where(then.digests[places] == now.digests, numbers[then.labels[places]], NOBODY)
