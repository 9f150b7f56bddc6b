"""Resumable uploads: a job that is receiving, whose parts come one by one in any order and any number of requests.

Which parts are there, the store knows: a part is an object, whole or not at all. Here is only the job that they
are for, and the one moment in which they become its upload.
"""

from sqlalchemy import delete

from understudy.catalog import idempotency, jobs
from understudy.catalog.database import Catalog, insert_or_ignore, now
from understudy.catalog.idempotency import Key
from understudy.catalog.tables import BucketRow, JobRow
from understudy.errors import Conflict, NotFound
from understudy.records import Job, JobKind, JobState, Upload, UploadRequest
from understudy.store import upload_key

#: Where a job's parameters say what is to arrive.
PARAM = "resumable"


def open_upload(catalog: Catalog, request: UploadRequest, *, part_bytes: int, key: Key | None, fingerprint: str) -> Job:
    """Open a job for an upload in parts; with a key that is bound already, give the job that it is bound to."""
    job_id = jobs.new_id()
    params = {PARAM: {"name": request.name, "num_bytes": request.num_bytes, "part_bytes": part_bytes}}
    with catalog.write() as session:
        session.execute(insert_or_ignore(session, BucketRow).values(name=request.bucket, created_at=now()))
        jobs.insert_job(session, job_id, JobKind.INGEST, JobState.RECEIVING, bucket=request.bucket, params=params)
        bound = job_id if key is None else idempotency.bind(session, key, fingerprint, job_id)
        if bound != job_id:
            session.execute(delete(JobRow).where(JobRow.id == job_id))  # it was opened before
    return jobs.get(catalog, bound)


def upload_of(job: Job) -> Upload:
    """What is to arrive for a job, or has arrived. Raises NotFound for a job that takes no parts."""
    if PARAM not in job.params:
        raise NotFound(f"job {job.id} is no upload in parts; open one with POST /uploads")
    wanted = job.params[PARAM]
    return Upload(
        key=upload_key(job.id, 0), name=wanted["name"], num_bytes=wanted["num_bytes"], part_bytes=wanted["part_bytes"]
    )


def complete(catalog: Catalog, job: Job) -> Job:
    """All parts are there: the job may be claimed. Twice is once. Raises Conflict if the upload was given up."""
    try:
        return jobs.received(catalog, job.id, [upload_of(job)])
    except Conflict:
        now_is = jobs.get(catalog, job.id)
        if "uploads" in now_is.params:
            return now_is
        raise
