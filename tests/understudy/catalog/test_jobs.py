"""Jobs from their upload to their end, on both engines."""

import pytest
from sqlalchemy import update

from understudy.catalog import claims, jobs
from understudy.catalog.shards import buckets
from understudy.catalog.tables import JobRow
from understudy.errors import Conflict, NotFound
from understudy.records import JobKind, JobState, Problem, TrainingProgress, Upload

PROBLEM = Problem(code="cut_off", detail="the client went away")
UPLOAD = Upload(key="uploads/j/000000", name="photos.tar", num_bytes=7)


def test_an_upload_makes_its_bucket_once(catalog):
    """The first upload to a bucket makes it, the next one finds it."""
    first, second = (jobs.open_upload(catalog, JobKind.INGEST, bucket="shop", params={}) for _ in range(2))

    assert first.id != second.id
    assert [b.name for b in buckets(catalog)] == ["shop"]


def test_a_job_cannot_be_claimed_before_its_upload_has_arrived(catalog):
    """While bytes arrive the job is nobody's; once they are in the store it is queued, with its uploads."""
    job = jobs.open_upload(catalog, JobKind.INGEST, bucket="shop", params={"source": "test"})
    assert job.state == JobState.RECEIVING
    assert claims.claim(catalog, JobRow, job.id, lease_s=60) is None

    queued = jobs.received(catalog, job.id, [UPLOAD])

    assert queued.state == JobState.QUEUED
    assert queued.params == {"source": "test", "uploads": [UPLOAD.model_dump()]}
    assert claims.claim(catalog, JobRow, job.id, lease_s=60) is not None


def test_a_broken_upload_ends_its_job(catalog):
    """A job whose upload did not arrive whole fails, and is not brought back by its last bytes."""
    job = jobs.open_upload(catalog, JobKind.INGEST, bucket="shop", params={})
    jobs.fail_upload(catalog, job.id, PROBLEM)

    with pytest.raises(Conflict, match=job.id):
        jobs.received(catalog, job.id, [UPLOAD])

    failed = jobs.get(catalog, job.id)
    assert (failed.state, failed.problem) == (JobState.FAILED, PROBLEM)


def test_an_upload_that_arrived_can_no_longer_break(catalog, queued_job):
    """fail_upload is for jobs that are still receiving; others it leaves alone."""
    job_id = queued_job()

    jobs.fail_upload(catalog, job_id, PROBLEM)

    assert jobs.get(catalog, job_id).state == JobState.QUEUED


def test_silent_uploads_are_stale_and_busy_ones_are_not(catalog):
    """An upload that says nothing for long is told; one whose bytes still arrive shows them as progress."""
    silent, busy = (jobs.open_upload(catalog, JobKind.INGEST, bucket="shop", params={}) for _ in range(2))
    with catalog.write() as session:
        session.execute(update(JobRow).values(updated_at=1000.0))

    jobs.touch_upload(catalog, busy.id, 4096)

    assert [job.id for job in jobs.stale_uploads(catalog, older_than_s=60)] == [silent.id]
    assert jobs.get(catalog, busy.id).done == 4096


def test_progress_is_shown_and_renews_the_lease(catalog, claimed_job):
    """What a worker reports of its step is in the record at once."""
    claim = claimed_job()

    jobs.progress(catalog, claim, "unpack", 3, 10)

    job = jobs.get(catalog, claim.id)
    assert (job.step, job.done, job.total, job.attempt) == ("unpack", 3, 10, 1)


def test_the_figures_of_training_stay_until_there_are_newer_ones(catalog, claimed_job):
    """They come with the progress of a step; the steps after training leave them as they are."""
    claim = claimed_job()
    metrics = TrainingProgress(step=3, num_steps=10, loss=1.5, labeled_loss=1.5, learning_rate=0.01, ema_accuracy=0.5)
    assert jobs.get(catalog, claim.id).metrics is None

    jobs.progress(catalog, claim, "train", 3, 10, metrics)
    jobs.progress(catalog, claim, "export", 0, 1)

    job = jobs.get(catalog, claim.id)
    assert (job.step, job.metrics) == ("export", metrics)
    newer = metrics.model_copy(update={"step": 4})
    jobs.progress(catalog, claim, "train", 4, 10, newer)
    assert jobs.get(catalog, claim.id).metrics == newer


def test_a_job_ends_with_its_result(catalog, claimed_job):
    """A job that ends well shows its result, and no problem of an attempt before."""
    claim = claimed_job()
    claims.give_back(catalog, claim, Problem(code=claims.STOPPED, detail="told to end"))
    again = claims.claim(catalog, JobRow, claim.id, lease_s=60)
    with catalog.write() as session:
        jobs.succeed(session, again, {"accepted": 3})

    job = jobs.get(catalog, claim.id)
    assert (job.state, job.result, job.problem) == (JobState.SUCCEEDED, {"accepted": 3}, None)
    assert job.state.is_ended


def test_a_job_that_cannot_work_ends_with_its_problem(catalog, claimed_job):
    """A job whose input is refused fails at its first attempt, with what there is of a result."""
    claim = claimed_job()

    jobs.fail(catalog, claim, PROBLEM, {"entries": 0})

    job = jobs.get(catalog, claim.id)
    assert (job.state, job.problem, job.result) == (JobState.FAILED, PROBLEM, {"entries": 0})
    assert claims.claim(catalog, JobRow, claim.id, lease_s=60) is None


def test_the_newest_jobs_come_first(catalog, queued_job):
    """The list of jobs begins with the newest and has at most ``limit``."""
    ids = [queued_job() for _ in range(3)]
    with catalog.write() as session:
        for age, job_id in enumerate(ids):
            session.execute(update(JobRow).where(JobRow.id == job_id).values(created_at=1000.0 + age))

    assert [job.id for job in jobs.recent(catalog, limit=2)] == [ids[2], ids[1]]


def test_an_unknown_job_is_not_found(catalog):
    """Asking for a job that never was, and telling of its upload, both say NotFound."""
    with pytest.raises(NotFound, match="'nope'"):
        jobs.get(catalog, "nope")
    with pytest.raises(NotFound, match="'nope'"):
        jobs.received(catalog, "nope", [])
