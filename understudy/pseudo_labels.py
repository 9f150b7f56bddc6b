"""Looking at pseudo-labels: a page of them, counts of all, and what a selection would keep.

Each is a query over the label sets that the catalog lists, in bounded memory. What a student really trains
on is decided in ``trainer/selection.py``, by the same arithmetic (``quota``).
"""

import base64
import binascii
import heapq
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from understudy import label_index, labels, quota, registry, thresholds, tripwires
from understudy.catalog import Catalog, label_sets, reviews, versions
from understudy.catalog.label_sets import Listed
from understudy.errors import LabelSetRefused, Refused, UnderstudyError
from understudy.label_index import CHANGED, NONE, NOT_COMPARED, SAME, LabelIndex, Rows, Seen
from understudy.label_records import (
    NUM_FACET_BINS,
    ClassFacet,
    ClassPreview,
    ClassProbability,
    LabelFacets,
    LabelOrder,
    LabelSort,
    PreviewRequest,
    PseudoLabel,
    SelectionPreview,
)
from understudy.quota import Bins
from understudy.records import ModelCard, ReliabilityBin
from understudy.store import Store
from understudy.thresholds import Answers
from understudy.tripwires import Agreement

P = ParamSpec("P")
R = TypeVar("R")

#: So often the label sets are listed anew if one of them is gone by the time it is read.
MAX_LISTINGS = 3
#: An estimate counts one image besides those of the holdout: one that is right as often as its teacher says.
PRIOR_IMAGES = 1.0


@dataclass(frozen=True)
class Looking:
    """Where it is looked, and with what."""

    catalog: Catalog
    store: Store
    spool: Path
    threads: int | None = None  #: None: one a core

    @cached_property
    def index(self) -> LabelIndex:
        """What was read before."""
        return LabelIndex(self.store, self.spool, self.threads)

    def teacher(self, asked: str | None) -> str:
        """The teacher that was asked for, or the champion. Raises NotFound and NoChampion."""
        return versions.get(self.catalog, asked).id if asked is not None else registry.champion(self.catalog)

    def classes(self, teacher: str) -> tuple[str, ...]:
        """What a teacher's labels index."""
        return versions.get(self.catalog, teacher).card.classes


@dataclass(frozen=True)
class Filters:
    """Which pseudo-labels; None is no condition."""

    teacher: str | None = None  #: None: the champion
    bucket: str | None = None
    class_name: str | None = None
    min_confidence: float | None = None
    max_confidence: float | None = None
    min_margin: float | None = None
    max_margin: float | None = None
    is_changed: bool | None = None  #: since the last teacher
    sha256: str | None = None


@dataclass(frozen=True)
class Cursor:
    """Where a page ended. It names the teacher, so that a new champion in between does not mix two."""

    teacher: str
    sort: LabelSort
    order: LabelOrder
    key: float
    sha256: str

    def __str__(self) -> str:
        parts = [self.teacher, self.sort, self.order, self.key, self.sha256]
        return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")

    @property
    def digest(self) -> bytes:
        return bytes.fromhex(self.sha256)

    @classmethod
    def read(cls, text: str) -> "Cursor":
        """Raises Refused for what no page has given."""
        try:
            teacher, sort, order, key, sha256 = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            cursor = cls(str(teacher), LabelSort(sort), LabelOrder(order), float(key), str(sha256))
            is_whole = math.isfinite(cursor.key) and len(cursor.digest) == 32
        except (ValueError, TypeError, binascii.Error, RecursionError, OverflowError) as error:
            raise Refused(
                f"cursor={text[:100]!r} is none of ours; give `next` of the page before", code="bad_cursor"
            ) from error
        if not is_whole:
            raise Refused(f"cursor={text[:100]!r} is none of ours; give `next` of the page before", code="bad_cursor")
        return cursor


def listing_anew(look: Callable[P, R]) -> Callable[P, R]:
    """Look again if a label set was removed after it was listed: its bucket was recalled, or its teacher retired.

    Raises LabelSetRefused for one that the catalog lists and the store does not have.
    """

    @wraps(look)
    def looked(*args: P.args, **kwargs: P.kwargs) -> R:
        for listing in range(1, MAX_LISTINGS + 1):
            try:
                return look(*args, **kwargs)
            except FileNotFoundError as gone:
                if listing == MAX_LISTINGS:
                    raise LabelSetRefused(f"{gone}, though the catalog lists it") from gone
        raise AssertionError("the last listing answers or raises")

    return looked


