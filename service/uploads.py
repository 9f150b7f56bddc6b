"""Receiving an upload: from the socket into the store with bounded memory, then a job to work on it.

Nothing is looked into here: that is the worker's business. An upload that breaks off leaves a failed
job and no bytes.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.types import Message

from service import forms
from service.state import State
from understudy import messages, store
from understudy.catalog import jobs
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


async def receive(
    request: Request, service: State, kind: JobKind, *, bucket: str | None = None, params: dict[str, Any], split: Split
) -> Job:
    """Take the body of a request (raw, or multipart files) as a new job's upload, and ring for it.

    ``split`` is what the upload is; of a labeled one, a multipart field ``holdout`` is the holdout. Raises
    UploadRefused for an empty one; whatever breaks, the job ends failed.
    """
    job = await run_in_threadpool(jobs.open_upload, service.catalog, kind, bucket=bucket, params=params)
    arrival = _Arrival(service, job.id, split)
    showing = asyncio.create_task(arrival.show())
    try:
        uploads = [upload async for upload in _uploads(arrival.counted(request), arrival)]
        if all(upload.num_bytes == 0 for upload in uploads):
            raise UploadRefused("the upload is empty; send an archive or image files", code="empty_upload")
    except BaseException as error:  # a client that has gone, or a service that is told to stop, too
        await run_in_threadpool(_abandon, service, job.id, error)
        raise
    finally:
        showing.cancel()
    job = await run_in_threadpool(jobs.received, service.catalog, job.id, uploads)
    service.bell.submit(messages.ring, service.queue, messages.UNPACK, job.id)
    return job


def _abandon(service: State, job_id: str, error: BaseException) -> None:
    problem = (
        Problem(code=error.code, detail=str(error))
        if isinstance(error, UnderstudyError)
        else Problem(code="upload_broken", detail="the upload broke off before its end; send it again")
    )
    log.warning("upload of job %s failed: %s", job_id, problem.detail)
    jobs.fail_upload(service.catalog, job_id, problem)
    for key in service.store.list(f"uploads/{job_id}/"):
        service.store.delete(key)


async def _uploads(request: Request, arrival: _Arrival) -> AsyncIterator[Upload]:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        name = request.query_params.get("name", "body")
        yield await _store(request.stream(), arrival, 0, name, arrival.split)
        return
    async with forms.read(request, max_files=MAX_FILES) as form:
        files = [(field, value) for field, value in form.multi_items() if isinstance(value, UploadFile)]
        for index, (field, file) in enumerate(files):
            name = file.filename or f"file-{index}"
            yield await _store(_chunks(file), arrival, index, name, _split_of(field, arrival.split))


def _split_of(field: str, split: Split) -> Split:
    """A labeled upload may bring its holdout as a file of its own."""
    return "holdout" if split == "labeled" and field == "holdout" else split


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(READ_BYTES):
        yield chunk


async def _store(chunks: AsyncIterator[bytes], arrival: _Arrival, index: int, name: str, split: Split) -> Upload:
    key, num_bytes = store.upload_key(arrival.job_id, index), 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal num_bytes
        async for chunk in chunks:
            num_bytes += len(chunk)
            if chunk:
                yield chunk

    await arrival.service.store.receive(key, counted())
    return Upload(key=key, name=name[:1000], num_bytes=num_bytes, split=split)
