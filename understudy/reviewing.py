"""Reviewing: which pseudo-labels a person should look at next, what their word is written down as, and the audit.

Each order is a query over the label sets that the catalog lists, in bounded memory; what is reviewed already, or
human-labeled otherwise, is left out. Ranks are counted before that, so that a review moves no image past a cursor.
"""

import base64
import binascii
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.special import betaincinv

from understudy import labels, pseudo_labels
from understudy.catalog import fingerprints, label_sets, reviews, shards, versions
from understudy.catalog.label_sets import Listed
from understudy.catalog.reviews import Decided
from understudy.errors import Conflict, Refused
from understudy.label_records import PseudoLabel
from understudy.labels import Session
from understudy.pseudo_labels import Looking, listing_anew
from understudy.recipes import Recipe
from understudy.records import ClassProbability, Interval
from understudy.review_records import (
    Audit,
    AuditedClass,
    Decision,
    QueueItem,
    Review,
    ReviewOrder,
    ReviewQueue,
    ReviewRequest,
    Verdict,
)

#: What is uncertain: a label that leads the second class by less. These come first, and within them the classes and
#: buckets take turns, the smallest margins of each first: a class that the teacher is very unsure of hides no other.
UNCERTAIN_MARGIN = 0.25
#: Label sets, drawn by lot, whose images are ranked together: of a million images some 250,000 or 64,000, which takes a
#: quarter of a second or less. Those of an audit are all drawn from, or it would be no uniform sample.
SETS_TOGETHER = {ReviewOrder.UNCERTAIN: 256, ReviewOrder.DISAGREEMENT: 64, ReviewOrder.AUDIT: sys.maxsize}
#: So many times these are looked through for one page once something is found: then it is shorter than was asked for.
MAX_LOOKED_THROUGH = 4
#: Of the audit's interval.
CONFIDENCE = 0.95

#: By which the label leads the second class.
_MARGIN = "(top_probabilities[1] - coalesce(top_probabilities[2], 0))::DOUBLE"
#: With what the teacher before said of the same image, where it said something.
_COMPARED = """(
    SELECT labels.*, now_names.name AS now_name, before_names.name AS before_name,
           before.confidence AS before_confidence
    FROM labels JOIN now_names ON now_names.label = labels.label
    LEFT JOIN (before JOIN before_sets ON before_sets.label_set = before.label_set
               JOIN before_names ON before_names.teacher = before_sets.teacher AND before_names.label = before.label)
    ON before.sha256 = labels.sha256
)"""

#: What no person has said anything of; the condition on the class, and where the page before ended.
_IS_NEXT = """sha256 NOT IN (SELECT sha256 FROM settled) AND ($label < 0 OR label = $label)
AND (first, second, sha256) > ($first::DOUBLE, $second::DOUBLE, $after)
ORDER BY first, second, sha256 LIMIT $limit"""

#: A margin below $below means a confidence of at most $most: files are filtered by that before the soft labels are read.
_UNCERTAIN = f"""
SELECT sha256, label_set, first, second FROM (
    SELECT sha256, label, label_set, margin AS second,
           row_number() OVER (PARTITION BY label, bucket ORDER BY margin, sha256)::DOUBLE AS first
    FROM (SELECT sha256, label, label_set, {_MARGIN} AS margin FROM labels WHERE confidence <= $most)
    JOIN sets USING (label_set)
    WHERE margin >= $from_margin AND margin < $below
) WHERE {_IS_NEXT}
"""

#: The surer both teachers were, the more one of them has to learn. Materialized: else DuckDB begins with the pairs of
#: classes that differ, of which there are a million for a thousand classes.
_DISAGREEMENT = f"""
WITH compared AS MATERIALIZED (
    SELECT sha256, label, label_set, least(confidence, before_confidence)::DOUBLE AS strength, now_name, before_name
    FROM {_COMPARED} WHERE before_name IS NOT NULL
)
SELECT sha256, label_set, first, second FROM (
    SELECT sha256, label, label_set, -strength AS second,
           row_number() OVER (PARTITION BY label, bucket ORDER BY strength DESC, sha256)::DOUBLE AS first
    FROM compared JOIN sets USING (label_set) WHERE now_name != before_name
) WHERE {_IS_NEXT}
"""

