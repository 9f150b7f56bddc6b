"""``GET /jobs``: how far long work is, what became of it, and the receipts of uploads."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from service import examples
from service.problems import may_be
from service.schemas import Page
from service.state import Service
from understudy import labels, messages
from understudy.catalog import jobs
from understudy.errors import NotFound
from understudy.records import NAME_PATTERN, Job, JobKind, ReceiptEntry

router = APIRouter(tags=["jobs"])

JobId = Annotated[str, Path(pattern=NAME_PATTERN, description="as the answer to an upload names it")]


@router.get("/jobs")
def recent(service: Service, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Page[Job]:
    """The newest jobs first."""
    return Page(items=jobs.recent(service.catalog, limit=limit))


@router.get("/jobs/{job_id}", responses=examples.of(200, examples.JOB, "How far it is, or how it ended."))
def job(service: Service, job_id: JobId) -> Job:
    """One job: its state, its step with `done` of `total`, and at the end its result or its problem."""
    return jobs.get(service.catalog, job_id)


@router.post("/jobs/{job_id}/retry", status_code=202, responses=may_be(409))
def retry(service: Service, job_id: JobId) -> Job:
    """Queue an upload again that failed by a fault of ours (`worker_fault`, `gave_up`): its bytes are kept."""
    job = jobs.retry(service.catalog, job_id)
    task = messages.EXPORT if job.kind == JobKind.EXPORT else messages.UNPACK
    service.bell.submit(messages.ring, service.queue, task, job.id)
    return job


@router.get("/jobs/{job_id}/receipt", responses=examples.of(200, examples.RECEIPT, "Some lines; `next` asks for more."))
def receipt(
    service: Service,
    job_id: JobId,
    cursor: Annotated[int, Query(ge=0, description="`next` of the page before")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Page[ReceiptEntry]:
    """What became of every entry of an upload: accepted, duplicate, holdout-leak or quarantined with a reason."""
    result = jobs.get(service.catalog, job_id).result or {}
    if "receipt_key" not in result:
        raise NotFound(f"job {job_id} has no receipt: it has not unpacked an upload to its end")
    entries = labels.read_receipt(service.store, result["receipt_key"], offset=cursor, limit=limit + 1)
    return Page(items=entries[:limit], next=str(cursor + limit) if len(entries) > limit else None)
