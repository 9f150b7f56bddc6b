"""The claim protocol, on both engines."""

import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import update

from understudy.catalog import Catalog, claims, jobs
from understudy.catalog.claims import MAX_ATTEMPTS, Claim
from understudy.catalog.database import now
from understudy.catalog.tables import BucketRow, JobRow
from understudy.errors import LeaseLost
from understudy.records import JobKind, JobState, Problem

FAULT = Problem(code="fault", detail="the disk was full")


def claim_job(catalog: Catalog, job_id: str, lease_s: float = 60) -> Claim | None:
    return claims.claim(catalog, JobRow, job_id, lease_s=lease_s)


def lapse(catalog: Catalog, job_id: str) -> None:
    """Make a lease end now, as if its holder had been silent for long."""
    with catalog.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(lease_until=now() - 1))


def test_a_claim_is_taken_once(catalog, queued_job, in_threads):
    """Of many that reach for one job at the same moment, one gets it, on its first attempt."""
    job_id = queued_job()

    taken = [c for c in in_threads(lambda _: claim_job(catalog, job_id), 8) if c is not None]

    assert [(type(c), c.attempt) for c in taken] == [(Claim, 1)]
    assert jobs.get(catalog, job_id).state == JobState.RUNNING


def test_sixteen_workers_share_many_jobs_without_a_lock_error(catalog, catalog_url, in_threads):
    """Sixteen workers that race over the same rows claim each of them exactly once, and none sees a lock error."""
    num_workers, num_jobs = 16, 100
    with catalog.write() as session:
        for number in range(num_jobs):
            jobs.insert_job(session, f"job{number:03d}", JobKind.INGEST, JobState.QUEUED)

    def work(number: int) -> list[str]:
        mine = Catalog(catalog_url)
        ids = [f"job{(number + step) % num_jobs:03d}" for step in range(num_jobs)]
        try:
            return [job_id for job_id in ids if claim_job(mine, job_id) is not None]
        finally:
            mine.close()

    answers = in_threads(work, num_workers)

    assert [a for a in answers if isinstance(a, Exception)] == []
    claimed = Counter(job_id for answer in answers for job_id in answer)
    assert len(claimed) == num_jobs
    assert set(claimed.values()) == {1}


def test_a_lapsed_claim_is_taken_again_under_the_next_attempt(catalog, queued_job):
    """Work whose holder has gone silent may be claimed again; its attempt rises."""
    job_id = queued_job()
    assert claim_job(catalog, job_id).attempt == 1
    assert claim_job(catalog, job_id) is None

    lapse(catalog, job_id)

    assert claim_job(catalog, job_id).attempt == 2


def test_a_late_workers_result_changes_nothing(catalog, queued_job):
    """A worker that was overtaken cannot settle, and all else in its transaction is rolled back."""
    job_id = queued_job()
    late = claim_job(catalog, job_id)
    lapse(catalog, job_id)
    newest = claim_job(catalog, job_id)

    def settle_late() -> None:
        with catalog.write() as session:
            session.add(BucketRow(name="written-by-the-late-one", created_at=0.0))
            jobs.succeed(session, late, {"accepted": 1})

    with pytest.raises(LeaseLost, match="overtaken"):
        settle_late()

    with pytest.raises(LeaseLost):
        late.check()
    with catalog.read() as session:
        assert session.get(BucketRow, "written-by-the-late-one") is None
    assert jobs.get(catalog, job_id).result is None
    newest.check()


def test_a_settled_job_cannot_be_settled_again(catalog, queued_job):
    """A repeated worker finds that its claim has ended with its first result."""
    claim = claim_job(catalog, queued_job())
    with catalog.write() as session:
        jobs.succeed(session, claim, {"accepted": 1})

    with pytest.raises(LeaseLost), catalog.write() as session:
        jobs.succeed(session, claim, {"accepted": 2})

    assert jobs.get(catalog, claim.id).result == {"accepted": 1}
    assert claim_job(catalog, claim.id) is None


