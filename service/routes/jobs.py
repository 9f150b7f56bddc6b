"""``GET /jobs``: how far long work is, what became of it, and the receipts of uploads."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from service import examples, receipts
from service.problems import may_be
from service.schemas import Page
from service.state import Service, State
from understudy import labels, messages, quarantine
from understudy.catalog import jobs
from understudy.errors import NotFound
from understudy.records import NAME_PATTERN, Job, JobKind, JobState, Outcome, ReceiptEntry
from understudy.store import quarantine_key

router = APIRouter(tags=["jobs"])

#: More entries than any upload has.
MAX_CURSOR = 10**9
_RECEIPT: dict[int | str, dict[str, Any]] = examples.of(200, examples.RECEIPT, "Some lines; `next` asks for more.")
_RECEIPT[200]["content"] |= {"application/x-ndjson": {}, "text/csv": {}}
_QUARANTINED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}, "image/jpeg": {}}, "description": "The bytes as sent; a JPEG."}
}
#: Strangers sent it: a browser shall run nothing of it.
_INERT = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}

JobId = Annotated[str, Path(pattern=NAME_PATTERN, description="as the answer to an upload names it")]


@router.get("/jobs")
def recent(
    service: Service,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    kind: Annotated[JobKind | None, Query(description="only of this kind")] = None,
    state: Annotated[JobState | None, Query(description="only in this state")] = None,
) -> Page[Job]:
    """The newest jobs first."""
    return Page(items=jobs.recent(service.catalog, limit=limit, kind=kind, state=state))


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


@router.get("/jobs/{job_id}/receipt", response_model=Page[ReceiptEntry], responses=_RECEIPT)
def receipt(
    request: Request,
    service: Service,
    job_id: JobId,
    cursor: Annotated[int, Query(ge=0, le=MAX_CURSOR, description="`next` of the page before")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    format: Annotated[
        Literal["json", "ndjson", "csv"] | None,
        Query(description="`json`: a page. `ndjson` and `csv`: all lines, streamed. Or say it with `Accept`."),
    ] = None,
    only: Annotated[Outcome | None, Query(description="only lines of this outcome (`ndjson` and `csv`)")] = None,
) -> Page[ReceiptEntry] | StreamingResponse:
    """What became of every entry of an upload: accepted, duplicate, holdout-leak or quarantined with a reason.

    `near copies` are accepted and marked: `resembles` is the sha-256 of the image that came before. `copy_of` is a
    duplicate's first copy, as `job/index`.
    """
    key = _receipt_key(service, job_id)
    wanted = receipts.chosen(format, request.headers.get("accept", ""))
    if wanted != "json":
        media_type, write = receipts.FORMATS[wanted]
        lines = labels.receipt_lines(service.store, key, only=only)
        headers = {"Content-Disposition": f'attachment; filename="receipt-{job_id}.{wanted}"', "Vary": "Accept"}
        return StreamingResponse(write(lines), media_type=media_type, headers=headers)
    entries = labels.read_receipt(service.store, key, offset=cursor, limit=limit + 1)
    return Page(items=entries[:limit], next=str(cursor + limit) if len(entries) > limit else None)


def _receipt_key(service: State, job_id: str) -> str:
    result = jobs.get(service.catalog, job_id).result or {}
    if "receipt_key" not in result:
        raise NotFound(f"job {job_id} has no receipt: it has not unpacked an upload to its end")
    return str(result["receipt_key"])


@router.get(
    "/jobs/{job_id}/quarantine/{index:int}",
    response_class=Response,
    responses=may_be(404, 503) | _QUARANTINED,
)
async def quarantined(
    service: Service,
    job_id: JobId,
    index: Annotated[int, Path(ge=0, le=MAX_CURSOR, description="the entry's index in the receipt")],
    size: Annotated[
        int | None,
        Query(ge=16, le=1024, description="a JPEG of it instead, its longer side at most so many pixels"),
    ] = None,
) -> Response:
    """The bytes of a quarantined entry, for looking at: as an attachment that no browser runs.

    The first of a job's are kept, up to a limit of bytes, and for a while: 404 for the others. With `size` a picture
    of as much of it as can be decoded, made in a program of its own: 422 (`no_preview`) if nothing can be shown.
    """
    data = await run_in_threadpool(_kept, service, job_id, index)
    if size is not None:
        headers = _INERT | {"Cache-Control": "private, max-age=3600"}
        return Response(await service.previewer.preview(data, size), media_type="image/jpeg", headers=headers)
    headers = _INERT | {"Content-Disposition": f'attachment; filename="quarantine-{job_id}-{index}"'}
    return Response(data, media_type="application/octet-stream", headers=headers)


def _kept(service: State, job_id: str, index: int) -> bytes:
    """The bytes of a quarantined entry. Raises NotFound."""
    jobs.get(service.catalog, job_id)
    try:
        return service.store.get(quarantine_key(job_id, index))
    except FileNotFoundError as missing:
        raise NotFound(f"nothing is kept of entry {index} of job {job_id}: it was not quarantined, or not kept") from (
            missing
        )


@router.post("/jobs/{job_id}/quarantine/retry", status_code=202, responses=may_be(404, 409))
def retry_quarantine(service: Service, job_id: JobId) -> Job:
    """Make a new job, for the same bucket, of what is kept of a job's quarantine: after our limits or decoders changed.

    409 if nothing is kept, or if the job was no ingest: a labeled set is sent again as a whole.
    """
    job = quarantine.retry(service.catalog, service.store, job_id)
    service.bell.submit(messages.ring, service.queue, messages.UNPACK, job.id)
    return job