#: A sha-256 is as good as drawn by lot: the images from a point on that only the seed decides are a uniform sample.
_AUDIT = f"""
SELECT sha256, label_set, first, second FROM (
    SELECT sha256, label, label_set, (sha256 < $start)::DOUBLE AS first, 0.0::DOUBLE AS second
    FROM labels WHERE confidence >= $threshold
) WHERE {_IS_NEXT}
"""

_SQL = {ReviewOrder.UNCERTAIN: _UNCERTAIN, ReviewOrder.DISAGREEMENT: _DISAGREEMENT, ReviewOrder.AUDIT: _AUDIT}


@dataclass(frozen=True)
class Asked:
    """Which images a person wants to review; None is no condition."""

    by: ReviewOrder = ReviewOrder.UNCERTAIN
    teacher: str | None = None  #: None: the champion
    bucket: str | None = None
    class_name: str | None = None  #: the teacher's label
    threshold: float | None = None  #: of an audit; None: that of the teacher's recipe
    seed: int = 0  #: of an audit: another draws another sample


@dataclass(frozen=True)
class _Place:
    """Where a page ended: in which round, among which label sets, and the keys of its last image."""

    round: int = 0
    sets: str = ""  #: lot of the first of those that are ranked together
    keys: tuple[float, float] = (-1.0, -2.0)
    sha256: str = ""

    def told(self, asked: Asked) -> str:
        parts = [*_words(asked), self.round, self.sets, *self.keys, self.sha256]
        return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _words(asked: Asked) -> list[Any]:
    return [asked.by, asked.teacher, asked.bucket, asked.class_name, asked.threshold, asked.seed]


@dataclass(frozen=True)
class _Found:
    """An image of the queue, before all of it is read."""

    sha256: str
    label_set: str
    place: _Place


# -- the queue ------------------------------------------------------------------------------------


@listing_anew
def queue(looking: Looking, asked: Asked, *, cursor: str | None = None, limit: int = 100) -> ReviewQueue:
    """Some of the images that a person has said nothing of, what helps most first.

    A page may be shorter than ``limit`` and have a next one: so many label sets are looked through at a time.
    Raises NotFound, NoChampion, and Refused for a cursor of another queue.
    """
    after = _read(cursor) if cursor is not None else None
    teacher = looking.teacher(asked.teacher or (after[0] if after else None))
    asked = replace(asked, teacher=teacher, threshold=_threshold(looking, asked, teacher))
    if after is not None and after[1] != _words(asked):
        raise Refused("the cursor is of another queue; ask on with the same words, or without it", code="bad_cursor")
    start = after[2] if after is not None else _Place()
    parameters = {"label": _label(looking, asked, teacher)}
    sets = label_sets.listed(looking.catalog, teacher, bucket=asked.bucket)
    if asked.by == ReviewOrder.DISAGREEMENT:
        sets = [one for one in sets if one.previous_key is not None]
    with labels.opened(
        looking.store,
        {},
        more=[key for one in sets for key in (one.key, one.previous_key) if key is not None],
        spool=looking.spool,
        threads=looking.threads,
        tables=_tables(looking, sets),
    ) as session:
        found, rest = _search(looking, session, asked, sets, start, parameters, limit + 1)
    told = _items(looking, asked, sets, found[:limit])
    rest = found[limit - 1].place if len(found) > limit else rest
    return ReviewQueue(
        items=tuple(told),
        next=rest.told(asked) if rest is not None else None,
        by=asked.by,
        teacher=teacher,
        audit_threshold=asked.threshold,
    )


def _search(
    looking: Looking,
    session: Session,
    asked: Asked,
    sets: Sequence[Listed],
    start: _Place,
    parameters: dict[str, Any],
    num: int,
) -> tuple[list[_Found], _Place | None]:
    """The next images, ``num`` at most, and where to go on looking; None: all was looked through, or enough is found."""
    found: list[_Found] = []
    for number, (words, here, begin) in enumerate(_together(asked, sets, start)):
        if number >= MAX_LOOKED_THROUGH and found:
            return found, begin
        if asked.by == ReviewOrder.DISAGREEMENT:
            _show(looking, session, here)
        else:
            session.show("labels", [one.key for one in here])
        found += _images(session, _SQL[asked.by], parameters | words, begin, num - len(found))
        if len(found) >= num:
            break
    return found, None