def test_renewing_a_lost_lease_says_so(catalog, queued_job):
    """Progress under an old attempt raises LeaseLost and is not written."""
    job_id = queued_job()
    late = claim_job(catalog, job_id)
    lapse(catalog, job_id)
    claim_job(catalog, job_id)

    with pytest.raises(LeaseLost):
        jobs.progress(catalog, late, "unpack", 5, 10)

    assert jobs.get(catalog, job_id).done == 0


def test_work_that_is_given_back_can_be_claimed_after_a_pause(catalog, queued_job):
    """After a fault of ours the work is queued again, with the problem on it and the attempt spent, but not at once."""
    claim = claim_job(catalog, queued_job())

    claims.give_back(catalog, claim, FAULT)

    job = jobs.get(catalog, claim.id)
    assert (job.state, job.problem, job.attempt) == (JobState.QUEUED, FAULT, 1)
    assert claim_job(catalog, claim.id) is None
    assert claims.overdue(catalog, JobRow, limit=10) == []
    lapse(catalog, str(claim.id))
    assert claim_job(catalog, claim.id).attempt == 2


def test_work_that_is_given_back_by_a_graceful_stop_can_be_claimed_at_once(catalog, queued_job):
    """A stop is no fault: the next worker goes on without a pause."""
    claim = claim_job(catalog, queued_job())

    claims.give_back(catalog, claim, Problem(code=claims.STOPPED, detail="told to end"), is_forgiven=True)

    assert claim_job(catalog, claim.id).attempt == 2


def test_failed_work_that_is_retried_has_all_its_attempts_again(catalog, queued_job):
    """Only failed work can be; it is queued at once."""
    job_id = queued_job()
    for _ in range(MAX_ATTEMPTS):
        with catalog.write() as session:
            assert not claims.retry(session, JobRow, job_id)
        claims.give_back(catalog, claim_job(catalog, job_id), FAULT)
        lapse(catalog, job_id)

    with catalog.write() as session:
        assert claims.retry(session, JobRow, job_id)

    for attempt in range(MAX_ATTEMPTS):
        assert claim_job(catalog, job_id).attempt == MAX_ATTEMPTS + attempt + 1
        lapse(catalog, job_id)
    assert claim_job(catalog, job_id) is None


def test_the_last_attempt_given_back_fails_the_job(catalog, queued_job):
    """What failed as often as is allowed ends failed, with its last problem."""
    job_id = queued_job()
    for _ in range(MAX_ATTEMPTS):
        claims.give_back(catalog, claim_job(catalog, job_id), FAULT)
        lapse(catalog, job_id)

    job = jobs.get(catalog, job_id)
    assert (job.state, job.problem, job.attempt) == (JobState.FAILED, FAULT, MAX_ATTEMPTS)
    assert claim_job(catalog, job_id) is None


def test_a_forgiven_attempt_does_not_count(catalog, queued_job):
    """A graceful stop may happen any number of times: the fence rises, the allowance stays whole."""
    job_id = queued_job()
    for _ in range(2 * MAX_ATTEMPTS):
        claims.give_back(catalog, claim_job(catalog, job_id), FAULT, is_forgiven=True)
        lapse(catalog, job_id)

    assert claim_job(catalog, job_id).attempt == 2 * MAX_ATTEMPTS + 1


def test_giving_back_what_was_lost_changes_nothing(catalog, queued_job):
    """A worker that was overtaken cannot put the work of the new holder back."""
    job_id = queued_job()
    late = claim_job(catalog, job_id)
    lapse(catalog, job_id)
    claim_job(catalog, job_id)

    with pytest.raises(LeaseLost):
        claims.give_back(catalog, late, FAULT)

    assert jobs.get(catalog, job_id).state == JobState.RUNNING


