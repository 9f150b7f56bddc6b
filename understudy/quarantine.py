"""The bytes of quarantined entries: kept for looking at and for another try, up to a limit, and for a while.

Nobody decodes them here. A worker writes them, a service gives them out, the reconciler sweeps them.
"""

from understudy.catalog import Catalog, buckets, jobs
from understudy.errors import Conflict, NotFound
from understudy.records import Job, JobKind, Upload
from understudy.store import Store, quarantine_key

#: Of one job: enough to see what is wrong with an archive, too little to be a store of strangers' files.
MAX_JOB_BYTES = 64 * 2**20
#: So many files of a job: each is an object of its own.
MAX_JOB_FILES = 1000
#: A week, in which whoever sent them can look.
MAX_AGE_S = 7 * 24 * 3600.0


class Quarantine:
    """What is kept of one job: the same on every attempt, because the first are kept."""

    def __init__(self, store: Store, job_id: str) -> None:
        self._store, self._job_id = store, job_id
        self.num_bytes = self.num_files = 0

    def keep(self, index: int, data: bytes) -> bool:
        """Keep an entry's bytes, if there are any and if there is room; whether it did."""
        is_full = self.num_files >= MAX_JOB_FILES or self.num_bytes + len(data) > MAX_JOB_BYTES
        if not data or is_full:
            return False
        self._store.put(quarantine_key(self._job_id, index), data)
        self.num_bytes += len(data)
        self.num_files += 1
        return True


def retry(catalog: Catalog, store: Store, job_id: str) -> Job:
    """Open a new job of what is kept. Raises NotFound; Conflict if nothing is, or it was of a labeled set."""
    job = jobs.get(catalog, job_id)
    if job.kind != JobKind.INGEST or job.bucket is None:
        raise Conflict(f"job {job_id} is of the kind {job.kind}; only what an ingest left can be tried again alone")
    kept = store.sizes(f"quarantine/{job_id}/")
    if not kept:
        raise Conflict(f"nothing is kept of job {job_id}: it quarantined nothing, or that was swept; send it again")
    uploads = [Upload(key=key, name=_name(key), num_bytes=num_bytes) for key, num_bytes in kept.items()]
    again = jobs.open_upload(catalog, JobKind.INGEST, bucket=job.bucket, params={"retries": job_id})
    return jobs.received(catalog, again.id, uploads)


def _name(key: str) -> str:
    """job/index: how a receipt names an entry of another job."""
    _, job_id, index = key.split("/")
    return f"{job_id}/{int(index)}"


def sweep(catalog: Catalog, store: Store, *, older_than_s: float = MAX_AGE_S) -> None:
    """Delete what was kept of jobs that ended so long ago, or are unknown."""
    expired: dict[str, bool] = {}
    for key in store.list("quarantine/"):
        job_id = key.split("/")[1]
        if job_id not in expired:
            expired[job_id] = _is_expired(catalog, job_id, older_than_s)
        if expired[job_id]:
            store.delete(key)


def _is_expired(catalog: Catalog, job_id: str, older_than_s: float) -> bool:
    try:
        job = jobs.get(catalog, job_id)
        if job.bucket is not None:
            buckets.folder(catalog, job.bucket)
    except NotFound:  # of the job, or of a bucket that was deleted
        return True
    return job.state.is_ended and jobs.age_s(catalog, job_id) > older_than_s
