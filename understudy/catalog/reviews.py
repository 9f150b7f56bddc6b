"""Reviews: what people say of pseudo-labels. Of an image the newest that is not undone counts.

Nothing is written over: a review is added or undone, so that undoing one restores what counted before. Which images
of buckets are human-labeled by it, and join the labeled set of the next generation, is a query over what counts now.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, insert, select, update
from sqlalchemy.orm import Session, aliased

from understudy.catalog.database import Catalog, now
from understudy.catalog.shards import class_counts
from understudy.catalog.tables import FingerprintRow, ImageRow, LabeledImageRow, ReviewRow, ShardRow
from understudy.errors import Conflict, NotFound
from understudy.review_records import Review, Verdict

#: Any constant will do: it names the lock among PostgreSQL's advisory locks.
REVIEW_LOCK = 0x72657677
#: SQLite takes at most 32,766 values in a statement.
VALUES_PER_STATEMENT = 5000


@dataclass(frozen=True)
class Decided:
    """A decision, with the pseudo-label that it is about."""

    sha256: str
    verdict: Verdict
    class_name: str | None  #: None: rejected
    teacher: str
    label: str
    confidence: float
    is_new_class: bool = False
    is_audit: bool = False
    audit_threshold: float | None = None


@dataclass(frozen=True)
class Joining:
    """An image of a bucket that a person has labeled by a review."""

    sha256: str
    shard: str  #: key of the bucket's shard in which it lies
    class_name: str


def in_turn(session: Session) -> None:
    """Let no review be written beside this transaction: two of one image would not see each other. To be called first.

    SQLite has one writer.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(REVIEW_LOCK)))


def add(catalog: Catalog, decisions: Sequence[Decided], *, actor: str) -> list[Review]:
    """Write decisions of different images down, all or none; gives the review of each, in their order.

    A decision that counts already, of the same actor about the same label, is not written again. Raises NotFound for
    an image that is in no bucket, and Conflict for one that is in the labeled set or in the holdout.
    """
    sha256s = [one.sha256 for one in decisions]
    with catalog.write() as session:
        in_turn(session)
        refuse_unreviewable(session, sha256s)
        counting = {row.sha256: row for row in session.scalars(select(ReviewRow).where(_counts(sha256s)))}
        new = [one for one in decisions if not _is_said(counting.get(one.sha256), one, actor)]
        if new:
            common = {"actor": actor[:200], "at": now()}
            values = [{name: getattr(one, name) for name in Decided.__dataclass_fields__} for one in new]
            session.execute(insert(ReviewRow).values(common), values)
        rows = {row.sha256: _record(row) for row in session.scalars(select(ReviewRow).where(_counts(sha256s)))}
        return [rows[sha256] for sha256 in sha256s]


def undo(catalog: Catalog, ids: Iterable[int]) -> list[Review]:
    """Have reviews count no more, all or none; what was said before counts again. Twice is once. Raises NotFound."""
    wanted = sorted(set(ids))
    with catalog.write() as session:
        in_turn(session)
        known = set(session.scalars(select(ReviewRow.id).where(ReviewRow.id.in_(wanted))))
        if missing := [id for id in wanted if id not in known]:
            raise NotFound(f"there is no review {missing[0]}; GET /reviews lists all. Nothing was undone")
        counted = ReviewRow.undone_at.is_(None)
        session.execute(update(ReviewRow).where(ReviewRow.id.in_(wanted), counted).values(undone_at=now()))
        rows = session.scalars(select(ReviewRow).where(ReviewRow.id.in_(wanted)).order_by(ReviewRow.id))
        return [_record(row) for row in rows]


def page(
    catalog: Catalog,
    *,
    before: int | None = None,
    limit: int = 100,
    sha256: str | None = None,
    verdict: Verdict | None = None,
    is_audit: bool | None = None,
    is_counting: bool | None = None,
) -> list[Review]:
    """Reviews, the newest first, from before an id; None is no condition."""
    statement = select(ReviewRow)
    if before is not None:
        statement = statement.where(ReviewRow.id < before)
    if sha256 is not None:
        statement = statement.where(ReviewRow.sha256 == sha256)
    if verdict is not None:
        statement = statement.where(ReviewRow.verdict == verdict)
    if is_audit is not None:
        statement = statement.where(ReviewRow.is_audit.is_(is_audit))
    if is_counting is not None:
        newest = _newest()
        statement = statement.where(ReviewRow.id.in_(newest) if is_counting else ReviewRow.id.not_in(newest))
    with catalog.read() as session:
        return [_record(row) for row in session.scalars(statement.order_by(ReviewRow.id.desc()).limit(limit))]


def counting(catalog: Catalog, sha256s: Sequence[str]) -> dict[str, Review]:
    """The review that counts of each of these images that has one."""
    found: dict[str, Review] = {}
    with catalog.read() as session:
        for at in range(0, len(sha256s), VALUES_PER_STATEMENT):
            some = _counts(sha256s[at : at + VALUES_PER_STATEMENT])
            found |= {row.sha256: _record(row) for row in session.scalars(select(ReviewRow).where(some))}
    return found