def test_what_took_its_holder_down_too_often_is_set_aside(catalog, queued_job):
    """A job whose workers died MAX_ATTEMPTS times is failed with the code gave_up, and not before its lease ended."""
    poisoned, healthy = queued_job(), queued_job()
    claim_job(catalog, healthy)
    for _ in range(MAX_ATTEMPTS - 1):
        claim_job(catalog, poisoned)
        lapse(catalog, poisoned)
        assert claims.set_aside(catalog, JobRow) == []
    claim_job(catalog, poisoned)
    assert claims.set_aside(catalog, JobRow) == []
    lapse(catalog, poisoned)
    assert claim_job(catalog, poisoned) is None

    assert claims.set_aside(catalog, JobRow) == [poisoned]

    job = jobs.get(catalog, poisoned)
    assert job.state == JobState.FAILED
    assert job.problem is not None
    assert job.problem.code == "gave_up"
    assert jobs.get(catalog, healthy).state == JobState.RUNNING


def test_overdue_work_comes_oldest_first(catalog, queued_job):
    """What waits is told in the order it came, lapsed claims too; held and ended work is not told."""
    ids = [queued_job() for _ in range(5)]
    with catalog.write() as session:
        for age, job_id in enumerate(ids):
            session.execute(update(JobRow).where(JobRow.id == job_id).values(created_at=1000.0 + age))
    claim_job(catalog, ids[0])
    lapse(catalog, ids[0])
    claim_job(catalog, ids[1])
    jobs.fail(catalog, claim_job(catalog, ids[3]), FAULT)

    assert claims.overdue(catalog, JobRow, limit=10) == [ids[0], ids[2], ids[4]]
    assert claims.overdue(catalog, JobRow, limit=1) == [ids[0]]


def test_a_kept_claim_outlives_its_lease(catalog, queued_job):
    """While the block runs the lease is renewed, so that nobody else can take the work."""
    lease_s = 1.0
    claim = claim_job(catalog, queued_job(), lease_s=lease_s)
    began = jobs.get(catalog, claim.id).updated_at

    with claims.keep(catalog, claim):
        until(lambda: jobs.get(catalog, claim.id).updated_at > began + 1.5 * lease_s)
        assert claim_job(catalog, claim.id) is None
        claim.check()

    until(lambda: claim_job(catalog, claim.id) is not None)


def test_a_keeper_notices_that_its_claim_was_overtaken(catalog, queued_job):
    """When another process takes the work over, check() raises in the old holder soon after."""
    claim = claim_job(catalog, queued_job(), lease_s=0.2)
    with catalog.write() as session:
        session.execute(update(JobRow).where(JobRow.id == claim.id).values(attempt=JobRow.attempt + 1))

    with claims.keep(catalog, claim):
        until(claim._lost.is_set)

    with pytest.raises(LeaseLost):
        claim.check()


def until(is_so: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Ask again and again until it is so; fail after ``timeout_s``."""
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, f"still not so after {timeout_s} s"
        pause.wait(0.02)


def test_the_lease_of_a_dead_process_of_this_host_lapses_at_once(catalog, queued_job):
    """Not that of one that lives, nor of one elsewhere, whose death nobody here can see."""
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    alive, killed, elsewhere = (queued_job() for _ in range(3))
    for job_id in (alive, killed, elsewhere):
        claim_job(catalog, job_id)
    here, _, _ = claims.owner().rpartition(f"{os.getpid()}:")
    owners = {killed: f"{here}{dead.pid}:12345", elsewhere: f"another-host:b:n:{dead.pid}:12345"}
    with catalog.write() as session:
        for job_id, owner in owners.items():
            session.execute(update(JobRow).where(JobRow.id == job_id).values(owner=owner))

    assert claims.release_dead(catalog, JobRow) == [killed]
    assert claims.release_dead(catalog, JobRow) == []

    assert [claim_job(catalog, job_id) is not None for job_id in (alive, killed, elsewhere)] == [False, True, False]
