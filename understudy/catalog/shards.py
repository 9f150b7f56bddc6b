"""Buckets, shards, their images, and the label sets that are wanted or published for them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, bindparam, delete, func, select, text, true, update
from sqlalchemy.orm import Session

from understudy.catalog import claims, generations, pausing
from understudy.catalog import fingerprints as resemblances
from understudy.catalog.claims import Claim
from understudy.catalog.database import Catalog, insert_or_ignore, now
from understudy.catalog.tables import (
    IS_OPEN,
    BucketRow,
    ChampionRow,
    GenerationRow,
    ImageRow,
    JobRow,
    LabeledImageRow,
    LabelSetRow,
    ReviewRow,
    ShardRow,
    VersionRow,
)
from understudy.errors import LabeledSetRefused, NotFound
from understudy.records import (
    BucketSummary,
    JobState,
    LabelProgress,
    LabelTask,
    Shard,
    ShardManifest,
)

#: What is labeled first: shards that no teacher has labeled, before those that an earlier one has.
NEW, AGAIN = 0, 1
#: Attempts at a label set: the first two go at full speed. If a holder died in both, the others find the image that
#: kills it and leave it out (``worker/careful.py``); whose holder dies even so is stopped by something else.
LABEL_ATTEMPTS, CAREFUL_FROM = 6, 3
#: SQLite takes at most 32,766 values in a statement; a row of images has five.
ROWS_PER_STATEMENT = 5000


_WANTED: Any = bindparam("sha256s", expanding=True)
_KNOWN_UNLABELED = select(ImageRow.sha256, ImageRow.job_id, ImageRow.entry).where(ImageRow.sha256.in_(_WANTED))
_KNOWN_LABELED = select(
    LabeledImageRow.sha256,
    LabeledImageRow.split,
    LabeledImageRow.job_id,
    LabeledImageRow.entry,
    LabeledImageRow.class_name,
).where(LabeledImageRow.sha256.in_(_WANTED))


@dataclass(frozen=True)
class Known:
    """Where the bytes of an image are already."""

    split: str  #: unlabeled, labeled or holdout
    job_id: str
    entry: int
    class_name: str | None


@dataclass(frozen=True)
class Sealed:
    """A shard that is now in the catalog, and the label set that is wanted for it (None: no champion yet)."""

    shard_id: int
    label_task: int | None


class AlreadyThere(Exception):
    """Another job sealed some of these images first; nothing was written."""

    def __init__(self, sha256s: set[str]) -> None:
        super().__init__(f"{len(sha256s)} images are sealed elsewhere already")
        self.sha256s = sha256s


def known(catalog: Catalog, sha256s: Iterable[str]) -> dict[str, Known]:
    """Which of these images the catalog has. A human label outranks: it is what is told of both."""
    wanted = list(sha256s)
    found: dict[str, Known] = {}
    with catalog.read() as session:
        for at in range(0, len(wanted), ROWS_PER_STATEMENT):
            some = {"sha256s": wanted[at : at + ROWS_PER_STATEMENT]}
            for sha256, job_id, entry in session.execute(_KNOWN_UNLABELED, some):
                found[sha256] = Known("unlabeled", job_id, entry, None)
            for sha256, split, job_id, entry, class_name in session.execute(_KNOWN_LABELED, some):
                found[sha256] = Known(split, job_id, entry, class_name)
    return found


def seal(
    catalog: Catalog,
    claim: Claim,
    manifest: ShardManifest,
    entries: list[int],
    fingerprints: Mapping[str, resemblances.Known] | None = None,
) -> Sealed:
    """Make a shard's images accepted, all in one transaction with the shard itself.

    ``entries[i]`` is the position in the upload of ``manifest.members[i]``; ``fingerprints`` are by sha-256. Raises AlreadyThere if
    another job has sealed one of them meanwhile, LeaseLost if this job was taken over, and LabeledSetRefused for an
    image of a bucket that shall join the holdout while a generation may be choosing it.
    """
    members = manifest.members
    with catalog.write() as session:
        resemblances.in_turn(session, split=manifest.split)
        claims.fence(session, claim)
        if manifest.split == "holdout":
            _refuse_chosen(session, [m.sha256 for m in members])
        shard_id = session.scalar(
            insert_or_ignore(session, ShardRow)
            .values(
                key=manifest.key, split=manifest.split, bucket=manifest.bucket, job_id=claim.id,
                num_images=len(members), num_bytes=manifest.num_bytes, created_at=now(),
            )
            .returning(ShardRow.id)
        )  # fmt: skip
        if shard_id is None:  # the key is the content: another job was first with these very images
            raise AlreadyThere({m.sha256 for m in members})
        table = ImageRow if manifest.split == "unlabeled" else LabeledImageRow
        rows: list[dict[str, Any]] = [
            {"sha256": m.sha256, "shard_id": shard_id, "job_id": claim.id, "entry": entry}
            | ({} if manifest.split == "unlabeled" else {"class_name": m.class_name, "split": manifest.split})
            for m, entry in zip(members, entries, strict=True)
        ]
        rows.sort(key=lambda row: row["sha256"])  # all in one order, so that two jobs never wait for each other
        sealed: set[str] = set()
        if rows:  # as parameters: to compile a statement of a thousand rows takes longer than to run it
            inserted = insert_or_ignore(session, table).returning(table.__table__.c.sha256)
            sealed |= set(session.connection().scalars(inserted, rows))
        if len(sealed) < len(members):
            raise AlreadyThere({m.sha256 for m in members} - sealed)
        resemblances.insert(session, fingerprints or {}, split=manifest.split)
        champion = _champion(session) if manifest.split == "unlabeled" else None
        return Sealed(shard_id, None if champion is None else _want(session, shard_id, champion, manifest.bucket))


def _refuse_chosen(session: Session, sha256s: list[str]) -> None:
    """What a generation has chosen can be asked once it has ended, and not before."""
    number = generations.choosing(session)
    if number is not None and session.scalar(select(ImageRow.sha256).where(ImageRow.sha256.in_(sha256s)).limit(1)):
        raise LabeledSetRefused(
            f"generation {number} may be learning from images of buckets that shall join the holdout; send them again "
            f"when it has ended",
            code="may_have_trained",
        )


def _champion(session: Session) -> str | None:
    return session.scalar(select(ChampionRow.version).order_by(ChampionRow.sequence.desc()).limit(1))


def _want(session: Session, shard_id: int, version: str, bucket: str | None) -> int | None:
    """The id of the new wish. None: another process wished for it at this moment."""
    before = session.scalar(select(LabelSetRow.id).where(LabelSetRow.shard_id == shard_id).limit(1))
    wish: int | None = session.scalar(
        insert_or_ignore(session, LabelSetRow)
        .values(
            shard_id=shard_id, version=version, state=JobState.QUEUED, attempt=0, forgiven=0,
            created_at=now(), updated_at=now(), bucket=bucket, priority=NEW if before is None else AGAIN,
        )
        .returning(LabelSetRow.id)
    )  # fmt: skip
    return wish


def want_labels(catalog: Catalog, *, limit: int = 10_000) -> list[int]:
    """Ask for the champion's label sets of all shards that have none; gives the ids of the new wishes."""
    with catalog.write() as session:
        champion = _champion(session)
        if champion is None:
            return []
        wished = and_(LabelSetRow.shard_id == ShardRow.id, LabelSetRow.version == champion)
        missing = session.execute(
            select(ShardRow.id, ShardRow.bucket)
            .where(ShardRow.split == "unlabeled", ~select(LabelSetRow.id).where(wished).exists())
            .order_by(ShardRow.id)
            .limit(limit)
        ).all()
        wishes = [_want(session, shard_id, champion, bucket) for shard_id, bucket in missing]
        return [wish for wish in wishes if wish is not None]


