"""The unpack task: one job's uploads, taken apart as its kind asks, and deleted when it has ended."""

import functools
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from understudy.catalog import jobs
from understudy.catalog.claims import Claim
from understudy.catalog.tables import JobRow
from understudy.errors import LeaseLost, NotFound, Refused
from understudy.records import Job, JobKind, Problem
from understudy.store import receipt_key
from worker import attempts, sources
from worker.ingest import ingest
from worker.labeled import unpack_labeled
from worker.resources import Resources

log = logging.getLogger(__name__)

#: How the uploads of each kind of job are taken apart. Other kinds are not ours.
UNPACKERS: dict[JobKind, Callable[[Resources, Claim, Job, Path], None]] = {
    JobKind.INGEST: ingest,
    JobKind.LABELED: unpack_labeled,
    JobKind.SYNC: sources.sync,
    JobKind.FETCH: sources.fetch,
}


def unpack(resources: Resources, job_id: str) -> None:
    """Make one attempt at a job, and write down how it ended. Nothing is raised but a stop."""
    try:
        job = jobs.get(resources.catalog, job_id)
    except NotFound as missing:
        log.warning("%s", missing)
        return
    if job.kind not in UNPACKERS:
        log.warning("job %s is of the kind %s, which no worker does", job_id, job.kind)
        return
    attempts.attempt(resources, JobRow, job_id, functools.partial(_run, resources, job))
    if not jobs.keeps_uploads(jobs.get(resources.catalog, job_id)):
        delete_uploads(resources, job_id)


def _run(resources: Resources, job: Job, claim: Claim) -> None:
    spool = resources.settings.spool
    spool.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=spool, prefix=f"{job.id}-{claim.attempt}-") as folder:
            UNPACKERS[job.kind](resources, claim, job, Path(folder))
    except Refused as refused:
        log.info("job %s refused: %s", job.id, refused)
        jobs.fail(resources.catalog, claim, Problem(code=refused.code, detail=str(refused)))
    except LeaseLost:
        resources.store.delete(receipt_key(job.id, claim.attempt))
        raise


def delete_uploads(resources: Resources, job_id: str) -> None:
    """Delete what was sent for a job that has ended; the reconciler does it again if this fails."""
    for key in resources.store.list(f"uploads/{job_id}/"):
        resources.store.delete(key)