def _show(looking: Looking, session: Session, sets: Sequence[Listed]) -> None:
    """Have the names in ``_COMPARED`` stand for these label sets, and those of the same shards before."""
    earlier = [one for one in sets if one.previous_key is not None]
    session.show("labels", [one.key for one in sets])
    session.show("before", [one.previous_key or "" for one in earlier])
    for name, table in _names(looking, sets[0].teacher, earlier).items():
        session.give(name, table)


def _names(looking: Looking, teacher: str, earlier: Sequence[Listed]) -> dict[str, Any]:
    """The names of classes, which two teachers may number differently."""
    now = looking.classes(teacher)
    before = {known: looking.classes(known) for known in {one.previous_teacher for one in earlier} if known}
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


def _together(
    asked: Asked, sets: Sequence[Listed], start: _Place
) -> Iterator[tuple[dict[str, Any], Sequence[Listed], _Place]]:
    """From a place on: what to ask for, the label sets to ask together, and the place in them to begin behind."""
    by_lot = sorted(((_lot(one.key), one) for one in sets), key=lambda each: each[0])
    num = min(SETS_TOGETHER[asked.by], max(1, len(by_lot)))
    for number, words in enumerate(_rounds(asked)):
        if number < start.round:
            continue
        is_first = number == start.round
        left = [each for each in by_lot if each[0] >= start.sets] if is_first else by_lot
        for at in range(0, len(left), num):
            here = left[at : at + num]
            begin = start if is_first and at == 0 else _Place(number)
            yield words, [one for _, one in here], replace(begin, sets=here[0][0])


def _rounds(asked: Asked) -> list[dict[str, Any]]:
    """What is asked for of all label sets before the next is."""
    if asked.by == ReviewOrder.UNCERTAIN:
        edge, all_of_it = UNCERTAIN_MARGIN, 2.0
        return [
            {"from_margin": -all_of_it, "below": edge, "most": (1 + edge) / 2},
            {"from_margin": edge, "below": all_of_it, "most": all_of_it},
        ]
    if asked.by == ReviewOrder.AUDIT:
        return [{"start": _lot(f"audit {asked.seed}"), "threshold": asked.threshold}]
    return [{}]


def _images(session: Session, sql: str, parameters: Mapping[str, Any], after: _Place, num: int) -> list[_Found]:
    first, second = after.keys
    words = {"first": first, "second": second, "after": after.sha256, "limit": num}
    return [
        _Found(
            row["sha256"], row["label_set"], replace(after, keys=(row["first"], row["second"]), sha256=row["sha256"])
        )
        for row in session.ask(sql, {**parameters, **words}).to_pylist()
    ]


def _items(looking: Looking, asked: Asked, sets: Sequence[Listed], found: Sequence[_Found]) -> list[QueueItem]:
    assert asked.teacher is not None, "it is named by now"
    holding = {one.label_set for one in found}
    needed = {one.key: one for one in sets if one.key in holding}
    if asked.by == ReviewOrder.AUDIT:
        return [_blind_item(one.sha256, needed[one.label_set]) for one in found]
    told = pseudo_labels.of_images(looking, [(one.sha256, needed[one.label_set]) for one in found])
    return [_item(label) for label in told]


def _blind_item(sha256: str, of: Listed) -> QueueItem:
    return QueueItem(
        sha256=sha256, bucket=of.bucket, teacher=of.teacher, label=None, confidence=None, margin=None, classes=()
    )


def _item(label: PseudoLabel) -> QueueItem:
    return QueueItem(
        sha256=label.sha256,
        bucket=label.bucket,
        teacher=label.teacher,
        label=label.label,
        confidence=label.confidence,
        margin=label.margin,
        classes=tuple(ClassProbability(label=one.label, probability=one.probability) for one in label.classes),
        previous_teacher=label.previous_teacher,
        previous_label=label.previous_label,
    )


