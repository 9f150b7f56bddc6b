"""Jobs: opened by a request, claimed by a program, ended with a result or a problem."""

import secrets
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from understudy.catalog import claims, events, idempotency
from understudy.catalog.claims import Claim
from understudy.catalog.database import Catalog, insert_or_ignore, now
from understudy.catalog.idempotency import Key
from understudy.catalog.tables import BucketRow, JobRow
from understudy.errors import Conflict, NotFound
from understudy.records import Job, JobKind, JobState, Problem, TrainingProgress, Upload


def new_id() -> str:
    """A job's id: 80 random bits, so that nobody guesses another's."""
    return secrets.token_hex(10)


def to_record(row: JobRow) -> Job:
    """The row as a frozen record."""
    return Job(
        **{name: getattr(row, name) for name in Job.model_fields if name not in ("metrics", "problem")},
        metrics=TrainingProgress(**row.metrics) if row.metrics else None,
        problem=Problem(**row.problem) if row.problem else None,
    )


def insert_job(session: Session, job_id: str, kind: JobKind, state: JobState, **values: Any) -> None:
    """Write a new job within the caller's transaction."""
    session.execute(
        insert(JobRow).values(
            id=job_id, kind=kind, state=state, attempt=0, forgiven=0, done=0, created_at=now(), updated_at=now(),
            **({"params": {}} | values),
        )
    )  # fmt: skip


def open_upload(catalog: Catalog, kind: JobKind, *, bucket: str | None = None, params: dict[str, Any]) -> Job:
    """Open a job whose upload is about to arrive; makes the bucket if it is new."""
    job_id = new_id()
    with catalog.write() as session:
        if bucket is not None:
            session.execute(insert_or_ignore(session, BucketRow).values(name=bucket, created_at=now()))
        insert_job(session, job_id, kind, JobState.RECEIVING, bucket=bucket, params=params)
    return get(catalog, job_id)


def open_job(
    catalog: Catalog, kind: JobKind, *, params: dict[str, Any], key: Key | None = None, fingerprint: str = ""
) -> Job:
    """Queue a job that needs no upload; with an idempotency key that is bound already, give the job of that."""
    job_id = new_id()
    with catalog.write() as session:
        insert_job(session, job_id, kind, JobState.QUEUED, params=params)
        bound = job_id if key is None else idempotency.bind(session, key, fingerprint, job_id)
        if bound != job_id:
            session.execute(delete(JobRow).where(JobRow.id == job_id))
    return get(catalog, bound)


def received(
    catalog: Catalog, job_id: str, uploads: list[Upload], *, key: Key | None = None, fingerprint: str = ""
) -> Job:
    """The upload is in the store: the job may be claimed from now on.

    With an idempotency key that another job has taken meanwhile, this one is no more, and the answer is the
    other. Raises NotFound, and Conflict if the job has ended meanwhile, as a stale upload does.
    """
    params = get(catalog, job_id).params | {"uploads": [u.model_dump() for u in uploads]}
    with catalog.write() as session:
        bound = job_id if key is None else idempotency.bind(session, key, fingerprint, job_id)
        if bound != job_id:
            session.execute(delete(JobRow).where(JobRow.id == job_id, JobRow.state == JobState.RECEIVING))
            return to_record(session.get_one(JobRow, bound))
        arrived = session.execute(
            update(JobRow)
            .where(JobRow.id == job_id, JobRow.state == JobState.RECEIVING)
            .values(state=JobState.QUEUED, params=params, updated_at=now())
        )
    if arrived.rowcount == 0:  # type: ignore[attr-defined]
        raise Conflict(f"job {job_id} no longer waits for its upload; send the upload again as a new job")
    return get(catalog, job_id)


def fail_upload(catalog: Catalog, job_id: str, problem: Problem) -> None:
    """The upload did not arrive whole: the job ends before it began."""
    with catalog.write() as session:
        failed = session.execute(
            update(JobRow)
            .where(JobRow.id == job_id, JobRow.state == JobState.RECEIVING)
            .values(state=JobState.FAILED, problem=problem.model_dump(), updated_at=now())
            .returning(JobRow.id)
        )
        events.ended(session, JobRow, failed.scalars().all())


