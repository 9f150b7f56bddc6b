"""Remote sources: what was asked for, and which of their objects are in a receipt.

An object is taken once the job that has it has succeeded, and not before: there is no second mark that
could be set too early or be forgotten.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from understudy.catalog import claims, jobs
from understudy.catalog.claims import Claim
from understudy.catalog.database import Catalog, insert_or_ignore, now
from understudy.catalog.tables import BucketRow, JobRow, SourceObjectRow, SourceRow
from understudy.errors import NotFound
from understudy.records import Job, JobKind, JobState, ObjectCounts, RemoteSource, Upload
from understudy.store import Listed

#: Keys in one query.
CHUNK = 500
MAX_ETAG_CHARACTERS = 200


@dataclass(frozen=True)
class Compared:
    """A page of a listing against what is known."""

    new: list[Listed]
    num_unchanged: int
    num_underway: int  #: an earlier sync's job has them and has not ended


def add(catalog: Catalog, bucket: str, url: str) -> Job:
    """Begin a sync of a source, which is made if it is new, and its bucket with it; gives the sync's job."""
    digest = _digest(f"{bucket} {url}")
    with catalog.write() as session:
        session.execute(insert_or_ignore(session, BucketRow).values(name=bucket, created_at=now()))
        session.execute(
            insert_or_ignore(session, SourceRow).values(
                id=jobs.new_id(), digest=digest, bucket=bucket, url=url, created_at=now()
            )
        )
        job_id = _begin(session, session.scalars(_held(SourceRow.digest == digest)).one())
    return jobs.get(catalog, job_id)


def sync(catalog: Catalog, source_id: str) -> Job:
    """Begin another sync; while one is waiting or running, that one is it. Raises NotFound."""
    with catalog.write() as session:
        row = session.scalars(_held(SourceRow.id == source_id)).one_or_none()
        if row is None:
            raise NotFound(f"there is no source {source_id!r}; GET /sources lists them")
        job_id = _begin(session, row)
    return jobs.get(catalog, job_id)


def _held(which: Any) -> Any:
    return select(SourceRow).where(which).with_for_update()


def _begin(session: Session, row: SourceRow) -> str:
    before = None if row.job_id is None else session.get(JobRow, row.job_id)
    if before is not None and not JobState(before.state).is_ended:
        return before.id
    job_id = jobs.new_id()
    params = {"source": row.id, "url": row.url}
    jobs.insert_job(session, job_id, JobKind.SYNC, JobState.QUEUED, bucket=row.bucket, params=params)
    row.job_id = job_id
    return job_id


def get(catalog: Catalog, source_id: str) -> RemoteSource:
    """One source with the counts of its objects. Raises NotFound."""
    with catalog.read() as session:
        row = session.get(SourceRow, source_id)
        if row is None:
            raise NotFound(f"there is no source {source_id!r}; GET /sources lists them")
        by_state: dict[JobState, int] = dict(
            session.execute(
                select(JobRow.state, func.count())
                .join(SourceObjectRow, SourceObjectRow.job_id == JobRow.id)
                .where(SourceObjectRow.source_id == source_id)
                .group_by(JobRow.state)
            ).all()
        )
        counts = ObjectCounts(
            num_taken=by_state.pop(JobState.SUCCEEDED, 0),
            num_failed=by_state.pop(JobState.FAILED, 0),
            num_underway=sum(by_state.values()),
        )
        return _record(row, counts)


def page(catalog: Catalog, *, after: str | None, limit: int) -> Sequence[RemoteSource]:
    """Sources by their ids, from behind ``after``."""
    with catalog.read() as session:
        rows = select(SourceRow).where(SourceRow.id > (after or "")).order_by(SourceRow.id).limit(limit)
        return [_record(row) for row in session.scalars(rows)]