def _tables(looking: Looking, sets: Sequence[Listed]) -> dict[str, Any]:
    with looking.catalog.read() as session:
        leaking = fingerprints.resembling_holdout(session)
    settled = {*label_sets.labeled_later(looking.catalog), *leaking}
    where = {"label_set": [one.key for one in sets], "bucket": [one.bucket for one in sets]}
    return {
        "settled": labels.table({"sha256": sorted(settled)}, sha256="string"),
        "sets": labels.table(where, label_set="string", bucket="string"),
    }


def _threshold(looking: Looking, asked: Asked, teacher: str) -> float | None:
    """What an audit is drawn from; None: this is none."""
    if asked.by != ReviewOrder.AUDIT:
        return None
    if asked.class_name is not None:
        raise Refused("an audit is blind, so it cannot be of one class; leave class out", code="audit_is_blind")
    return default_threshold(looking, teacher) if asked.threshold is None else asked.threshold


def default_threshold(looking: Looking, teacher: str) -> float:
    """From which confidence on the next selection takes a teacher's labels, if its recipe is used again."""
    recipe = versions.get(looking.catalog, teacher).card.recipe
    return float(recipe.get("threshold", Recipe.model_fields["threshold"].default))


def _label(looking: Looking, asked: Asked, teacher: str) -> int:
    """The number of the class that is asked for; -1: of all."""
    classes = looking.classes(teacher)
    if asked.class_name is not None and asked.class_name not in classes:
        raise Refused(
            f"class={asked.class_name[:100]!r} is none of the teacher's {len(classes)} classes "
            f"({', '.join(classes[:5])}, …)",
            code="unknown_class",
        )
    return -1 if asked.class_name is None else classes.index(asked.class_name)


