"""``/exports``: pseudo-labels and their images as files, written by a worker, downloaded with byte ranges."""

import hashlib
import json
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from service import examples, ranges
from service.clients import Actor
from service.idempotency import IdempotencyKey, key_of
from service.problems import may_be
from service.schemas import Page
from service.state import Service, State
from understudy import messages
from understudy.catalog import jobs
from understudy.errors import NotFound
from understudy.records import NAME_PATTERN, ExportFile, ExportRequest, Job, JobKind, JobState
from understudy.store import export_file_key, export_key

router = APIRouter(tags=["exports"])

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


@router.get("/exports/{export_id}/files/{name}", responses=may_be(416) | ranges.FILE, response_class=Response)
def download(
    service: Service,
    export_id: ExportId,
    name: Annotated[str, Path(pattern=NAME_PATTERN, description="as the list of files has it")],
    range: ranges.Range = None,
) -> Response:
    """Download one file, or one range of its bytes."""
    file = next((file for file in _files(service, export_id) if file.name == name), None)
    if file is None:
        raise NotFound(f"export {export_id} has no file {name!r}; GET /exports/{export_id}/files lists them")
    return ranges.answer(service.store, export_file_key(export_id, name), file.num_bytes, file.sha256, range)


def _files(service: State, export_id: str) -> list[ExportFile]:
    job = look(service, export_id)
    if job.state != JobState.SUCCEEDED:
        raise NotFound(f"export {export_id} has no files: it is {job.state}; GET /exports/{export_id} says more")
    return [ExportFile(**file) for file in json.loads(service.store.get(export_key(export_id, "manifest.json")))]
