"""Work as people look at it: who holds what, what failed, and the map of every shard by one teacher.

Nothing is claimed or changed here: that is ``claims``.
"""

import itertools
from typing import Any

from sqlalchemy import and_, case, func, or_, select, true

from understudy.catalog.database import Catalog, now
from understudy.catalog.tables import JobRow, LabelSetRow, ShardRow
from understudy.records import JobState, Problem
from understudy.work_records import Holding, LabelFault, ShardMap, ShardStrip

#: A label set's state to its letter; a shard that has none waits for one.
LETTERS = {JobState.QUEUED: "w", JobState.RUNNING: "r", JobState.SUCCEEDED: "d", JobState.FAILED: "f"}


def holdings(catalog: Catalog, *, limit: int) -> list[Holding]:
    """What is claimed at this moment, jobs first; of each, what its holder spoke of longest ago first."""
    is_stalled: Any = case((LabelSetRow.lease_until < now(), True), else_=False)
    label_sets = (
        select(LabelSetRow, is_stalled)
        .where(LabelSetRow.state == JobState.RUNNING)
        .order_by(LabelSetRow.updated_at, LabelSetRow.id)
        .limit(limit)
    )
    is_lapsed: Any = case((JobRow.lease_until < now(), True), else_=False)
    jobs = (
        select(JobRow, is_lapsed)
        .where(JobRow.state == JobState.RUNNING)
        .order_by(JobRow.updated_at, JobRow.id)
        .limit(limit)
    )
    with catalog.read() as session:
        found = [_of_job(row, stalled) for row, stalled in session.execute(jobs)]
        return [*found, *(_of_label_set(row, stalled) for row, stalled in session.execute(label_sets))][:limit]


def _of_job(row: JobRow, is_stalled: bool) -> Holding:
    return Holding(kind=row.kind, id=row.id, bucket=row.bucket, step=row.step, **_claim(row), is_stalled=is_stalled)


def _of_label_set(row: LabelSetRow, is_stalled: bool) -> Holding:
    return Holding(
        kind="label",
        id=str(row.id),
        bucket=row.bucket,
        version=row.version,
        shard=row.shard_id,
        **_claim(row),
        is_stalled=is_stalled,
    )


def _claim(row: JobRow | LabelSetRow) -> dict[str, Any]:
    return {
        "owner": row.owner,
        "attempt": row.attempt,
        "opened_at": row.created_at,
        "seen_at": row.updated_at,
        "lease_until": row.lease_until,
    }


def label_faults(catalog: Catalog, version: str | None, *, limit: int) -> list[LabelFault]:
    """Label sets that failed, the newest first; of one teacher, or of all."""
    statement = (
        select(LabelSetRow, ShardRow.num_images)
        .join(ShardRow, ShardRow.id == LabelSetRow.shard_id)
        .where(LabelSetRow.state == JobState.FAILED, true() if version is None else LabelSetRow.version == version)
        .order_by(LabelSetRow.updated_at.desc(), LabelSetRow.id)
        .limit(limit)
    )
    with catalog.read() as session:
        return [
            LabelFault(
                shard=row.shard_id,
                bucket=row.bucket,
                version=row.version,
                attempt=row.attempt,
                num_images=num_images,
                problem=Problem(**row.problem) if row.problem else None,
                failed_at=row.updated_at,
            )
            for row, num_images in session.execute(statement)
        ]


def shard_map(
    catalog: Catalog,
    version: str | None,
    *,
    bucket: str | None = None,
    after: tuple[str, int] | None = None,
    limit: int,
) -> ShardMap:
    """The unlabeled shards by what one teacher's labeling of them has come to; of one bucket, or of all.

    ``after`` is the bucket and the id of the last shard of the part before.
    """
    wished = and_(LabelSetRow.shard_id == ShardRow.id, LabelSetRow.version == version)
    is_meant = [ShardRow.split == "unlabeled"] + ([] if bucket is None else [ShardRow.bucket == bucket])
    counted = (
        select(LabelSetRow.state, func.count())
        .select_from(ShardRow)
        .outerjoin(LabelSetRow, wished)
        .where(*is_meant)
        .group_by(LabelSetRow.state)
    )
    some = (
        select(ShardRow.bucket, ShardRow.id, LabelSetRow.state)
        .outerjoin(LabelSetRow, wished)
        .where(*is_meant, true() if after is None else _after(*after))
        .order_by(ShardRow.bucket, ShardRow.id)
        .limit(limit + 1)
    )
    with catalog.read() as session:
        counts = dict.fromkeys("wrdf", 0)
        for state, count in session.execute(counted):
            counts[LETTERS.get(state, "w")] += count
        rows = [(str(name), id, LETTERS.get(state, "w")) for name, id, state in session.execute(some)]
    more, rows = len(rows) > limit, rows[:limit]
    return ShardMap(
        version=version,
        num_waiting=counts["w"],
        num_running=counts["r"],
        num_done=counts["d"],
        num_failed=counts["f"],
        strips=tuple(_strips(rows)),
        next=f"{rows[-1][0]}:{rows[-1][1]}" if more else None,
    )


def _after(bucket: str, shard: int) -> Any:
    return or_(ShardRow.bucket > bucket, and_(ShardRow.bucket == bucket, ShardRow.id > shard))


def _strips(rows: list[tuple[str, int, str]]) -> list[ShardStrip]:
    strips = []
    for name, group in itertools.groupby(rows, key=lambda row: row[0]):
        shards = list(group)
        strips.append(ShardStrip(bucket=name, first=shards[0][1], states="".join(state for *_, state in shards)))
    return strips