def reviewed(catalog: Catalog) -> set[str]:
    """Every image of which a review counts, whatever it says: no teacher's label of it is used."""
    with catalog.read() as session:
        return set(session.scalars(select(ReviewRow.sha256).where(ReviewRow.undone_at.is_(None)).distinct()))


def joining(catalog: Catalog) -> list[Joining]:
    """The images that are human-labeled by a review, by their sha-256, and of a class that the labeled set has.

    Without those that are in the labeled set or the holdout by themselves, or are near copies of an image in the
    holdout.
    """
    statement = (
        select(ReviewRow.sha256, ShardRow.key, ReviewRow.class_name)
        .join(ImageRow, ImageRow.sha256 == ReviewRow.sha256)
        .join(ShardRow, ShardRow.id == ImageRow.shard_id)
        .where(*_joins())
        .order_by(ReviewRow.sha256)
    )
    with catalog.read() as session:
        return [Joining(sha256, key, str(name)) for sha256, key, name in session.execute(statement)]


def labeled_counts(catalog: Catalog) -> dict[str, int]:
    """How many human-labeled images there are to train on of each class, by name: the labeled set's and the reviewed."""
    counts = class_counts(catalog, "labeled")
    of_class = select(ReviewRow.class_name, func.count()).where(*_joins()).group_by(ReviewRow.class_name)
    with catalog.read() as session:
        for name, count in session.execute(of_class):
            counts[str(name)] += int(count)
    return counts


def audited(catalog: Catalog, teacher: str, threshold: float) -> list[tuple[str, str | None]]:
    """What a teacher and a person said of each image of its audits, where it was at least so confident.

    None: the person rejected it. What an audit of a higher threshold drew is no uniform sample of this, and left out.
    """
    blind, word = aliased(ReviewRow), aliased(ReviewRow)
    drawn = (
        select(func.max(ReviewRow.id))
        .where(
            ReviewRow.is_audit,
            ReviewRow.undone_at.is_(None),
            ReviewRow.teacher == teacher,
            ReviewRow.audit_threshold <= threshold,
            ReviewRow.confidence >= threshold,
        )
        .group_by(ReviewRow.sha256)
    )
    statement = (
        select(blind.label, word.class_name)
        .join(word, word.sha256 == blind.sha256)
        .where(blind.id.in_(drawn), word.id.in_(_newest()))
        .order_by(blind.id)
    )
    with catalog.read() as session:
        return [(label, class_name) for label, class_name in session.execute(statement)]


def _newest() -> Select[Any]:
    """The ids of the reviews that count."""
    return select(func.max(ReviewRow.id)).where(ReviewRow.undone_at.is_(None)).group_by(ReviewRow.sha256)


def _counts(sha256s: Sequence[str]) -> ColumnElement[bool]:
    return ReviewRow.id.in_(_newest().where(ReviewRow.sha256.in_(sha256s)))


def _joins() -> tuple[ColumnElement[bool], ...]:
    is_labeled = select(LabeledImageRow.sha256).where(LabeledImageRow.sha256 == ReviewRow.sha256)
    is_leak = select(FingerprintRow.sha256).where(
        FingerprintRow.sha256 == ReviewRow.sha256, FingerprintRow.holdout_sha256.is_not(None)
    )
    classes = select(LabeledImageRow.class_name).where(LabeledImageRow.split == "labeled").distinct()
    return ReviewRow.id.in_(_newest()), ReviewRow.class_name.in_(classes), ~is_labeled.exists(), ~is_leak.exists()


def _is_said(row: ReviewRow | None, one: Decided, actor: str) -> bool:
    """Whether what counts is this very decision: a double click, or a request that was sent again."""
    said = ("verdict", "class_name", "teacher", "label", "is_audit")
    return row is not None and row.actor == actor[:200] and all(getattr(row, f) == getattr(one, f) for f in said)


def refuse_unreviewable(session: Session, sha256s: Sequence[str]) -> None:
    """Raise NotFound for an image that is in no bucket, and Conflict for one that a human has labeled otherwise."""
    known = set(session.scalars(select(ImageRow.sha256).where(ImageRow.sha256.in_(sha256s))))
    labeled = {
        sha256: (split, class_name)
        for sha256, split, class_name in session.execute(
            select(LabeledImageRow.sha256, LabeledImageRow.split, LabeledImageRow.class_name).where(
                LabeledImageRow.sha256.in_(sha256s)
            )
        )
    }
    for sha256 in sha256s:
        if sha256 in labeled:
            split, class_name = labeled[sha256]
            where = "the holdout" if split == "holdout" else "the labeled set"
            raise Conflict(
                f"image {sha256} is in {where} already, as {class_name!r}: only pseudo-labels are reviewed. "
                f"Nothing was written",
                code="already_labeled",
            )
        if sha256 not in known:
            raise NotFound(f"there is no image {sha256} in any bucket. Nothing was written")


def _record(row: ReviewRow) -> Review:
    return Review(**{name: getattr(row, name) for name in Review.model_fields})