def claim_labels(catalog: Catalog, *, lease_s: float) -> Claim | None:
    """Take the label set whose turn it is. None: none waits, or the loop is paused.

    What no teacher has labeled comes before what another has. Among those the bucket that has waited longest for a
    turn gives its oldest: each gets its share, and the smallest is done soonest. Decided here and now, not when
    a message was sent.
    """
    with catalog.write() as session:
        if pausing.is_paused(session, is_taking=True):
            return None
        for priority in (NEW, AGAIN):
            in_bucket = and_(_waits_in(priority), LabelSetRow.bucket == BucketRow.name)
            waiting = (
                select(BucketRow.name)
                .where(select(LabelSetRow.id).where(in_bucket).exists())
                .order_by(func.coalesce(BucketRow.labeled_at, 0.0), BucketRow.name)
            )
            for bucket in session.scalars(waiting).all():
                claim = _claim_of(session, bucket, priority, lease_s)
                if claim is not None:
                    return claim
    return None


def _claim_of(session: Session, bucket: str, priority: int, lease_s: float) -> Claim | None:
    """A bucket's oldest, or of those that killed their holders twice if there is no other: they hold up nobody.

    What another worker is taking at this moment is passed over.
    """
    num_spent = LabelSetRow.attempt - LabelSetRow.forgiven
    for suspects in (num_spent < CAREFUL_FROM - 1, num_spent >= CAREFUL_FROM - 1):
        oldest = session.scalar(
            select(LabelSetRow.id)
            .where(_waits_in(priority), LabelSetRow.bucket == bucket, suspects)
            .order_by(LabelSetRow.id)
            .limit(1)
            .with_for_update(skip_locked=True)  # SQLite has one writer, and no such words
        )
        if oldest is not None:
            session.execute(update(BucketRow).where(BucketRow.name == bucket).values(labeled_at=now()))
            return claims.claim_in(session, LabelSetRow, oldest, lease_s=lease_s, max_attempts=LABEL_ATTEMPTS)
    return None