def prepare(looking: Looking) -> None:
    """Read what the champion's pages and counts are found by, so that the first of them need not wait for it.

    Without a champion it is nothing; whatever cannot be read is told to the one who asks for it.
    """
    with suppress(UnderstudyError, FileNotFoundError):
        for group in looking.index.read(label_sets.listed(looking.catalog, looking.teacher(None))):
            if not all(one.key in looking.index for one, _, _ in group):
                return  # there is no room for more


@listing_anew
def page(
    looking: Looking,
    filters: Filters,
    *,
    sort: LabelSort = LabelSort.CONFIDENCE,
    order: LabelOrder = LabelOrder.DESC,
    cursor: str | None = None,
    limit: int = 100,
) -> tuple[list[PseudoLabel], str | None]:
    """Some pseudo-labels, and the cursor of the next; None: these were the last.

    What is published meanwhile comes in its place if that is still ahead; nothing is told twice or left out.
    """
    after = Cursor.read(cursor) if cursor is not None else None
    teacher = looking.teacher(filters.teacher or (after.teacher if after else None))
    if after is not None and (after.teacher, after.sort, after.order) != (teacher, sort, order):
        raise Refused(
            f"the cursor is of teacher={after.teacher}, sort={after.sort}, order={after.order}; ask on with the same",
            code="bad_cursor",
        )
    sets = label_sets.listed(looking.catalog, teacher, bucket=filters.bucket, sha256=filters.sha256)
    classes = looking.classes(teacher)
    keeps = _conditions(filters, classes)
    compare = filters.is_changed is not None or sort == LabelSort.CHANGED
    sign = -1 if order == LabelOrder.DESC else 1  # so that the first ones are the smallest
    best: list[tuple[float, bytes, Listed]] = []
    for seen in _seen(looking, sets, classes, compare=compare):
        keys = sign * _keys(seen, sort)  # (N,) float64
        kept = keeps(seen)
        if after is not None:
            kept &= _is_after(keys, seen, sign * after.key, after.digest)
        if len(best) > limit:
            kept &= keys <= best[-1][0]
        first = _first(keys, seen, np.flatnonzero(kept), limit + 1)
        found = zip(keys[first].tolist(), seen.digests(first).tolist(), seen.sets_of(first), strict=True)
        best = heapq.nsmallest(limit + 1, [*best, *found], key=lambda one: one[:2])
    told = _told(looking, [(digest.ljust(32, b"\0").hex(), one) for _, digest, one in best[:limit]], classes)
    if len(best) <= limit:
        return told, None
    return told, str(Cursor(teacher, sort, order, sign * best[limit - 1][0], told[-1].sha256))


def _keys(seen: Seen, sort: LabelSort) -> npt.NDArray[np.float64]:
    """(N,) what the rows are put in order by. Of changes: within each kind by confidence, which is at most 1."""
    if sort == LabelSort.MARGIN:
        return seen.margins.astype(np.float64)
    confidences = seen.confidences.astype(np.float64)
    return confidences if sort == LabelSort.CONFIDENCE else confidences + seen.changes


def _is_after(keys: npt.NDArray[np.float64], seen: Seen, key: float, digest: bytes) -> npt.NDArray[np.bool_]:
    """(N,) which rows come after a cursor."""
    ahead = keys > key
    equal = np.flatnonzero(keys == key)
    ahead[equal] = seen.digests(equal) > np.array(digest, "S32")
    return ahead


def _first(keys: npt.NDArray[np.float64], seen: Seen, some: npt.NDArray[np.int64], num: int) -> npt.NDArray[np.int64]:
    """Of some rows the numbers of the first: by key, equal ones by their sha-256."""
    if len(some) > num:
        of_these = keys[some]
        last = np.partition(of_these, num - 1)[num - 1]
        before, equal = some[of_these < last], some[of_these == last]
        num_equal = num - len(before)
        if len(equal) > num_equal:  # of very many equal ones, only those whose first eight bytes are small enough
            starts = seen.digests(equal).view(">u8").reshape(-1, 4)[:, 0].astype(np.uint64)
            equal = equal[starts <= np.partition(starts, num_equal - 1)[num_equal - 1]]
        some = np.sort(np.concatenate([before, equal]))
    return some[np.lexsort((seen.digests(some), keys[some]))][:num]


