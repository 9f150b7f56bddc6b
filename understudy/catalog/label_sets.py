"""Which label sets are published: the lists that queries over pseudo-labels are given."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from understudy.catalog.database import Catalog
from understudy.catalog.tables import BucketRow, ImageRow, LabeledImageRow, LabelSetRow, ReviewRow, ShardRow
from understudy.errors import NotFound
from understudy.records import JobState


@dataclass(frozen=True)
class Listed:
    """A published label set, and that of the teacher who labeled the same shard before."""

    key: str
    bucket: str
    teacher: str
    num_rows: int
    previous_key: str | None
    previous_teacher: str | None


@dataclass(frozen=True)
class _Published:
    id: int
    shard_id: int
    teacher: str
    key: str
    bucket: str
    num_rows: int


def listed(
    catalog: Catalog,
    teacher: str,
    *,
    bucket: str | None = None,
    sha256: str | None = None,
    sha256s: Sequence[str] | None = None,
) -> list[Listed]:
    """A teacher's label sets, in the order of their shards; of one bucket, or of the shards of some images.

    Raises NotFound for a bucket that is not there.
    """
    published = _published(catalog, bucket=bucket, sha256s=sha256s if sha256 is None else [sha256])
    before: dict[int, list[_Published]] = {}
    for one in published:
        if one.teacher != teacher:
            before.setdefault(one.shard_id, []).append(one)
    found = []
    for one in published:
        if one.teacher == teacher:
            earlier = [other for other in before.get(one.shard_id, []) if other.id < one.id]
            previous = max(earlier, key=lambda other: other.id, default=None)
            found.append(
                Listed(
                    one.key,
                    one.bucket,
                    teacher,
                    one.num_rows,
                    previous.key if previous else None,
                    previous.teacher if previous else None,
                )
            )
    return found


def teachers(catalog: Catalog, *, bucket: str | None = None) -> dict[str, int]:
    """Images that each teacher has labeled."""
    statement = (
        select(LabelSetRow.version, func.sum(LabelSetRow.num_rows))
        .join(ShardRow, ShardRow.id == LabelSetRow.shard_id)
        .where(LabelSetRow.state == JobState.SUCCEEDED)
        .group_by(LabelSetRow.version)
        .order_by(LabelSetRow.version)
    )
    if bucket is not None:
        statement = statement.where(ShardRow.bucket == bucket)
    with catalog.read() as session:
        return {str(version): int(count or 0) for version, count in session.execute(statement)}


def shard_of(catalog: Catalog, sha256: str) -> str:
    """The key of the shard in which an accepted image lies. Raises NotFound."""
    with catalog.read() as session:
        key = session.scalar(
            select(ShardRow.key).join(ImageRow, ImageRow.shard_id == ShardRow.id).where(ImageRow.sha256 == sha256)
        ) or session.scalar(
            select(ShardRow.key)
            .join(LabeledImageRow, LabeledImageRow.shard_id == ShardRow.id)
            .where(LabeledImageRow.sha256 == sha256)
        )
    if key is None:
        raise NotFound(f"there is no image {sha256}")
    return key


def labeled_later(catalog: Catalog) -> list[str]:
    """The accepted images that a human has labeled or reviewed since: their pseudo-labels must not train."""
    labeled = select(ImageRow.sha256).join(LabeledImageRow, LabeledImageRow.sha256 == ImageRow.sha256)
    reviewed = select(ReviewRow.sha256).where(ReviewRow.undone_at.is_(None))
    with catalog.read() as session:
        return sorted(set(session.scalars(labeled)) | set(session.scalars(reviewed)))


def _published(catalog: Catalog, *, bucket: str | None, sha256s: Sequence[str] | None) -> list[_Published]:
    statement = (
        select(
            LabelSetRow.id,
            LabelSetRow.shard_id,
            LabelSetRow.version,
            LabelSetRow.key,
            ShardRow.bucket,
            LabelSetRow.num_rows,
        )
        .join(ShardRow, ShardRow.id == LabelSetRow.shard_id)
        .where(LabelSetRow.state == JobState.SUCCEEDED)
        .order_by(ShardRow.id, LabelSetRow.id)
    )
    with catalog.read() as session:
        if bucket is not None:
            if session.get(BucketRow, bucket) is None:
                raise NotFound(f"there is no bucket {bucket!r}; GET /buckets names those that there are")
            statement = statement.where(ShardRow.bucket == bucket)
        if sha256s is not None:
            statement = statement.where(
                ShardRow.id.in_(select(ImageRow.shard_id).where(ImageRow.sha256.in_(sha256s)).distinct())
            )
        return [
            _Published(id, shard_id, version, str(key), str(bucket_name), num_rows or 0)
            for id, shard_id, version, key, bucket_name, num_rows in session.execute(statement)
        ]