def _waits_in(priority: int) -> Any:
    # In words too: only so is the condition seen to be that of the index.
    is_open = claims.is_claimable(LabelSetRow, LABEL_ATTEMPTS)
    return and_(text("label_sets." + IS_OPEN), is_open, LabelSetRow.priority == priority)


def retry_labels(catalog: Catalog, *, after_s: float) -> list[int]:
    """Queue again what failed so long ago; gives the ids."""
    with catalog.write() as session:
        failed = select(LabelSetRow.id).where(
            LabelSetRow.state == JobState.FAILED, LabelSetRow.updated_at < now() - after_s
        )
        return [id for id in session.scalars(failed).all() if claims.retry(session, LabelSetRow, id)]


def retired_teachers(catalog: Catalog, *, keep: int) -> list[str]:
    """Teachers with or without label sets that are none of the last ``keep`` champions; 0: nobody is retired.

    Nobody is while a generation is under way, nor whose label sets are being made. Never the champion.
    """
    if keep == 0:
        return []
    with catalog.read() as session:
        under_way = select(GenerationRow.number).join(JobRow, JobRow.id == GenerationRow.job_id)
        if session.scalar(under_way.where(JobRow.state.in_([JobState.QUEUED, JobState.RUNNING])).limit(1)) is not None:
            return []
        champions = dict.fromkeys(session.scalars(select(ChampionRow.version).order_by(ChampionRow.sequence.desc())))
        kept = list(champions)[:keep]
        is_running = and_(LabelSetRow.version == VersionRow.id, LabelSetRow.state == JobState.RUNNING)
        retired = select(VersionRow.id).where(
            VersionRow.id.not_in(kept),
            VersionRow.id.in_(champions),  # a challenger labels nothing
            ~select(LabelSetRow.id).where(is_running).exists(),
        )
        return list(session.scalars(retired.order_by(VersionRow.id)))


def forget_labels(catalog: Catalog, version: str) -> int:
    """Take a retired teacher's label sets out of the catalog, before their objects go; how many there were."""
    gone = and_(LabelSetRow.version == version, LabelSetRow.state != JobState.RUNNING)
    with catalog.write() as session:
        return int(session.execute(delete(LabelSetRow).where(gone)).rowcount)  # type: ignore[attr-defined]


def label_task(catalog: Catalog, task_id: int) -> LabelTask:
    """One wanted or published label set. Raises NotFound."""
    with catalog.read() as session:
        row = session.get(LabelSetRow, task_id)
        if row is None:
            raise NotFound(f"there is no label set {task_id}")
        shard = to_record(session.get_one(ShardRow, row.shard_id))
        return LabelTask(
            id=row.id, shard=shard, version=row.version, attempt=row.attempt, key=row.key, num_rows=row.num_rows
        )


def publish_labels(catalog: Catalog, claim: Claim, *, key: str, sha256: str, num_rows: int) -> None:
    """Make an object the one label set of its shard and teacher. Raises LeaseLost: then it is not."""
    with catalog.write() as session:
        claims.settle(session, claim, JobState.SUCCEEDED, key=key, sha256=sha256, num_rows=num_rows, problem=None)


def newest(catalog: Catalog) -> int:
    """The id of the shard that was sealed last; 0 before the first."""
    with catalog.read() as session:
        return session.scalar(select(func.max(ShardRow.id))) or 0


def published_labels(catalog: Catalog, version: str, *, up_to: int | None = None) -> list[LabelTask]:
    """The published label sets of one teacher, in the order of their shards; ``up_to`` a shard's id."""
    with catalog.read() as session:
        rows = session.execute(
            select(LabelSetRow, ShardRow)
            .join(ShardRow, ShardRow.id == LabelSetRow.shard_id)
            .where(LabelSetRow.version == version, LabelSetRow.state == JobState.SUCCEEDED, _up_to(up_to))
            .order_by(ShardRow.id)
        )
        return [
            LabelTask(
                id=label.id,
                shard=to_record(shard),
                version=label.version,
                attempt=label.attempt,
                key=label.key,
                num_rows=label.num_rows,
            )
            for label, shard in rows
        ]