@listing_anew
def of_image(looking: Looking, sha256: str) -> list[PseudoLabel]:
    """What every teacher says of one image, the newest last. Raises NotFound for an image that is not there."""
    label_sets.shard_of(looking.catalog, sha256)
    told = []
    for teacher in label_sets.teachers(looking.catalog):
        sets = label_sets.listed(looking.catalog, teacher, sha256=sha256)
        told += _told(looking, [(sha256, one) for one in sets], looking.classes(teacher))
    return told


def of_images(looking: Looking, chosen: Sequence[tuple[str, Listed]]) -> list[PseudoLabel]:
    """What a teacher says of some images, each given with the label set in which it is, in their order."""
    return _told(looking, chosen, looking.classes(chosen[0][1].teacher)) if chosen else []


@listing_anew
def facets(
    looking: Looking, *, teacher: str | None = None, bucket: str | None = None, with_changed: bool = False
) -> LabelFacets:
    """All pseudo-labels of a teacher, by class and confidence, by bucket and by teacher."""
    known = looking.teacher(teacher)
    classes = looking.classes(known)
    sets = label_sets.listed(looking.catalog, known, bucket=bucket)
    counts = np.zeros((len(classes), NUM_FACET_BINS), np.int64)
    changed = np.zeros(len(classes), np.int64)
    num_compared = 0
    for seen in _seen(looking, sets, classes, compare=with_changed):
        bins = np.minimum((seen.confidences * np.float32(NUM_FACET_BINS)).astype(np.int64), NUM_FACET_BINS - 1)
        cells = seen.labels * NUM_FACET_BINS + bins
        counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
        if with_changed:
            changes = seen.changes
            changed += np.bincount(seen.labels[changes == CHANGED], minlength=len(classes))
            num_compared += int(np.count_nonzero(changes != NOT_COMPARED))
    by_class = tuple(
        ClassFacet(
            label=name,
            num_images=sum(row),
            by_confidence=tuple(row),
            num_changed=int(num_changed) if with_changed else None,
        )
        for name, row, num_changed in zip(classes, counts.tolist(), changed, strict=True)
    )
    by_bucket: dict[str, int] = {}
    for one in sets:
        by_bucket[one.bucket] = by_bucket.get(one.bucket, 0) + one.num_rows
    return LabelFacets(
        teacher=known,
        num_images=sum(facet.num_images for facet in by_class),
        num_label_sets=len(sets),
        by_class=by_class,
        by_bucket=dict(sorted(by_bucket.items())),
        by_teacher=label_sets.teachers(looking.catalog, bucket=bucket),
        num_changed=int(changed.sum()) if with_changed else None,
        num_compared=num_compared if with_changed else None,
    )


@listing_anew
def agreement(
    looking: Looking, teacher: str, keys: Sequence[str], threshold: float, *, max_compared: int = tripwires.MAX_COMPARED
) -> Agreement | None:
    """How often a teacher says what the one before said of the same image, where it is so confident itself.

    ``keys`` are the label sets that count; of many, every so-manieth is read, with ``max_compared`` images in all.
    None: nobody labeled any of these shards before.
    """
    wanted = set(keys)
    sets = [
        one for one in label_sets.listed(looking.catalog, teacher) if one.key in wanted and one.previous_key is not None
    ]
    if not sets:
        return None
    some = sets[:: max(1, math.ceil(sum(one.num_rows for one in sets) / max_compared))]
    num_compared = num_same = 0
    for seen in _seen(looking, some, looking.classes(teacher), compare=True):
        changes = seen.changes[seen.confidences.astype(np.float64) >= threshold]
        num_compared += int(np.count_nonzero(changes != NOT_COMPARED))
        num_same += int(np.count_nonzero(changes == SAME))
    return Agreement(max(one.previous_teacher or "" for one in some), num_compared, num_same)


