"""Deleting a bucket: its rows in one transaction, so that nothing new can refer to it, and its objects afterwards.

What works on the bucket at this moment loses its claim, and writes nothing that counts any more. What it may
still leave in the store lies in the bucket's own folder, which is swept again until nobody can be writing there.
"""

import dataclasses
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from understudy.catalog import events, reviews
from understudy.catalog.database import Catalog, now
from understudy.catalog.tables import (
    BucketRow,
    FingerprintRow,
    IdempotencyRow,
    ImageRow,
    JobRow,
    LabeledImageRow,
    LabelSetRow,
    RecallRow,
    ReviewRow,
    ShardRow,
    SourceObjectRow,
    SourceRow,
    VersionRow,
)
from understudy.errors import NotFound
from understudy.records import JobState, Problem
from understudy.store import bucket_folder

#: A claim's work writes for no longer than this after the claim was lost: it looks at every entry and every batch.
LATE_WRITERS_S = 3600.0


@dataclass(frozen=True)
class Extent:
    """What belongs to a bucket."""

    folder: str
    num_images: int
    num_shards: int
    num_bytes: int
    num_label_sets: int
    num_jobs: int  #: that have not ended
    num_reviews: int  #: the undone ones too


@dataclass(frozen=True)
class Swept:
    """A deleted bucket's folder in the store, and the teachers whose label sets may lie there."""

    id: int
    folder: str
    versions: tuple[str, ...]


def folder(catalog: Catalog, name: str) -> str:
    """Where a bucket's objects lie. Raises NotFound: it has been deleted."""
    with catalog.read() as session:
        return _folder(session, name)


def extent(catalog: Catalog, name: str) -> Extent:
    """What deleting a bucket would remove. Raises NotFound."""
    with catalog.read() as session:
        return _extent(session, name)


def delete_bucket(catalog: Catalog, name: str, *, actor: str) -> Extent:
    """Remove a bucket from the catalog; gives what it was. Its objects are for the sweep. Raises NotFound."""
    with catalog.write() as session:
        reviews.in_turn(session)
        # 1. Its jobs end first: the rows' locks let no seal of theirs come after what follows.
        num_jobs = _extent(session, name).num_jobs
        _end_jobs(session, name)

        # 2. What there is, now that nothing can be added.
        removed = dataclasses.replace(_extent(session, name), num_jobs=num_jobs)

        # 3. From what refers to what is referred to.
        of_bucket = select(ShardRow.id).where(ShardRow.bucket == name)
        session.execute(delete(LabelSetRow).where(LabelSetRow.shard_id.in_(of_bucket)))
        images = select(ImageRow.sha256).where(ImageRow.shard_id.in_(of_bucket))
        session.execute(delete(ReviewRow).where(ReviewRow.sha256.in_(images)))
        _forget_fingerprints(session, images)
        session.execute(delete(ImageRow).where(ImageRow.shard_id.in_(of_bucket)))
        session.execute(delete(ShardRow).where(ShardRow.bucket == name))
        jobs = select(JobRow.id).where(JobRow.bucket == name)
        session.execute(delete(IdempotencyRow).where(IdempotencyRow.job_id.in_(jobs)))
        sources = select(SourceRow.id).where(SourceRow.bucket == name)
        session.execute(delete(SourceObjectRow).where(SourceObjectRow.source_id.in_(sources)))
        session.execute(delete(SourceRow).where(SourceRow.bucket == name))
        session.execute(delete(BucketRow).where(BucketRow.name == name))

        # 4. What the sweep is to remove.
        session.add(RecallRow(folder=removed.folder, actor=actor[:200], created_at=now()))
        return removed


def _forget_fingerprints(session: Session, sha256s: Select[str]) -> None:
    """Of images that go. One that stands for others, which are found by it alone, is kept: 64 bytes, and no picture."""
    another = aliased(FingerprintRow)
    session.execute(
        delete(FingerprintRow).where(
            FingerprintRow.sha256.in_(sha256s),
            ~select(LabeledImageRow.sha256).where(LabeledImageRow.sha256 == FingerprintRow.sha256).exists(),
            ~select(another.sha256).where(another.resembles == FingerprintRow.sha256).exists(),
        )
    )


def unswept(catalog: Catalog) -> list[Swept]:
    """The folders of deleted buckets in which something may lie still."""
    with catalog.read() as session:
        versions = tuple(session.scalars(select(VersionRow.id)))
        rows = session.scalars(select(RecallRow).where(RecallRow.swept_at.is_(None)).order_by(RecallRow.id))
        return [Swept(row.id, row.folder, versions) for row in rows]


def swept(catalog: Catalog, recall: Swept, *, after_s: float = LATE_WRITERS_S) -> None:
    """The folder has been emptied. That is the end of it when the deletion was so long ago."""
    is_old = and_(RecallRow.id == recall.id, RecallRow.created_at < now() - after_s)
    with catalog.write() as session:
        session.execute(update(RecallRow).where(is_old).values(swept_at=now()))


def _folder(session: Session, name: str) -> str:
    row = session.get(BucketRow, name)
    if row is None:
        raise NotFound(f"there is no bucket {name!r}; GET /buckets lists all")
    return bucket_folder(row.name, row.token)


def _extent(session: Session, name: str) -> Extent:
    place = _folder(session, name)
    totals = select(
        func.count(), func.coalesce(func.sum(ShardRow.num_images), 0), func.coalesce(func.sum(ShardRow.num_bytes), 0)
    )
    num_shards, num_images, num_bytes = session.execute(totals.where(ShardRow.bucket == name)).one()
    label_sets = select(func.count()).select_from(LabelSetRow).join(ShardRow, ShardRow.id == LabelSetRow.shard_id)
    reviewed = (
        select(func.count())
        .select_from(ReviewRow)
        .join(ImageRow, ImageRow.sha256 == ReviewRow.sha256)
        .join(ShardRow, ShardRow.id == ImageRow.shard_id)
    )
    open_jobs = select(func.count()).select_from(JobRow).where(JobRow.bucket == name, _is_open())
    return Extent(
        folder=place,
        num_images=int(num_images),
        num_shards=num_shards,
        num_bytes=int(num_bytes),
        num_label_sets=session.scalar(label_sets.where(ShardRow.bucket == name)) or 0,
        num_jobs=session.scalar(open_jobs) or 0,
        num_reviews=session.scalar(reviewed.where(ShardRow.bucket == name)) or 0,
    )


def _is_open() -> ColumnElement[bool]:
    return JobRow.state.not_in([JobState.SUCCEEDED, JobState.FAILED])


def _end_jobs(session: Session, name: str) -> None:
    """Fail what has not ended, and what has failed: neither may be claimed or tried again."""
    problem = Problem(code="bucket_deleted", detail=f"the bucket {name!r} was deleted; send the images to another")
    ending = session.scalars(select(JobRow.id).where(JobRow.bucket == name, _is_open())).all()
    session.execute(
        update(JobRow)
        .where(JobRow.bucket == name, or_(_is_open(), JobRow.state == JobState.FAILED))
        .values(
            state=JobState.FAILED,
            attempt=JobRow.attempt + 1,  # whoever holds it holds it no more
            problem=problem.model_dump(),
            owner=None,
            lease_until=None,
            updated_at=now(),
        )
    )
    events.ended(session, JobRow, ending)