def _lot(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(cursor: str) -> tuple[str, list[Any], _Place]:
    """The teacher, the words and the place of a cursor. Raises Refused for what no page has given."""
    try:
        *words, number, sets, first, second, sha256 = json.loads(
            base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        )
        place = _Place(int(number), str(sets), (float(first), float(second)), str(sha256))
        teacher = str(words[1])
        if not all(map(math.isfinite, place.keys)) or "\0" in teacher:
            raise ValueError("not finite")
    except (ValueError, TypeError, IndexError, binascii.Error, RecursionError, OverflowError) as error:
        raise Refused(
            f"cursor={cursor[:100]!r} is none of ours; give `next` of the page before", code="bad_cursor"
        ) from error
    return teacher, words, place


# -- decisions ------------------------------------------------------------------------------------


@listing_anew
def decide(looking: Looking, request: ReviewRequest, *, actor: str) -> list[Review]:
    """Write decisions down, all or none, each with the pseudo-label that it is about; gives the reviews in their order.

    A correction to the teacher's own class is an acceptance. Raises NotFound for an unknown image or teacher; Conflict
    for an image that is human-labeled otherwise, not labeled by the teacher, labeled otherwise than was seen, asked
    into the holdout, or not of the audit; Refused for a class that there is not.
    """
    decisions = request.reviews
    _refuse_repeated(decisions)
    if any(one.split == "holdout" for one in decisions):
        raise Conflict(
            "a decision joins the labeled set, never the holdout: a student may have learned from the image. To have "
            "those join of which none did: `understudy corrections --to FOLDER --format folder`, then `understudy init "
            "--holdout FOLDER`",
            code="may_have_trained",
        )
    with looking.catalog.read() as session:
        reviews.refuse_unreviewable(session, [one.sha256 for one in decisions])
    known = set(shards.class_counts(looking.catalog, "labeled"))
    by_teacher: dict[str, list[Decision]] = {}
    for one in decisions:
        by_teacher.setdefault(looking.teacher(one.teacher), []).append(one)
    decided: dict[str, Decided] = {}
    for teacher, some in by_teacher.items():
        classes = looking.classes(teacher)
        said = _said(looking, teacher, [one.sha256 for one in some])
        for one in some:
            if one.sha256 not in said:
                raise Conflict(
                    f"image {one.sha256} has no label by {teacher} (yet), so there is nothing to review; wait for it, "
                    f"or name another teacher. Nothing was written",
                    code="not_labeled",
                )
            number, confidence = said[one.sha256]
            label = (classes[number], confidence)
            decided[one.sha256] = _decided(looking, one, teacher, label, known | set(classes))
    return reviews.add(looking.catalog, [decided[one.sha256] for one in decisions], actor=actor)


def _decided(looking: Looking, one: Decision, teacher: str, about: tuple[str, float], known: set[str]) -> Decided:
    label, confidence = about
    if one.verdict == Verdict.ACCEPT and one.class_name not in (None, label):
        raise Conflict(
            f"image {one.sha256} was accepted as {one.class_name!r}, but {teacher} calls it {label!r}; look again, or "
            f"correct it. Nothing was written",
            code="label_changed",
        )
    class_name = label if one.verdict == Verdict.ACCEPT else one.class_name
    is_new = class_name is not None and class_name not in known
    if is_new and not one.is_new_class:
        raise Refused(
            f"class_name={one.class_name!r} is none of the {len(known)} known classes ({', '.join(sorted(known)[:10])}); "
            f"if it is a new one, set is_new_class. Nothing was written",
            code="unknown_class",
        )
    threshold = None
    if one.is_audit:
        threshold = default_threshold(looking, teacher) if one.audit_threshold is None else one.audit_threshold
        if confidence < threshold:
            raise Conflict(
                f"image {one.sha256} is not in the audit of {teacher} from {threshold:g} on: its label is less "
                f"confident. Take the images of GET /reviews/queue?by=audit. Nothing was written",
                code="not_in_audit",
            )
    is_right = class_name == label and one.verdict != Verdict.REJECT
    return Decided(
        sha256=one.sha256,
        verdict=Verdict.ACCEPT if is_right else one.verdict,
        class_name=class_name,
        teacher=teacher,
        label=label,
        confidence=confidence,
        is_new_class=is_new,
        is_audit=one.is_audit,
        audit_threshold=threshold,
    )


def _said(looking: Looking, teacher: str, sha256s: Sequence[str]) -> dict[str, tuple[int, float]]:
    """The number of the class and the confidence that a teacher gave each of these images that it has labeled."""
    sets = label_sets.listed(looking.catalog, teacher, sha256s=sha256s)
    found = labels.query(
        looking.store,
        [one.key for one in sets],
        "SELECT sha256, label, confidence FROM labels WHERE sha256 IN (SELECT unnest($wanted::VARCHAR[]))",
        {"wanted": list(sha256s)},
        spool=looking.spool,
        threads=looking.threads,
    ).to_pylist()
    return {row["sha256"]: (row["label"], min(1.0, row["confidence"])) for row in found}


def _refuse_repeated(decisions: Iterable[Decision]) -> None:
    seen: set[str] = set()
    for one in decisions:
        if one.sha256 in seen:
            raise Refused(
                f"image {one.sha256} is in the request twice; say one thing of each image", code="image_repeated"
            )
        seen.add(one.sha256)


# -- the audit ------------------------------------------------------------------------------------


def audit(looking: Looking, *, teacher: str | None = None, threshold: float | None = None) -> Audit:
    """How right a teacher's labels of this confidence or more are, by what was audited of them so far.

    Raises NotFound and NoChampion.
    """
    known = looking.teacher(teacher)
    least = default_threshold(looking, known) if threshold is None else threshold
    said = reviews.audited(looking.catalog, known, least)
    whole = _audited([label == word for label, word in said])
    by_class: dict[str, list[bool]] = {}
    for label, word in said:
        by_class.setdefault(label, []).append(label == word)
    return Audit(
        teacher=known,
        threshold=least,
        num_rejected=sum(word is None for _, word in said),
        per_class={name: _audited(by_class.get(name, [])) for name in looking.classes(known)},
        **dict(whole),
    )


def _audited(is_right: Sequence[bool]) -> AuditedClass:
    num, right = len(is_right), sum(is_right)
    return AuditedClass(
        num_audited=num,
        num_right=right,
        precision=right / num if num else None,
        interval=exact_interval(right, num) if num else None,
    )


def exact_interval(num_right: int, num: int, confidence: float = CONFIDENCE) -> Interval:
    """Clopper and Pearson's interval of a proportion: whatever it is, it lies within in this share of cases or more."""
    tail = (1 - confidence) / 2
    return Interval(
        low=float(betaincinv(num_right, num - num_right + 1, tail)) if num_right else 0.0,
        high=float(betaincinv(num_right + 1, num - num_right, 1 - tail)) if num_right < num else 1.0,
        confidence=confidence,
    )
