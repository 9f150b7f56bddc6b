import pytest

from understudy import quarantine
from understudy.catalog import claims, jobs
from understudy.catalog.tables import JobRow
from understudy.quarantine import Quarantine
from understudy.records import JobKind
from understudy.store import quarantine_key


@pytest.fixture
def kept(sqlite_catalog, local_store):
    """A job that runs, and the first entry of it that was quarantined."""
    job = jobs.open_upload(sqlite_catalog, JobKind.INGEST, bucket="b", params={})
    jobs.received(sqlite_catalog, job.id, [])
    Quarantine(local_store, job.id).keep(3, b"bad")
    return job.id


def test_what_is_kept_has_a_limit_of_bytes_and_of_files(local_store):
    """What fits no more is left out, what follows and fits is kept; nothing is kept of nothing."""
    some = Quarantine(local_store, "job")
    large = bytes(quarantine.MAX_JOB_BYTES)
    assert [some.keep(n, data) for n, data in enumerate([b"", b"a", large, b"b"])] == [False, True, False, True]
    some.num_files = quarantine.MAX_JOB_FILES
    assert not some.keep(4, b"c")
    assert local_store.sizes("quarantine/") == {quarantine_key("job", 1): 1, quarantine_key("job", 3): 1}


def test_the_quarantine_of_a_job_is_swept_when_it_has_ended_long_ago(sqlite_catalog, local_store, kept):
    """Not while the job runs, nor soon after; that of a job that nobody knows at once."""
    local_store.put(quarantine_key("nobody", 0), b"x")
    quarantine.sweep(sqlite_catalog, local_store, older_than_s=-1)
    assert local_store.list("quarantine/") == [quarantine_key(kept, 3)]
    claim = claims.claim(sqlite_catalog, JobRow, kept, lease_s=60)
    with sqlite_catalog.write() as session:
        jobs.succeed(session, claim, {})
    quarantine.sweep(sqlite_catalog, local_store)
    assert local_store.list("quarantine/") == [quarantine_key(kept, 3)]
    quarantine.sweep(sqlite_catalog, local_store, older_than_s=-1)
    assert local_store.list("quarantine/") == []
