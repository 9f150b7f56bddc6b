"""Looking at pseudo-labels: a page of them, counts of all, and what a selection would keep.

Each is a query over the label sets that the catalog lists, in bounded memory. What a student really trains
on is decided in ``trainer/selection.py``, by the same arithmetic (``quota``).
"""

import base64
import binascii
import heapq
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from understudy import labels, quota, registry, thresholds, tripwires
from understudy.catalog import Catalog, label_sets, reviews, versions
from understudy.catalog.label_sets import Listed
from understudy.errors import LabelSetRefused, Refused
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
from understudy.labels import Session
from understudy.quota import Bins
from understudy.records import ModelCard, ReliabilityBin
from understudy.review_records import Review
from understudy.store import Store
from understudy.thresholds import Answers
from understudy.tripwires import Agreement

P = ParamSpec("P")
R = TypeVar("R")

#: So often the label sets are listed anew if one of them is gone by the time it is read.
MAX_LISTINGS = 3
#: An estimate counts one image besides those of the holdout: one that is right as often as its teacher says.
PRIOR_IMAGES = 1.0

#: By which the label leads the second class.
MARGIN = "(top_probabilities[1] - coalesce(top_probabilities[2], 0))::DOUBLE"
_WANTED = "sha256 IN (SELECT unnest($wanted::VARCHAR[]))"
_IS_CHANGED = "(now_name != before_name)"
_KEYS = {
    LabelSort.CONFIDENCE: "confidence",
    LabelSort.MARGIN: MARGIN,
    # Not compared is less than unchanged is less than changed; within each, by confidence, which is at most 1.
    LabelSort.CHANGED: f"(CASE WHEN before_name IS NULL THEN 0 WHEN {_IS_CHANGED} THEN 4 ELSE 2 END + confidence)::DOUBLE",
}
#: With what the teacher before said of the same image, where it said something.
COMPARED = """(
    SELECT labels.*, now_names.name AS now_name, before_names.name AS before_name,
           before.confidence AS before_confidence
    FROM labels JOIN now_names ON now_names.label = labels.label
    LEFT JOIN (before JOIN before_sets ON before_sets.label_set = before.label_set
               JOIN before_names ON before_names.teacher = before_sets.teacher AND before_names.label = before.label)
    ON before.sha256 = labels.sha256
)"""


_AGREEMENT = """
SELECT count(*) AS num_compared, count(*) FILTER (now_names.name = before_names.name) AS num_same
FROM (SELECT sha256, label FROM labels WHERE confidence >= $threshold) AS now
JOIN (SELECT sha256, label, label_set FROM before) AS earlier ON earlier.sha256 = now.sha256
JOIN now_names ON now_names.label = now.label
JOIN before_sets ON before_sets.label_set = earlier.label_set
JOIN before_names ON before_names.teacher = before_sets.teacher AND before_names.label = earlier.label
"""


