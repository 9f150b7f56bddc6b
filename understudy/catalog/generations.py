"""Generations: one turn of the loop each, worked on through its job, ended with a verdict."""

from typing import Any

from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session

from understudy.catalog import claims, events, idempotency, jobs, pausing, versions
from understudy.catalog.claims import Claim
from understudy.catalog.database import Catalog, insert_or_ignore, now
from understudy.catalog.idempotency import Key
from understudy.catalog.tables import ChampionRow, GenerationRow, JobRow, LabeledImageRow, LabelSetRow, ShardRow
from understudy.errors import Conflict, NotFound, NotReady
from understudy.records import (
    EvaluationSummary,
    GateReport,
    GateSummary,
    Generation,
    GenerationRequest,
    GenerationState,
    GenerationSummary,
    JobKind,
    JobState,
    VersionState,
)

#: A trainer may be killed this often in one generation: it resumes from its checkpoint each time.
MAX_ATTEMPTS = 10


def open_generation(
    catalog: Catalog, request: GenerationRequest, *, key: Key | None = None, fingerprint: str = ""
) -> Generation:
    """Open the next generation. Raises Conflict while one runs, NotReady without a labeled set.

    With an idempotency key that has opened one before, give that one.
    """
    try:
        with catalog.write() as session:
            number = open_in(session, request)
            job_id = session.get_one(GenerationRow, number).job_id
            if key is not None and (bound := idempotency.bind(session, key, fingerprint, job_id)) != job_id:
                raise Conflict(f"this Idempotency-Key has opened the generation of job {bound}")
    except Conflict:
        known = None if key is None else idempotency.find(catalog, key)
        if known is None:
            raise
        idempotency.refuse_other(known[1], fingerprint)
        return of_job(catalog, known[0])
    return get(catalog, number)


def open_in(session: Session, request: GenerationRequest) -> int:
    """The same within the caller's transaction; gives the number."""
    if not session.scalar(select(func.count()).select_from(LabeledImageRow).where(LabeledImageRow.split == "labeled")):
        raise NotReady("there is no labeled set yet; send one with `understudy init` or POST /labeled")
    last = _last(session)
    if last is not None and not _is_ended(session, last):
        raise Conflict(f"generation {last.number} is not finished yet; wait for it, then open the next")
    teacher = session.scalar(select(ChampionRow.version).order_by(ChampionRow.sequence.desc()).limit(1))
    number = 0 if last is None else last.number + 1
    job_id = jobs.new_id()
    jobs.insert_job(session, job_id, JobKind.GENERATION, JobState.QUEUED, params={"generation": number})
    opened = session.scalar(
        insert_or_ignore(session, GenerationRow)
        .values(
            number=number,
            state=GenerationState.QUEUED,
            request=request.model_dump(mode="json"),
            teacher=teacher,
            job_id=job_id,
            created_at=now(),
        )
        .returning(GenerationRow.number)
    )
    if opened is None:
        raise Conflict(f"generation {number} was opened at this moment; wait for it, then open the next")
    return number


def needs_first(session: Session) -> bool:
    """Whether a labeled set that has just arrived should open a generation: no champion, and none on its way."""
    if session.scalar(select(ChampionRow.version).limit(1)) is not None:
        return False
    last = _last(session)
    return last is None or _is_ended(session, last)


def choosing(session: Session) -> int | None:
    """The generation that is choosing, or may yet choose, what of the buckets it learns from. None: none is."""
    last = _last(session)
    return None if last is None or last.teacher is None or _is_ended(session, last) else last.number


def _last(session: Session) -> GenerationRow | None:
    return session.scalar(select(GenerationRow).order_by(GenerationRow.number.desc()).limit(1))


def _is_ended(session: Session, row: GenerationRow) -> bool:
    return _state(row, session.get_one(JobRow, row.job_id)).is_ended


def get(catalog: Catalog, number: int) -> Generation:
    """Raises NotFound."""
    with catalog.read() as session:
        row = session.get(GenerationRow, number)
        if row is None:
            raise NotFound(f"there is no generation {number}")
        return _record(session, row)


def every(catalog: Catalog) -> list[Generation]:
    """All generations, the newest first."""
    with catalog.read() as session:
        return [
            _record(session, row)
            for row in session.scalars(select(GenerationRow).order_by(GenerationRow.number.desc()))
        ]


def summaries(catalog: Catalog) -> list[GenerationSummary]:
    """The same in short: what grows with the classes is not even read into records."""
    with catalog.read() as session:
        return [
            GenerationSummary(**_fields(session, row), report=_summary(row.report) if row.report else None)
            for row in session.scalars(select(GenerationRow).order_by(GenerationRow.number.desc()))
        ]


def of_job(catalog: Catalog, job_id: str) -> Generation:
    """The generation that a job works on."""
    with catalog.read() as session:
        return _record(session, session.scalars(select(GenerationRow).where(GenerationRow.job_id == job_id)).one())


def previous(catalog: Catalog, number: int) -> Generation | None:
    """The newest generation before this one that made a model. None: there is none."""
    with catalog.read() as session:
        row = session.scalar(
            select(GenerationRow)
            .where(GenerationRow.number < number, GenerationRow.version.is_not(None))
            .order_by(GenerationRow.number.desc())
            .limit(1)
        )
        return None if row is None else _record(session, row)