def compare(catalog: Catalog, source_id: str, listed: Sequence[Listed]) -> Compared:
    """Which of these objects are new: never listed, changed since, or of a job that failed."""
    known: dict[str, tuple[SourceObjectRow, JobState]] = {}
    with catalog.read() as session:
        for at in range(0, len(listed), CHUNK):
            digests = [_digest(each.key) for each in listed[at : at + CHUNK]]
            found = session.execute(
                select(SourceObjectRow, JobRow.state)
                .join(JobRow, JobRow.id == SourceObjectRow.job_id)
                .where(SourceObjectRow.source_id == source_id, SourceObjectRow.digest.in_(digests))
            )
            known |= {row.digest: (row, JobState(state)) for row, state in found}
        new, unchanged, underway = [], 0, 0
        for each in listed:
            row, state = known.get(_digest(each.key), (None, JobState.FAILED))
            if row is not None and not state.is_ended:
                underway += 1
            elif row is not None and state == JobState.SUCCEEDED and _is_same(row, each):
                unchanged += 1
            else:
                new.append(each)
    return Compared(new, unchanged, underway)


def _is_same(row: SourceObjectRow, listed: Listed) -> bool:
    """By the entity tag, or where there is none by size and time. What its server says nothing of is always new."""
    if row.etag is not None and listed.etag is not None:
        return row.etag == listed.etag[:MAX_ETAG_CHARACTERS] and row.num_bytes == listed.num_bytes
    is_dated = row.modified_at is not None and listed.modified_at is not None
    return is_dated and (row.modified_at, row.num_bytes) == (listed.modified_at, listed.num_bytes)


def take(
    catalog: Catalog,
    claim: Claim,
    source: RemoteSource,
    parts: list[list[Listed]],
    name_jobs: Callable[[list[str]], dict[str, Any]],
) -> list[str]:
    """Open a job for each part of the new objects, and write down how far the listing is: all or nothing.

    Gives the jobs' ids; ``name_jobs`` makes of them what the sync remembers. Raises LeaseLost.
    """
    ids = [jobs.new_id() for _ in parts]
    with catalog.write() as session:
        claims.fence(session, claim)
        for job_id, part in zip(ids, parts, strict=True):
            params = {"source": source.id, "url": source.url, "sync": claim.id, "num_objects": len(part)}
            jobs.insert_job(session, job_id, JobKind.FETCH, JobState.QUEUED, bucket=source.bucket, params=params)
            _assign(session, source.id, job_id, part)
        row = session.get_one(JobRow, claim.id)
        row.params = row.params | name_jobs(ids)
    return ids


def _assign(session: Session, source_id: str, job_id: str, part: list[Listed]) -> None:
    rows = [
        {
            "source_id": source_id,
            "digest": _digest(each.key),
            "key": each.key,
            "num_bytes": each.num_bytes,
            "etag": None if each.etag is None else each.etag[:MAX_ETAG_CHARACTERS],
            "modified_at": each.modified_at,
            "job_id": job_id,
        }
        for each in part
    ]
    digests = [row["digest"] for row in rows]
    session.execute(
        delete(SourceObjectRow).where(SourceObjectRow.source_id == source_id, SourceObjectRow.digest.in_(digests))
    )
    session.execute(insert(SourceObjectRow), rows)


def objects_of(catalog: Catalog, job_id: str) -> list[Listed]:
    """The objects that a job has to fetch, by their keys."""
    with catalog.read() as session:
        rows = session.scalars(select(SourceObjectRow).where(SourceObjectRow.job_id == job_id))
        found = [Listed(row.key, row.num_bytes, row.etag, row.modified_at) for row in rows]
    return sorted(found, key=lambda each: each.key)


def fetched(catalog: Catalog, claim: Claim, uploads: list[Upload], *, lost: Iterable[str]) -> Job:
    """The job's objects are in the store: every further attempt works on these very bytes. Raises LeaseLost.

    ``lost`` are the keys of those that could not be fetched: they count as new in the next sync.
    """
    digests = [_digest(key) for key in lost]
    with catalog.write() as session:
        claims.fence(session, claim)
        row = session.get_one(JobRow, claim.id)
        row.params = row.params | {"uploads": [upload.model_dump() for upload in uploads]}
        unmarked = {"etag": None, "num_bytes": None, "modified_at": None}
        mine = (SourceObjectRow.job_id == claim.id, SourceObjectRow.digest.in_(digests))
        session.execute(update(SourceObjectRow).where(*mine).values(**unmarked))
    return jobs.get(catalog, str(claim.id))


def _record(row: SourceRow, objects: ObjectCounts | None = None) -> RemoteSource:
    return RemoteSource(
        id=row.id, bucket=row.bucket, url=row.url, job=row.job_id, objects=objects, created_at=row.created_at
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
