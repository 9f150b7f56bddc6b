"""``/exports``: pseudo-labels and their images as files, written by a worker, downloaded with byte ranges."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import StreamingResponse

from service import examples
from service.clients import Actor
from service.idempotency import IdempotencyKey, key_of
from service.problems import may_be
from service.schemas import Page
from service.state import Service, State
from understudy import messages
from understudy.catalog import jobs
from understudy.errors import NotFound, Refused
from understudy.records import NAME_PATTERN, ExportFile, ExportRequest, Job, JobKind, JobState
from understudy.store import Store, export_file_key, export_key

router = APIRouter(tags=["exports"])

#: Read from the store at a time while sending.
CHUNK_BYTES = 4 * 2**20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_FILE: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}
    for status, text in {200: "The whole file.", 206: "The part that `Range` asked for."}.items()
}

ExportId = Annotated[str, Path(pattern=NAME_PATTERN, description="as the answer to POST /exports names it")]


@router.post(
    "/exports",
    status_code=202,
    responses=may_be(409) | examples.of(202, examples.EXPORT_JOB, "A job works on it."),
)
def begin(body: ExportRequest, response: Response, service: Service, actor: Actor, key: IdempotencyKey = None) -> Job:
    """Export pseudo-labels: as Parquet tables, WebDataset shards, one folder a class, or for Hugging Face `datasets`.

    Filtered by bucket, classes and confidence, or what a generation selected. When the job has succeeded, its
    files are listed at `GET /exports/{id}/files`, the checksums in `SHA256SUMS` among them.
    """
    request = body.model_dump(mode="json")
    fingerprint = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    bound = key_of(actor, "exports", key)
    job = jobs.open_job(
        service.catalog, JobKind.EXPORT, params={"request": request}, key=bound, fingerprint=fingerprint
    )
    service.bell.submit(messages.ring, service.queue, messages.EXPORT, job.id)
    response.headers["Location"] = f"/exports/{job.id}"
    return job


@router.get("/exports/{export_id}", responses=examples.of(200, examples.EXPORT_JOB, "How far it is, or how it ended."))
def look(service: Service, export_id: ExportId) -> Job:
    """One export, as its job."""
    job = jobs.get(service.catalog, export_id)
    if job.kind != JobKind.EXPORT:
        raise NotFound(f"job {export_id} is no export but a job of the kind {job.kind}")
    return job


@router.get("/exports/{export_id}/files", responses=examples.of(200, examples.EXPORT_FILES, "Some of its files."))
def files(
    service: Service,
    export_id: ExportId,
    cursor: Annotated[int, Query(ge=0, description="`next` of the page before")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="most files in the answer")] = 1000,
) -> Page[ExportFile]:
    """The files of an export that has succeeded, with their sizes and sha-256."""
    found = _files(service, export_id)
    more = len(found) > cursor + limit
    return Page(items=found[cursor : cursor + limit], next=str(cursor + limit) if more else None)


@router.get("/exports/{export_id}/files/{name}", responses=may_be(416) | _FILE, response_class=Response)
def download(
    service: Service,
    export_id: ExportId,
    name: Annotated[str, Path(pattern=NAME_PATTERN, description="as the list of files has it")],
    range: Annotated[str | None, Header(description="one range of bytes: `bytes=1000-`")] = None,
) -> Response:
    """Download one file, or one range of its bytes."""
    file = next((file for file in _files(service, export_id) if file.name == name), None)
    if file is None:
        raise NotFound(f"export {export_id} has no file {name!r}; GET /exports/{export_id}/files lists them")
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{file.sha256}"'}
    first, end = asked = _asked(range, file.num_bytes)
    if asked != (0, file.num_bytes):
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{file.num_bytes}"
    return StreamingResponse(
        _chunks(service.store, export_file_key(export_id, name), first, end),
        206 if "Content-Range" in headers else 200,
        headers | {"Content-Length": str(end - first)},
        "application/octet-stream",
    )


def _files(service: State, export_id: str) -> list[ExportFile]:
    job = look(service, export_id)
    if job.state != JobState.SUCCEEDED:
        raise NotFound(f"export {export_id} has no files: it is {job.state}; GET /exports/{export_id} says more")
    return [ExportFile(**file) for file in json.loads(service.store.get(export_key(export_id, "manifest.json")))]


def _asked(header: str | None, num_bytes: int) -> tuple[int, int]:
    """The bytes from the first to before the second. What is no single range of bytes asks for all (RFC 9110, 14.2)."""
    found = _RANGE.fullmatch(header or "")
    if found is None or found.groups() == ("", ""):
        return 0, num_bytes
    first, last = found.groups()
    if not first:
        begin, end = max(0, num_bytes - int(last)), num_bytes
    else:
        begin, end = int(first), min(num_bytes, int(last) + 1) if last else num_bytes
    if last and first and int(last) < begin:
        return 0, num_bytes
    if begin >= end:
        detail = f"Range {header} begins after the end of the file, which has {num_bytes} bytes"
        raise Refused(detail, code="range_not_satisfiable")
    return begin, end


def _chunks(store: Store, key: str, first: int, end: int) -> Iterator[bytes]:
    for at in range(first, end, CHUNK_BYTES):
        yield store.get_range(key, at, min(CHUNK_BYTES, end - at))