def upcoming(catalog: Catalog) -> int:
    """The number of the next generation that is opened."""
    with catalog.read() as session:
        last = session.scalar(select(func.max(GenerationRow.number)))
        return 0 if last is None else last + 1


def newest(catalog: Catalog) -> Generation | None:
    """The one that was opened last. None: there is none."""
    with catalog.read() as session:
        row = _last(session)
        return None if row is None else _record(session, row)


def claim(catalog: Catalog, *, lease_s: float) -> Claim | None:
    """Take a generation that waits, or whose trainer has died. None: there is none, or the loop is paused.

    A pause keeps a generation from being begun; one that a trainer had begun goes on. One that took down too many
    trainers is set aside by the reconciler.
    """
    job_id = claimable(catalog)
    if job_id is None:
        return None
    with catalog.write() as session:
        if pausing.is_paused(session, is_taking=True) and not session.get_one(JobRow, job_id).attempt:
            return None
        return claims.claim_in(session, JobRow, job_id, lease_s=lease_s, max_attempts=MAX_ATTEMPTS)


def num_new_images(session: Session) -> int:
    """Images of shards that were sealed since the last generation was opened, and that the champion has labeled."""
    champion = select(ChampionRow.version).order_by(ChampionRow.sequence.desc()).limit(1).scalar_subquery()
    last = select(func.max(GenerationRow.created_at)).scalar_subquery()
    labeled = and_(
        LabelSetRow.shard_id == ShardRow.id, LabelSetRow.version == champion, LabelSetRow.state == JobState.SUCCEEDED
    )
    counted = select(func.coalesce(func.sum(LabelSetRow.num_rows), 0)).join(ShardRow, labeled)
    return int(session.scalar(counted.where(ShardRow.created_at > func.coalesce(last, 0.0))) or 0)


def open_by_itself(catalog: Catalog, after: int) -> int | None:
    """Open the next generation if ``after`` images are newly labeled; gives its number. None: it is not its time.

    Never for ``after`` 0, while paused, before the first champion, nor while a generation is under way.
    """
    if after == 0:
        return None
    with catalog.read() as session:
        if num_new_images(session) < after:
            return None
    try:
        with catalog.write() as session:
            if pausing.is_paused(session, is_taking=True) or num_new_images(session) < after:
                return None
            return open_in(session, GenerationRequest())
    except (Conflict, NotReady):  # one is under way; or its labeled set was deleted
        return None


def claimable(catalog: Catalog) -> str | None:
    """The job id of a generation that waits for a trainer, or whose trainer has died."""
    statement = (
        select(JobRow.id)
        .join(GenerationRow, GenerationRow.job_id == JobRow.id)
        .where(
            (JobRow.state == JobState.QUEUED) | ((JobRow.state == JobState.RUNNING) & (JobRow.lease_until < now())),
            JobRow.attempt - JobRow.forgiven < MAX_ATTEMPTS,
        )
        .order_by(GenerationRow.number)
        .limit(1)
    )
    with catalog.read() as session:
        return session.scalar(statement.where(JobRow.attempt > 0) if pausing.is_paused(session) else statement)


def conclude(catalog: Catalog, claim: Claim, number: int, version: str, report: GateReport) -> None:
    """Promote or refuse, and end the generation, all in one transaction.

    Raises Conflict if the champion is no longer the one that the report compares with, LeaseLost if
    another trainer has taken this generation over; nothing is written then.
    """
    promoted = report.is_proved
    with catalog.write() as session:
        champion = report.champion.version if report.champion else None
        if promoted:
            versions.promote(session, version, instead_of=champion, reason="; ".join(report.reasons), actor="gate")
        else:
            versions.judge(session, version, VersionState.REFUSED)
        session.execute(
            update(GenerationRow)
            .where(GenerationRow.number == number)
            .values(
                state=GenerationState.PROMOTED if promoted else GenerationState.REFUSED,
                version=version,
                report=report.model_dump(mode="json"),
                ended_at=now(),
            )
        )
        events.judged(session, number, version, report)
        jobs.succeed(session, claim, {"version": version, "verdict": report.verdict})


def _state(row: GenerationRow, job: JobRow) -> GenerationState:
    if row.state in (GenerationState.PROMOTED, GenerationState.REFUSED):
        return GenerationState(row.state)
    return {
        JobState.FAILED: GenerationState.FAILED,
        JobState.RUNNING: GenerationState.RUNNING,
    }.get(JobState(job.state), GenerationState.QUEUED)


def _record(session: Session, row: GenerationRow) -> Generation:
    return Generation(**_fields(session, row), report=GateReport(**row.report) if row.report else None)


def _fields(session: Session, row: GenerationRow) -> dict[str, Any]:
    """What both records of a generation have."""
    job = session.get_one(JobRow, row.job_id)
    ended_at = row.ended_at
    if ended_at is None and job.state == JobState.FAILED:
        ended_at = job.updated_at
    return {
        "number": row.number,
        "state": _state(row, job),
        "request": GenerationRequest(**row.request),
        "teacher": row.teacher,
        "version": row.version,
        "job": jobs.to_record(job),
        "created_at": row.created_at,
        "ended_at": ended_at,
    }


def _summary(report: dict[str, Any]) -> GateSummary:
    lean = {name: report[name] for name in GateSummary.model_fields if name in report}
    for name in ("challenger", "champion", "control"):
        if (seen := lean.get(name)) is not None:
            lean[name] = {field: seen[field] for field in EvaluationSummary.model_fields}
    return GateSummary(**lean)