@listing_anew
def preview(looking: Looking, asked: PreviewRequest) -> SelectionPreview:
    """What a selection from a teacher's label sets would keep, and how right it may be expected to be."""
    teacher = looking.teacher(asked.teacher)
    card = versions.get(looking.catalog, teacher).card
    human = label_sets.labeled_later(looking.catalog)
    labeled = reviews.labeled_counts(looking.catalog)
    sets = label_sets.listed(looking.catalog, teacher)
    answers = thresholds.answers_of(looking.store, card.generation) if asked.thresholds == "precision" else Answers()

    def num_confident() -> dict[int, int]:
        confident = _binned(
            looking, sets, card.classes, dict.fromkeys(range(len(card.classes)), asked.threshold), human
        )
        return {label: sum(some.values()) for label, some in confident.items()}

    least = thresholds.of_classes(asked, len(card.classes), answers, num_confident)
    bins = _binned(looking, sets, card.classes, least, human)
    num_labels = sum(one.num_rows for one in sets)
    told = _previewed(asked, card, least, bins, labeled)
    figures = tripwires.measured(
        num_candidates=told.num_candidates,
        num_labels=num_labels,
        candidates={name: one.available for name, one in told.per_class.items()},
        labeled=labeled,
        agreement=agreement(looking, teacher, [one.key for one in sets], asked.threshold),
    )
    return told.model_copy(
        update={
            "num_answers": len(answers.is_right),
            "tripwires": figures,
            "collapses": figures.sprung(asked) if num_labels else (),
        }
    )