def stale_uploads(catalog: Catalog, *, older_than_s: float, in_parts_older_than_s: float | None = None) -> list[Job]:
    """Jobs whose upload has said nothing for so long that its service must have died.

    One that comes in parts outlives its client and its service, and is given longer (None: as long as the others).
    """
    silent = [
        (older_than_s, lambda job: "resumable" not in job.params),
        (in_parts_older_than_s or older_than_s, lambda job: "resumable" in job.params),
    ]
    found: list[Job] = []
    with catalog.read() as session:
        for seconds, is_meant in silent:
            is_silent = (JobRow.state == JobState.RECEIVING, JobRow.updated_at < now() - seconds)
            found += filter(is_meant, map(to_record, session.scalars(select(JobRow).where(*is_silent))))
    return found


def touch_upload(catalog: Catalog, job_id: str, num_bytes: int) -> None:
    """Bytes are still arriving: shows as progress, and keeps the job from being taken for stale."""
    with catalog.write() as session:
        session.execute(
            update(JobRow)
            .where(JobRow.id == job_id, JobRow.state == JobState.RECEIVING)
            .values(step="receive", done=num_bytes, updated_at=now())
        )


def keeps_uploads(job: Job) -> bool:
    """Whether a job's uploads are needed still: it has not ended, or it failed by a fault of ours and may be retried."""
    return not job.state.is_ended or (job.problem is not None and job.problem.code in claims.OUR_FAULTS)


def retry(catalog: Catalog, job_id: str) -> Job:
    """Queue a job again that failed by a fault of ours. Raises NotFound, and Conflict for any other job."""
    job = get(catalog, job_id)
    with catalog.write() as session:
        is_upload = job.kind != JobKind.GENERATION
        if not (is_upload and job.state.is_ended and keeps_uploads(job) and claims.retry(session, JobRow, job_id)):
            why = job.problem.code if job.problem else job.state
            raise Conflict(f"job {job_id} cannot be retried ({why}): only an upload that failed by a fault of ours can")
    return get(catalog, job_id)


def get(catalog: Catalog, job_id: str) -> Job:
    """Raises NotFound."""
    with catalog.read() as session:
        row = session.get(JobRow, job_id)
        if row is None:
            raise NotFound(f"there is no job {job_id!r}")
        return to_record(row)


def age_s(catalog: Catalog, job_id: str) -> float:
    """Seconds since a job last changed, by the catalog's clock."""
    with catalog.read() as session:
        return float(session.scalar(select(now() - JobRow.updated_at).where(JobRow.id == job_id)) or 0.0)


def recent(catalog: Catalog, *, limit: int, kind: JobKind | None = None, state: JobState | None = None) -> list[Job]:
    """The newest jobs first; of one kind, or in one state."""
    statement = select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id).limit(limit)
    if kind is not None:
        statement = statement.where(JobRow.kind == kind)
    if state is not None:
        statement = statement.where(JobRow.state == state)
    with catalog.read() as session:
        return [to_record(row) for row in session.scalars(statement)]


def progress(
    catalog: Catalog, claim: Claim, step: str, done: int, total: int | None, metrics: TrainingProgress | None = None
) -> None:
    """Show how far the work is, and renew its lease with it. Raises LeaseLost.

    Without ``metrics`` those that were shown last stay: they are the last known of the training.
    """
    figures = {} if metrics is None else {"metrics": metrics.model_dump(mode="json")}
    claims.renew(catalog, claim, step=step, done=done, total=total, **figures)


def succeed(session: Session, claim: Claim, result: dict[str, Any]) -> None:
    """End the job well within the caller's transaction. Raises LeaseLost."""
    claims.settle(session, claim, JobState.SUCCEEDED, result=result, problem=None)


def fail(catalog: Catalog, claim: Claim, problem: Problem, result: dict[str, Any] | None = None) -> None:
    """End the job with its problem: what was sent cannot be taken, so trying again will not help."""
    with catalog.write() as session:
        claims.settle(session, claim, JobState.FAILED, problem=problem.model_dump(), result=result)