@dataclass(frozen=True)
class Looking:
    """Where it is looked, and with what."""

    catalog: Catalog
    store: Store
    spool: Path
    threads: int | None = None  #: None: one a core

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

    @classmethod
    def read(cls, text: str) -> "Cursor":
        """Raises Refused for what no page has given."""
        try:
            teacher, sort, order, key, sha256 = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            cursor = cls(str(teacher), LabelSort(sort), LabelOrder(order), float(key), str(sha256))
        except (ValueError, TypeError, binascii.Error, RecursionError, OverflowError) as error:
            raise Refused(
                f"cursor={text[:100]!r} is none of ours; give `next` of the page before", code="bad_cursor"
            ) from error
        if not math.isfinite(cursor.key):
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
    where, parameters = _conditions(filters, looking.classes(teacher))
    compare = filters.is_changed is not None or sort == LabelSort.CHANGED
    sign, direction = ("<", "DESC") if order == LabelOrder.DESC else (">", "ASC")
    if after is not None:
        where.append(f"({_KEYS[sort]} {sign} $key OR ({_KEYS[sort]} = $key AND sha256 > $after))")
        parameters |= {"key": after.key, "after": after.sha256}
    condition = " AND ".join(where) or "true"
    rows = f"{COMPARED if compare else 'labels'} WHERE {condition}"
    best = f"{'max' if order == LabelOrder.DESC else 'min'}({_KEYS[sort]}, {limit + 1})::DOUBLE[]"
    first = f"ORDER BY {_KEYS[sort]} {direction}, sha256 LIMIT {limit + 1}"
    with opened(looking, sets, compare=compare, teacher=teacher) as session:
        # 1. The first keys of each label set: without the sha-256, which are most of what there is to read
        keys = session.ask(f"SELECT label_set, {best} AS best FROM {rows} GROUP BY label_set", parameters).to_pylist()
        holding = _holding(keys, limit + 1, is_descending=order == LabelOrder.DESC)
        needed = [one for one in sets if one.key in holding]

        # 2. Where very many have equal keys, which of them come first
        if len(needed) > limit + 1:
            session.show("labels", [one.key for one in needed])
            found = session.ask(f"SELECT sha256, label_set FROM {rows} {first}", parameters).to_pydict()
            needed = [one for one in needed if one.key in found["label_set"]]
            condition = f"{condition} AND {_WANTED}"
            parameters |= {"wanted": found["sha256"]}

        # 3. The rows with all that is told of them, from the label sets in which they are
        told = _told(looking, session, teacher, needed, f"({_KEYS[sort]})::DOUBLE", f"{condition} {first}", parameters)
    if len(told) <= limit:
        return [label for _, label in told], None
    key, last = told[limit - 1]
    return [label for _, label in told[:limit]], str(Cursor(teacher, sort, order, key, last.sha256))


def _holding(keys: Sequence[Mapping[str, Any]], num: int, *, is_descending: bool) -> set[str]:
    """The label sets in which the first ``num`` rows are, whichever of equal ones come first."""
    sign = -1 if is_descending else 1
    first = heapq.nsmallest(num, (sign * key for row in keys for key in row["best"]))
    return {row["label_set"] for row in keys if sign * row["best"][0] <= first[-1]}


@listing_anew
def of_image(looking: Looking, sha256: str) -> list[PseudoLabel]:
    """What every teacher says of one image, the newest last. Raises NotFound for an image that is not there."""
    label_sets.shard_of(looking.catalog, sha256)
    told = []
    for teacher in label_sets.teachers(looking.catalog):
        sets = label_sets.listed(looking.catalog, teacher, sha256=sha256)
        with opened(looking, sets, compare=False, teacher=teacher) as session:
            rows = _told(looking, session, teacher, sets, "0.0::DOUBLE", "sha256 = $sha256", {"sha256": sha256})
        told += [label for _, label in rows]
    return told