def _binned(
    looking: Looking,
    sets: Sequence[Listed],
    classes: Sequence[str],
    least: Mapping[int, float],
    human: Sequence[str],
) -> dict[int, dict[int, int]]:
    """By class, the labels over its threshold in each bin of confidence, but for images that a human has labeled."""
    lowest = np.full(len(classes), np.inf)
    lowest[list(least)] = list(least.values())
    labeled = np.array([bytes.fromhex(sha256) for sha256 in human], "S32")
    bins: dict[int, dict[int, int]] = {}
    for seen in _seen(looking, sets, classes):
        some = np.flatnonzero(seen.confidences.astype(np.float64) >= lowest[seen.labels])
        if human:
            some = some[~np.isin(seen.digests(some), labeled)]
        cells = seen.labels[some] * np.int64(quota.NUM_BINS) + quota.bins_of(seen.confidences[some])
        numbers, counts = np.unique(cells, return_counts=True)
        for number, num in zip(numbers.tolist(), counts.tolist(), strict=True):
            of_class = bins.setdefault(number // quota.NUM_BINS, {})
            of_class[number % quota.NUM_BINS] = of_class.get(number % quota.NUM_BINS, 0) + num
    return bins


def _previewed(
    asked: PreviewRequest,
    card: ModelCard,
    least: Mapping[int, float],
    bins: Mapping[int, Bins],
    labeled: Mapping[str, int],
) -> SelectionPreview:
    available = {label: sum(some.values()) for label, some in bins.items()}
    quotas = quota.of_classes(available, card.classes, labeled, asked)
    reliability = card.evaluation.reliability
    per_class: dict[str, ClassPreview] = {}
    num_right = 0.0
    for i, name in enumerate(card.classes):
        of_class = quotas[i]
        taken = quota.best(bins.get(i, {}), of_class.kept)
        right = sum(num * _expected_right(quota.bin_edge(number), reliability) for number, num in taken.items())
        num_right += right
        per_class[name] = ClassPreview(
            available=of_class.available,
            target=of_class.target,
            kept=of_class.kept,
            rows=of_class.rows,
            threshold=max(least[i], quota.bin_edge(min(taken))) if taken else None,
            precision=min(1.0, right / of_class.kept) if taken and reliability else None,
            candidates_from=least.get(i),
        )
    num_kept = sum(y.kept for y in per_class.values())
    skew = thresholds.skew_in_words(labeled) if asked.thresholds == "adaptive" else None
    return SelectionPreview(
        teacher=card.version,
        threshold=asked.threshold,
        max_copies=asked.max_copies,
        num_candidates=sum(available.values()),
        num_kept=num_kept,
        num_rows=sum(y.rows for y in per_class.values()),
        per_class=per_class,
        starved=tuple(name for name, y in per_class.items() if 0 < y.rows < y.target),
        empty=tuple(name for name, y in per_class.items() if y.available == 0),
        precision=min(1.0, num_right / num_kept) if num_kept and reliability else None,
        num_holdout=sum(one.num_images for one in reliability),
        warnings=(skew,) if skew else (),
    )


def _expected_right(confidence: float, reliability: Sequence[ReliabilityBin]) -> float:
    """How often an answer of that confidence is right, by the holdout; where it has none, as often as it says."""
    for one in reliability:
        if one.low <= confidence < one.high or (confidence >= one.high and one is reliability[-1]):
            return (one.num_correct + PRIOR_IMAGES * confidence) / (one.num_images + PRIOR_IMAGES)
    return confidence


def _seen(looking: Looking, sets: Sequence[Listed], classes: Sequence[str], *, compare: bool = False) -> Iterator[Seen]:
    """All rows of these label sets, some sets at a time; with ``compare``, what the teacher before said too."""
    return label_index.seen(looking.index, sets, classes, _earlier(looking, sets) if compare else None)


def _earlier(looking: Looking, sets: Sequence[Listed]) -> dict[str, tuple[str, ...]]:
    """The teachers who labeled the same shards before, and their classes, which they may number differently."""
    return {teacher: looking.classes(teacher) for teacher in {one.previous_teacher for one in sets} if teacher}


def _told(looking: Looking, chosen: Sequence[tuple[str, Listed]], classes: Sequence[str]) -> list[PseudoLabel]:
    """All that is told of some images, each with the label set in which it is, in their order."""
    sets = list({one.key: one for _, one in chosen}.values())
    wanted: dict[str, list[str]] = {}
    for sha256, one in chosen:
        wanted.setdefault(one.key, []).append(sha256)
    soft = labels.soft(looking.store, wanted, spool=looking.spool, threads=looking.threads)
    known = {one.key: (now, then) for group in looking.index.read(sets, compare=True) for one, now, then in group}
    earlier = _earlier(looking, sets)
    said = reviews.counting(looking.catalog, [sha256 for sha256, _ in chosen])
    told = []
    for sha256, one in chosen:
        now, then = known[one.key]
        row = _row_of(sha256, now)
        if not len(row):  # what could not be decoded is in its shard, and has no label
            continue
        before = _row_of(sha256, then) if then is not None else NONE
        previous = earlier[one.previous_teacher or ""][before.labels[0]] if len(before) else None
        label = _pseudo_label(sha256, one, row, classes, soft[one.key, sha256], previous)
        told.append(label.model_copy(update={"review": said.get(sha256)}))
    return told


def _row_of(sha256: str, rows: Rows) -> Rows:
    """The row of an image, or none."""
    return rows.part(np.nonzero(rows.digests == np.array(bytes.fromhex(sha256), "S32"))[0][:1])


def _pseudo_label(
    sha256: str,
    of: Listed,
    row: Rows,
    classes: Sequence[str],
    soft: tuple[Sequence[int], Sequence[float]],
    previous: str | None,
) -> PseudoLabel:
    label = classes[row.labels[0]]
    return PseudoLabel(
        sha256=sha256,
        bucket=of.bucket,
        teacher=of.teacher,
        label=label,
        confidence=min(1.0, float(row.confidences[0])),
        margin=float(row.margins[0]),
        classes=tuple(ClassProbability(label=classes[i], probability=min(1.0, p)) for i, p in zip(*soft, strict=True)),
        previous_teacher=of.previous_teacher if previous is not None else None,
        previous_label=previous,
        is_changed=None if previous is None else previous != label,
    )


def _conditions(filters: Filters, classes: Sequence[str]) -> Callable[[Seen], npt.NDArray[np.bool_]]:
    """Which rows are asked for. Raises Refused for a class that the teacher does not know."""
    if filters.class_name is not None and filters.class_name not in classes:
        raise Refused(
            f"class={filters.class_name[:100]!r} is none of the teacher's {len(classes)} classes "
            f"({', '.join(classes[:5])}, …)",
            code="unknown_class",
        )

    def keeps(seen: Seen) -> npt.NDArray[np.bool_]:
        kept = np.ones(len(seen), np.bool_)
        if filters.class_name is not None:
            kept &= seen.labels == classes.index(filters.class_name)
        for column, least, most in (
            (seen.confidences, filters.min_confidence, filters.max_confidence),
            (seen.margins, filters.min_margin, filters.max_margin),
        ):
            # A float32 is compared as the number that it is
            if least is not None:
                kept &= column >= np.float64(least)
            if most is not None:
                kept &= column <= np.float64(most)
        if filters.sha256 is not None:
            kept &= seen.digests(np.arange(len(seen))) == np.array(bytes.fromhex(filters.sha256), "S32")
        if filters.is_changed is not None:
            kept &= seen.changes == (CHANGED if filters.is_changed else SAME)
        return kept

    return keeps