def _up_to(shard_id: int | None) -> Any:
    return true() if shard_id is None else ShardRow.id <= shard_id


def label_progress(catalog: Catalog, version: str, *, up_to: int | None = None) -> LabelProgress:
    """How much of what is sealed (``up_to`` a shard's id; None: all) one teacher has labeled."""
    wished = and_(LabelSetRow.shard_id == ShardRow.id, LabelSetRow.version == version)
    with catalog.read() as session:
        rows = session.execute(
            select(LabelSetRow.state, func.count(), func.coalesce(func.sum(ShardRow.num_images), 0))
            .select_from(ShardRow)
            .outerjoin(LabelSetRow, wished)
            .where(ShardRow.split == "unlabeled", _up_to(up_to))
            .group_by(LabelSetRow.state)
        ).all()
    done = [(count, images) for state, count, images in rows if state == JobState.SUCCEEDED]
    return LabelProgress(
        version=version,
        num_shards=sum(count for _, count, _ in rows),
        num_done=sum(count for count, _ in done),
        num_failed=sum(count for state, count, _ in rows if state == JobState.FAILED),
        num_images=sum(int(images) for _, _, images in rows),
        num_images_done=sum(int(images) for _, images in done),
    )


def of_split(catalog: Catalog, split: str, bucket: str | None = None) -> list[Shard]:
    """The shards of the labeled set, of the holdout, or of a bucket, in the order they were sealed."""
    statement = select(ShardRow).where(ShardRow.split == split).order_by(ShardRow.id)
    if bucket is not None:
        statement = statement.where(ShardRow.bucket == bucket)
    with catalog.read() as session:
        return [to_record(row) for row in session.scalars(statement)]


def class_counts(catalog: Catalog, split: str) -> dict[str, int]:
    """How many human-labeled images each class has in the labeled set or in the holdout, by name."""
    with catalog.read() as session:
        rows = session.execute(
            select(LabeledImageRow.class_name, func.count())
            .where(LabeledImageRow.split == split)
            .group_by(LabeledImageRow.class_name)
            .order_by(LabeledImageRow.class_name)
        )
        return {str(name): int(count) for name, count in rows}


def human_labeled(catalog: Catalog) -> set[str]:
    """The sha-256 of every image that a human labeled or reviewed, or that resembles the holdout.

    No pseudo-label of these may train.
    """
    with catalog.read() as session:
        labeled = set(session.scalars(select(LabeledImageRow.sha256)))
        reviewed = set(session.scalars(select(ReviewRow.sha256).where(ReviewRow.undone_at.is_(None)).distinct()))
        return labeled | reviewed | resemblances.resembling_holdout(session)


def buckets(catalog: Catalog) -> list[BucketSummary]:
    """Every bucket, by name."""
    with catalog.read() as session:
        champion = _champion(session)
        labeled = and_(
            LabelSetRow.shard_id == ShardRow.id,
            LabelSetRow.version == champion,
            LabelSetRow.state == JobState.SUCCEEDED,
        )
        rows = session.execute(
            select(
                BucketRow.name,
                BucketRow.created_at,
                func.count(ShardRow.id),
                func.coalesce(func.sum(ShardRow.num_images), 0),
                func.coalesce(func.sum(ShardRow.num_bytes), 0),
                func.coalesce(func.sum(LabelSetRow.num_rows), 0),
            )
            .outerjoin(ShardRow, ShardRow.bucket == BucketRow.name)
            .outerjoin(LabelSetRow, labeled)
            .group_by(BucketRow.name, BucketRow.created_at)
            .order_by(BucketRow.name)
        )
        return [
            BucketSummary(
                name=name,
                created_at=created_at,
                num_shards=shards,
                num_images=int(images),
                num_bytes=int(num_bytes),
                num_images_labeled=int(num_labeled or 0),
            )
            for name, created_at, shards, images, num_bytes, num_labeled in rows
        ]


def to_record(row: ShardRow) -> Shard:
    """The row as a frozen record."""
    return Shard(
        id=row.id,
        key=row.key,
        split=row.split,
        bucket=row.bucket,
        num_images=row.num_images,
        num_bytes=row.num_bytes,
    )