@listing_anew
def facets(
    looking: Looking, *, teacher: str | None = None, bucket: str | None = None, with_changed: bool = False
) -> LabelFacets:
    """All pseudo-labels of a teacher, by class and confidence, by bucket and by teacher."""
    known = looking.teacher(teacher)
    classes = looking.classes(known)
    sets = label_sets.listed(looking.catalog, known, bucket=bucket)
    counts: dict[int, list[int]] = {}
    changed: dict[int, int] = {}
    num_compared = 0
    with opened(looking, sets, compare=with_changed, teacher=known) as session:
        last = NUM_FACET_BINS - 1
        for row in session.ask(
            f"SELECT label, least({last}, floor(confidence * {NUM_FACET_BINS}))::INTEGER AS bin, count(*) AS num "
            "FROM labels GROUP BY ALL"
        ).to_pylist():
            counts.setdefault(row["label"], [0] * NUM_FACET_BINS)[row["bin"]] = row["num"]
        if with_changed:
            for row in session.ask(
                f"SELECT label, count(*) AS num, count(*) FILTER ({_IS_CHANGED}) AS changed "
                f"FROM {COMPARED} WHERE before_name IS NOT NULL GROUP BY label"
            ).to_pylist():
                changed[row["label"]] = row["changed"]
                num_compared += row["num"]
    by_class = tuple(
        ClassFacet(
            label=name,
            num_images=sum(counts.get(i, ())),
            by_confidence=tuple(counts.get(i, [0] * NUM_FACET_BINS)),
            num_changed=changed.get(i, 0) if with_changed else None,
        )
        for i, name in enumerate(classes)
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
        num_changed=sum(changed.values()) if with_changed else None,
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
    with opened(looking, some, compare=True, teacher=teacher) as session:
        (told,) = session.ask(_AGREEMENT, {"threshold": threshold}).to_pylist()
    return Agreement(max(one.previous_teacher or "" for one in some), told["num_compared"], told["num_same"])


@listing_anew
def preview(looking: Looking, asked: PreviewRequest) -> SelectionPreview:
    """What a selection from a teacher's label sets would keep, and how right it may be expected to be."""
    teacher = looking.teacher(asked.teacher)
    card = versions.get(looking.catalog, teacher).card
    human = label_sets.labeled_later(looking.catalog)
    labeled = reviews.labeled_counts(looking.catalog)
    condition = "confidence >= $threshold" + (" AND sha256 NOT IN (SELECT sha256 FROM human_labeled)" if human else "")
    keys = [one.key for one in label_sets.listed(looking.catalog, teacher)]
    answers = thresholds.answers_of(looking.store, card.generation) if asked.thresholds == "precision" else Answers()
    tables = {"human_labeled": labels.table({"sha256": human}, sha256="string")}
    with labels.opened(
        looking.store, {"labels": keys}, spool=looking.spool, threads=looking.threads, tables=tables
    ) as session:

        def num_confident() -> dict[int, int]:
            confident = _binned(session, "labels", condition, asked.threshold)
            return {label: sum(some.values()) for label, some in confident.items()}

        least = thresholds.of_classes(asked, len(card.classes), answers, num_confident)
        source, lowest = thresholds.source(session, least, len(card.classes))
        bins = _binned(session, source, condition, lowest)
        num_labels = session.ask("SELECT count(*) AS num FROM labels").to_pylist()[0]["num"]
    told = _previewed(asked, card, least, bins, labeled)
    figures = tripwires.measured(
        num_candidates=told.num_candidates,
        num_labels=num_labels,
        candidates={name: one.available for name, one in told.per_class.items()},
        labeled=labeled,
        agreement=agreement(looking, teacher, keys, asked.threshold),
    )
    return told.model_copy(
        update={
            "num_answers": len(answers.is_right),
            "tripwires": figures,
            "collapses": figures.sprung(asked) if num_labels else (),
        }
    )


def _binned(session: Session, source: str, condition: str, threshold: float) -> dict[int, dict[int, int]]:
    """By class, the labels in each bin of confidence."""
    rows = session.ask(
        f"SELECT label, {quota.BIN_SQL} AS bin, count(*) AS num FROM {source} WHERE {condition} GROUP BY ALL",
        {"threshold": threshold},
    ).to_pylist()
    bins: dict[int, dict[int, int]] = {}
    for row in rows:
        bins.setdefault(row["label"], {})[row["bin"]] = row["num"]
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


def opened(looking: Looking, sets: Sequence[Listed], *, compare: bool, teacher: str) -> AbstractContextManager[Session]:
    """A session with ``labels``, and to compare with the last teacher's all that ``COMPARED`` joins."""
    earlier = [one for one in sets if one.previous_key is not None]
    before = [one.previous_key or "" for one in earlier]
    named = {"labels": [one.key for one in sets]} | ({"before": before} if compare else {})
    tables = _names(looking, teacher, earlier) if compare else {}
    return labels.opened(
        looking.store, named, more=before, spool=looking.spool, threads=looking.threads, tables=tables
    )  # fmt: skip


def _names(looking: Looking, teacher: str, earlier: Sequence[Listed]) -> dict[str, Any]:
    """The names of classes, which two teachers may number differently."""
    now = looking.classes(teacher)
    before = {one.previous_teacher or "": looking.classes(one.previous_teacher or "") for one in _one_each(earlier)}
    every = [(known, i, name) for known, names in before.items() for i, name in enumerate(names)]
    return {
        "now_names": labels.table({"label": range(len(now)), "name": now}, label="int32", name="string"),
        "before_sets": labels.table(
            {
                "label_set": [one.previous_key for one in earlier],
                "teacher": [one.previous_teacher for one in earlier],
            },
            label_set="string",
            teacher="string",
        ),
        "before_names": labels.table(
            {
                "teacher": [known for known, _, _ in every],
                "label": [i for _, i, _ in every],
                "name": [name for _, _, name in every],
            },
            teacher="string",
            label="int32",
            name="string",
        ),
    }


def _one_each(earlier: Sequence[Listed]) -> list[Listed]:
    return list({one.previous_teacher: one for one in earlier}.values())


def _told(
    looking: Looking,
    session: Session,
    teacher: str,
    sets: Sequence[Listed],
    key: str,
    condition: str,
    parameters: dict[str, Any],
) -> list[tuple[float, PseudoLabel]]:
    """All that is told of some rows of these label sets, each with its key, in the condition's order."""
    if not sets:
        return []
    where = {one.key: one for one in sets}
    show(looking, session, teacher, sets)
    rows = session.ask(
        f"SELECT {key} AS key, sha256, label_set, label, confidence, {MARGIN} AS margin, top_classes, "
        f"top_probabilities, before_name FROM {COMPARED} WHERE {condition}",
        parameters,
    ).to_pylist()
    classes = looking.classes(teacher)
    said = reviews.counting(looking.catalog, [row["sha256"] for row in rows])
    return [(row["key"], _pseudo_label(row, where[row["label_set"]], classes, said.get(row["sha256"]))) for row in rows]


def show(looking: Looking, session: Session, teacher: str, sets: Sequence[Listed]) -> None:
    """Have the names in ``COMPARED`` stand for these label sets, and those of the same shards before."""
    earlier = [one for one in sets if one.previous_key is not None]
    session.show("labels", [one.key for one in sets])
    session.show("before", [one.previous_key or "" for one in earlier])
    for name, table in _names(looking, teacher, earlier).items():
        session.give(name, table)


def of_images(
    looking: Looking, session: Session, teacher: str, sets: Sequence[Listed], sha256s: Sequence[str]
) -> dict[str, PseudoLabel]:
    """What a teacher says of these images, from the label sets in which they are; ``session`` was opened for these."""
    rows = _told(looking, session, teacher, sets, "0.0::DOUBLE", _WANTED, {"wanted": list(sha256s)})
    return {label.sha256: label for _, label in rows}


def _pseudo_label(row: Mapping[str, Any], of: Listed, classes: Sequence[str], review: Review | None) -> PseudoLabel:
    label, before = classes[row["label"]], row["before_name"]
    return PseudoLabel(
        sha256=row["sha256"],
        bucket=of.bucket,
        teacher=of.teacher,
        label=label,
        confidence=min(1.0, row["confidence"]),
        margin=row["margin"],
        classes=tuple(
            ClassProbability(label=classes[i], probability=min(1.0, p))
            for i, p in zip(row["top_classes"], row["top_probabilities"], strict=True)
        ),
        previous_teacher=of.previous_teacher if before is not None else None,
        previous_label=before,
        is_changed=None if before is None else before != label,
        review=review,
    )


def _conditions(filters: Filters, classes: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    where: list[str] = []
    parameters: dict[str, Any] = {}
    if filters.class_name is not None:
        if filters.class_name not in classes:
            raise Refused(
                f"class={filters.class_name[:100]!r} is none of the teacher's {len(classes)} classes "
                f"({', '.join(classes[:5])}, …)",
                code="unknown_class",
            )
        where.append("label = $label")
        parameters["label"] = classes.index(filters.class_name)
    bounds = {
        "confidence >= $min_confidence": filters.min_confidence,
        "confidence <= $max_confidence": filters.max_confidence,
        f"{MARGIN} >= $min_margin": filters.min_margin,
        f"{MARGIN} <= $max_margin": filters.max_margin,
        "sha256 = $sha256": filters.sha256,
    }
    for condition, value in bounds.items():
        if value is not None:
            where.append(condition)
            parameters[condition.rpartition("$")[2]] = value
    if filters.is_changed is not None:
        where.append(_IS_CHANGED if filters.is_changed else f"NOT {_IS_CHANGED}")
    return where, parameters
