"""``/uploads``: a large archive in parts, which goes on where it was after whatever broke it off.

A part is an object of the store, written whole under its number, so that sending it twice is sending it once.
Nothing of it is looked into.
"""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from service import examples
from service.clients import Actor
from service.idempotency import IdempotencyKey, key_of
from service.problems import RESPONSES, may_be
from service.state import Service, State
from understudy import messages
from understudy.catalog import jobs, resumable
from understudy.errors import Conflict, UploadRefused
from understudy.records import NAME_PATTERN, Job, JobState, Upload, UploadPart, UploadRequest, UploadState
from understudy.store import part_key

router = APIRouter(tags=["ingest"])

#: Larger parts are fewer requests, smaller ones less to send again; a part lies in memory while its sha-256 is checked.
PART_BYTES = 8 * 2**20
#: Of a very large upload the parts grow, so that this many are enough.
MAX_PARTS = 10_000
#: No part is larger, whatever the limit of an upload is.
MAX_PART_BYTES = 256 * 2**20
_BODY = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}

UploadId = Annotated[str, Path(pattern=NAME_PATTERN, description="as the answer to POST /uploads names it")]


@router.post(
    "/uploads",
    status_code=201,
    responses=RESPONSES | may_be(409) | examples.of(201, examples.UPLOAD, "Open: send the `missing` parts."),
)
async def begin(
    body: UploadRequest, response: Response, service: Service, actor: Actor, key: IdempotencyKey = None
) -> UploadState:
    """Begin an upload in parts. With the `Idempotency-Key` of an earlier one, find that one again and go on with it.

    Then `PUT /uploads/{id}/parts/{number}` for each number in `missing`, and `POST /uploads/{id}/complete`. An
    upload of which nothing has arrived for a day is given up.
    """
    limit = min(service.settings.max_upload_bytes, MAX_PARTS * MAX_PART_BYTES)
    if body.num_bytes > limit:
        detail = f"the upload has {body.num_bytes} bytes; the limit is {limit}; send it as several"
        raise UploadRefused(detail, code="body_too_large")
    part_bytes = max(PART_BYTES, -(-body.num_bytes // MAX_PARTS))
    fingerprint = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    bound = key_of(actor, "uploads", key)
    job = await run_in_threadpool(
        resumable.open_upload, service.catalog, body, part_bytes=part_bytes, key=bound, fingerprint=fingerprint
    )
    response.headers["Location"] = f"/uploads/{job.id}"
    return await run_in_threadpool(_state, service, job)


@router.get("/uploads/{upload_id}", responses=examples.of(200, examples.UPLOAD, "What has arrived, and what has not."))
def look(service: Service, upload_id: UploadId) -> UploadState:
    """Which parts of an upload are missing still."""
    return _state(service, jobs.get(service.catalog, upload_id))


@router.put(
    "/uploads/{upload_id}/parts/{number}",
    openapi_extra={"requestBody": _BODY},
    responses=RESPONSES | may_be(409) | examples.of(200, examples.UPLOAD_PART, "The part is safe."),
)
async def part(
    request: Request,
    service: Service,
    upload_id: UploadId,
    number: Annotated[int, Path(ge=0, lt=MAX_PARTS, description="from 0; each but the last has `part_bytes` bytes")],
    sha256: Annotated[str, Query(pattern="^[0-9a-f]{64}$", description="of the part's bytes, in hex")],
) -> UploadPart:
    """Send one part. It counts when this answers; the same part again changes nothing, another one is refused."""
    job = await run_in_threadpool(jobs.get, service.catalog, upload_id)
    upload = _receiving(job)
    if number >= upload.num_parts:
        raise UploadRefused(f"there is no part {number}: this upload has {upload.num_parts}", code="no_such_part")
    expected = min(upload.num_bytes - number * _part_bytes(upload), _part_bytes(upload))
    data = await _body(request, number, expected)
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        detail = f"part {number} has arrived with the sha-256 {actual}, not {sha256}; send it again"
        raise UploadRefused(detail, code="damaged_part")
    await run_in_threadpool(_put, service, job, number, data)
    return UploadPart(number=number, num_bytes=len(data), sha256=actual)


@router.post(
    "/uploads/{upload_id}/complete",
    status_code=202,
    responses=may_be(409) | examples.of(202, examples.QUEUED_JOB, "The bytes are safe; a job works on them."),
)
def complete(service: Service, upload_id: UploadId, response: Response) -> Job:
    """All parts are there: make the upload a job, as `POST /ingest` does. Asked twice, it answers with the same job."""
    job = jobs.get(service.catalog, upload_id)
    upload = resumable.upload_of(job)
    if job.state == JobState.RECEIVING and (missing := _missing(service, upload)):
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise Conflict(f"{len(missing)} of {upload.num_parts} parts are missing: {shown}", code="parts_missing")
    job = resumable.complete(service.catalog, job)
    if job.state == JobState.QUEUED:
        service.bell.submit(messages.ring, service.queue, messages.UNPACK, job.id)
    response.headers["Location"] = f"/jobs/{job.id}"
    return job


def _receiving(job: Job) -> Upload:
    upload = resumable.upload_of(job)
    if job.state != JobState.RECEIVING:
        why = job.problem.detail if job.problem else "it is complete"
        raise Conflict(f"upload {job.id} takes no more parts ({why}); GET /jobs/{job.id} says what became of it")
    return upload


def _put(service: State, job: Job, number: int, data: bytes) -> None:
    upload = resumable.upload_of(job)
    key = part_key(upload.key, number)
    if not service.store.put(key, data) and service.store.get(key) != data:
        detail = f"another part {number} is there already; the file has changed: begin a new upload"
        raise Conflict(detail, code="part_mismatch")
    jobs.touch_upload(service.catalog, job.id, number * _part_bytes(upload) + len(data))


async def _body(request: Request, number: int, expected: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > expected:
            break
    if len(data) != expected:
        seen = f"more than {expected}" if len(data) > expected else str(len(data))
        detail = f"part {number} has {seen} bytes; it is to have {expected}"
        raise UploadRefused(detail, code="wrong_part_size")
    return bytes(data)


def _part_bytes(upload: Upload) -> int:
    assert upload.part_bytes is not None  # it is an upload in parts
    return upload.part_bytes


def _missing(service: State, upload: Upload) -> list[int]:
    there = set(service.store.list(upload.key.rpartition("/")[0] + "/"))
    return [number for number in range(upload.num_parts) if part_key(upload.key, number) not in there]


def _state(service: State, job: Job) -> UploadState:
    upload = resumable.upload_of(job)
    is_open = job.state == JobState.RECEIVING
    return UploadState(
        id=job.id,
        state=job.state,
        bucket=job.bucket or "",
        name=upload.name,
        num_bytes=upload.num_bytes,
        part_bytes=_part_bytes(upload),
        num_parts=upload.num_parts,
        missing=tuple(_missing(service, upload)) if is_open else (),
    )
