"""Receiving an upload: from the socket into the store with bounded memory, then a job to work on it.

Nothing is looked into here: that is the worker's business. An upload that breaks off leaves a failed
job and no bytes.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.types import Message

from service import forms
from service.idempotency import Fingerprint
from service.state import State
from understudy import messages, store
from understudy.catalog import idempotency, jobs
from understudy.catalog.idempotency import Key
from understudy.errors import UnderstudyError, UploadRefused
from understudy.records import Job, JobKind, Problem, Upload

log = logging.getLogger(__name__)

#: Most files in one multipart request; more belong into an archive.
MAX_FILES = 1000
#: Bytes read from a multipart file at a time.
READ_BYTES = 2**20
#: Show how far an upload is this often.
TOUCH_EVERY_S = 1.0

Split = Literal["unlabeled", "labeled", "holdout"]


@dataclass
class _Arrival:
    """A job's upload while it arrives."""

    service: State
    job_id: str
    split: Split
    fingerprint: Fingerprint | None = None  #: of what arrives, where the client sent a key
    num_bytes: int = 0  #: of the body, so far

    def counted(self, request: Request) -> Request:
        """The same request, whose bytes are counted as they come."""

        async def receive() -> Message:
            message = await request.receive()
            self.num_bytes += len(message.get("body", b""))
            return message

        return Request(request.scope, receive)

    async def show(self) -> None:
        """Say from time to time that bytes come: an upload that is silent for long is taken for dead."""
        shown = 0
        while True:
            await asyncio.sleep(TOUCH_EVERY_S)
            if self.num_bytes == shown:
                continue
            try:
                await run_in_threadpool(jobs.touch_upload, self.service.catalog, self.job_id, self.num_bytes)
                shown = self.num_bytes
            except Exception as error:  # the catalog is away for a moment
                log.warning("could not show how far the upload of job %s is: %s", self.job_id, error)


#: What is done with one file of an upload: its bytes, the upload, its place, its name, what it is.
_Keep = Callable[[AsyncIterator[bytes], _Arrival, int, str, Split], Awaitable[Upload]]


async def receive(
    request: Request,
    service: State,
    kind: JobKind,
    *,
    bucket: str | None = None,
    params: dict[str, Any],
    split: Split,
    key: Key | None = None,
) -> Job:
    """Take the body of a request (raw, or multipart files) as a new job's upload, and ring for it.

    ``split`` is what the upload is; of a labeled one, a multipart field ``holdout`` is the holdout. With an
    idempotency key that was used for the same request, the answer is that request's job, and nothing is kept.
    Raises UploadRefused for an empty one, Conflict for a key of another request; whatever breaks, the job ends failed.
    """
    fingerprint = None if key is None else Fingerprint(kind, bucket or "", json.dumps(params, sort_keys=True))
    if key is not None and fingerprint is not None and (known := await _find(service, key)):
        await _compare(request, service, known[1], fingerprint, split)
        return await run_in_threadpool(jobs.get, service.catalog, known[0])
    job = await run_in_threadpool(jobs.open_upload, service.catalog, kind, bucket=bucket, params=params)
    arrival = _Arrival(service, job.id, split, fingerprint)
    showing = asyncio.create_task(arrival.show())
    try:
        uploads = [upload async for upload in _uploads(arrival.counted(request), arrival, _store)]
        if all(upload.num_bytes == 0 for upload in uploads):
            raise UploadRefused("the upload is empty; send an archive or image files", code="empty_upload")
        settled = await run_in_threadpool(
            jobs.received,
            service.catalog,
            job.id,
            uploads,
            key=key,
            fingerprint=fingerprint.hex() if fingerprint else "",
        )
    except BaseException as error:  # a client that has gone, or a service that is told to stop, too
        await run_in_threadpool(_abandon, service, job.id, error)
        raise
    finally:
        showing.cancel()
    if settled.id != job.id:  # its twin was faster
        await run_in_threadpool(_delete, service, job.id)
        return settled
    service.bell.submit(messages.ring, service.queue, messages.UNPACK, job.id)
    return settled


async def _find(service: State, key: Key) -> tuple[str, str] | None:
    return await run_in_threadpool(idempotency.find, service.catalog, key)


async def _compare(request: Request, service: State, known: str, fingerprint: Fingerprint, split: Split) -> None:
    """Read a request that came before, without keeping it. Raises Conflict if it is another one."""
    arrival = _Arrival(service, "", split, fingerprint)
    async for _ in _uploads(request, arrival, _drop):
        pass
    idempotency.refuse_other(known, fingerprint.hex())


def _abandon(service: State, job_id: str, error: BaseException) -> None:
    problem = (
        Problem(code=error.code, detail=str(error))
        if isinstance(error, UnderstudyError)
        else Problem(code="upload_broken", detail="the upload broke off before its end; send it again")
    )
    log.warning("upload of job %s failed: %s", job_id, problem.detail)
    jobs.fail_upload(service.catalog, job_id, problem)
    _delete(service, job_id)


def _delete(service: State, job_id: str) -> None:
    for key in service.store.list(f"uploads/{job_id}/"):
        service.store.delete(key)


async def _uploads(request: Request, arrival: _Arrival, keep: _Keep) -> AsyncIterator[Upload]:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        name = request.query_params.get("name", "body")
        yield await keep(request.stream(), arrival, 0, name, arrival.split)
        return
    async with forms.read(request, max_files=MAX_FILES) as form:
        files = [(field, value) for field, value in form.multi_items() if isinstance(value, UploadFile)]
        for index, (field, file) in enumerate(files):
            name = file.filename or f"file-{index}"
            yield await keep(_chunks(file), arrival, index, name, _split_of(field, arrival.split))


def _split_of(field: str, split: Split) -> Split:
    """A labeled upload may bring its holdout as a file of its own."""
    return "holdout" if split == "labeled" and field == "holdout" else split


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(READ_BYTES):
        yield chunk


async def _store(chunks: AsyncIterator[bytes], arrival: _Arrival, index: int, name: str, split: Split) -> Upload:
    upload = Upload(key=store.upload_key(arrival.job_id, index), name=name[:1000], num_bytes=0, split=split)
    counter = _Counter(arrival.fingerprint)
    await arrival.service.store.receive(upload.key, counter.counted(chunks, upload))
    return upload.model_copy(update={"num_bytes": counter.num_bytes})


async def _drop(chunks: AsyncIterator[bytes], arrival: _Arrival, index: int, name: str, split: Split) -> Upload:
    """Only look at the bytes."""
    upload = Upload(key="", name=name[:1000], num_bytes=0, split=split)
    async for _ in _Counter(arrival.fingerprint).counted(chunks, upload):
        pass
    return upload


class _Counter:
    """Counts the bytes of one file while they pass, and takes their fingerprint where one is wanted."""

    def __init__(self, fingerprint: Fingerprint | None) -> None:
        self.num_bytes, self._fingerprint = 0, fingerprint

    async def counted(self, chunks: AsyncIterator[bytes], upload: Upload) -> AsyncIterator[bytes]:
        """The same chunks, without empty ones."""
        if self._fingerprint is not None:
            self._fingerprint.begin(f"{upload.split} {upload.name}")
        async for chunk in chunks:
            self.num_bytes += len(chunk)
            if self._fingerprint is not None:
                self._fingerprint.update(chunk)
            if chunk:
                yield chunk
        if self._fingerprint is not None:
            self._fingerprint.end(self.num_bytes)
