"""Remote sources over a real S3 server and a real HTTPS server: what is new, once, whatever dies on the way."""

import itertools
import json
import os
from collections import Counter

import boto3
import pytest
from botocore.config import Config
from sqlalchemy import select

from understudy import shards
from understudy.catalog import jobs, sources
from understudy.catalog import shards as sealed
from understudy.catalog.tables import JobRow
from understudy.records import JobKind, JobState
from understudy.testing import picture
from worker import sources as source_jobs
from worker.unpack import unpack

GOOD = [picture(n % 3, 3, seed=n, size=8) for n in range(6)]
_prefixes = itertools.count()


@pytest.fixture
def bucket(s3_url):
    """A client of the S3 server, and a URL under which there is nothing yet."""
    return boto3.client(
        "s3",
        endpoint_url=os.environ["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        config=Config(retries={"mode": "standard"}),
    )


@pytest.fixture
def prefix():
    return f"source{next(_prefixes)}"


@pytest.fixture
def put(bucket, prefix):
    def put(name, data):
        bucket.put_object(Bucket="understudy", Key=f"{prefix}/{name}", Body=data)

    return put


def run_all(resources, job):
    """Run a sync and every job that it opened; gives how the sync ended, and they."""
    unpack(resources, job.id)
    done = jobs.get(resources.catalog, job.id)
    children = [] if done.result is None else list(done.result["jobs"])
    for child in children:
        unpack(resources, child)
    return done, [jobs.get(resources.catalog, child) for child in children]


def members(resources):
    listed = [shards.read_manifest(resources.store, s.key) for s in sealed.of_split(resources.catalog, "unlabeled")]
    return [member.sha256 for manifest in listed for member in manifest.members]


def test_a_prefix_is_taken_once_and_then_only_what_is_new(resources, put, prefix, pack_tar, receipt_of, rings):
    """Images, archives and what is neither, each in a receipt; the second sync finds nothing, the third what changed."""
    put("a.png", GOOD[0])
    put("b/c.tar", pack_tar({"1.png": GOOD[1], "2.png": GOOD[2], "again.png": GOOD[0]}))
    put("d.txt", b"no image")
    put("e.pkl", b"never fetched")
    put("._f.png", b"never fetched")
    put("folder/", b"")
    job = sources.add(resources.catalog, "photos", f"s3://understudy/{prefix}")
    done, (child,) = run_all(resources, job)
    assert done.result == {
        "source": job.params["source"], "listed": 6, "new": 6, "unchanged": 0, "underway": 0,
        "num_jobs": 1, "jobs": [child.id],
    }  # fmt: skip
    assert ("understudy.unpack", child.id) in rings
    assert (child.kind, child.state, child.bucket) == (JobKind.FETCH, JobState.SUCCEEDED, "photos")
    assert Counter((line.outcome.value, line.reason) for line in receipt_of(child)) == {
        ("accepted", None): 3, ("duplicate", None): 1, ("quarantined", "not_an_archive"): 1,
        ("quarantined", "empty"): 1, ("quarantined", "forbidden_type"): 1, ("quarantined", "not_an_image"): 1,
    }  # fmt: skip
    assert len(members(resources)) == 3
    assert resources.store.list("uploads/") == []
    assert sources.get(resources.catalog, job.params["source"]).objects.num_taken == 6

    done, children = run_all(resources, sources.sync(resources.catalog, job.params["source"]))
    assert (done.result["listed"], done.result["new"], done.result["unchanged"], children) == (6, 0, 6, [])

    put("a.png", GOOD[3])  # another image under a known key
    put("g.png", GOOD[4])
    done, (child,) = run_all(resources, sources.add(resources.catalog, "photos", f"s3://understudy/{prefix}"))
    assert (done.result["new"], done.result["unchanged"], child.result["accepted"]) == (2, 5, 2)
    assert len(members(resources)) == len(set(members(resources))) == 5


def test_a_single_object_and_an_empty_prefix(resources, put, prefix):
    """A key is itself, not a prefix of others; nothing at all is no fault."""
    put("a.png", GOOD[0])
    put("a.png.png", GOOD[1])
    done, (child,) = run_all(resources, sources.add(resources.catalog, "b", f"s3://understudy/{prefix}/a.png"))
    assert (done.result["listed"], child.result["accepted"]) == (1, 1)
    done, children = run_all(resources, sources.add(resources.catalog, "b", f"s3://understudy/{prefix}/none/"))
    assert (done.state, done.result["listed"], children) == (JobState.SUCCEEDED, 0, [])


def test_what_is_underway_or_failed_is_not_taken_for_done(resources, put, prefix):
    """Another sync leaves alone what a job has, and takes again what a job has failed with."""
    put("a.png", GOOD[0])
    job = sources.add(resources.catalog, "photos", f"s3://understudy/{prefix}/")
    assert sources.add(resources.catalog, "photos", f"s3://understudy/{prefix}/").id == job.id
    unpack(resources, job.id)
    (child,) = jobs.get(resources.catalog, job.id).result["jobs"]
    again = sources.sync(resources.catalog, job.params["source"])
    unpack(resources, again.id)
    result = jobs.get(resources.catalog, again.id).result
    assert (result["new"], result["underway"]) == (0, 1)
    with resources.catalog.write() as session:
        session.get_one(JobRow, child).state = JobState.FAILED
    assert sources.get(resources.catalog, job.params["source"]).objects.num_failed == 1
    done, (child,) = run_all(resources, sources.sync(resources.catalog, job.params["source"]))
    assert (done.result["new"], child.result["accepted"]) == (1, 1)


def test_an_object_that_is_gone_is_in_the_receipt_and_new_when_it_is_back(resources, bucket, put, prefix, receipt_of):
    """Listed, and deleted before it was fetched; the same bytes later have the same entity tag."""
    put("a.png", GOOD[0])
    put("b.png", GOOD[1])
    job = sources.add(resources.catalog, "photos", f"s3://understudy/{prefix}/")
    unpack(resources, job.id)
    (child,) = jobs.get(resources.catalog, job.id).result["jobs"]
    bucket.delete_object(Bucket="understudy", Key=f"{prefix}/a.png")
    unpack(resources, child)
    lines = receipt_of(jobs.get(resources.catalog, child))
    assert [(line.outcome.value, line.reason) for line in lines] == [
        ("quarantined", "source_missing"),
        ("accepted", None),
    ]
    put("a.png", GOOD[0])
    done, (child,) = run_all(resources, sources.sync(resources.catalog, job.params["source"]))
    assert (done.result["new"], done.result["unchanged"], child.result["accepted"]) == (1, 1, 1)


def test_killed_at_every_write_each_object_is_in_one_receipt(
    resources, put, prefix, run_with_fuse, lapse_leases, monkeypatch
):
    """Of the sync and of what it opened; run again, nothing is taken twice and nothing is left out."""
    monkeypatch.setattr(source_jobs, "PART_OBJECTS", 1)
    accepted = 0
    for num_writes in range(1, 100):
        put(f"{num_writes}.png", picture(num_writes % 3, 3, seed=100 + num_writes, size=8))
        job = sources.add(resources.catalog, "photos", f"s3://understudy/{prefix}/")
        is_killed = run_with_fuse(num_writes, lambda mortal: run_all(mortal, job))  # noqa: B023
        lapse_leases(resources.catalog)
        unpack(resources, job.id)
        done = jobs.get(resources.catalog, job.id)
        assert (done.state, done.result["new"], done.result["num_jobs"]) == (JobState.SUCCEEDED, 1, 1)
        unpack(resources, done.result["jobs"][0])
        child = jobs.get(resources.catalog, done.result["jobs"][0])
        assert (child.state, child.result["entries"], child.result["accepted"]) == (JobState.SUCCEEDED, 1, 1)
        accepted += 1
        if not is_killed:
            break
    assert not is_killed
    assert accepted > 10
    assert len(members(resources)) == len(set(members(resources))) == accepted
    with resources.catalog.read() as session:
        assert len(list(session.scalars(select(JobRow).where(JobRow.kind == JobKind.FETCH)))) == accepted


def test_a_large_listing_is_cut_into_jobs_and_resumed_where_it_was(resources, put, prefix, monkeypatch):
    """Each page is written down with its jobs; the next attempt lists from behind it."""
    monkeypatch.setattr(source_jobs, "PART_OBJECTS", 2)
    for n in range(5):
        put(f"{n}.png", GOOD[n])
    job = sources.add(resources.catalog, "photos", f"s3://understudy/{prefix}/")
    done, children = run_all(resources, job)
    assert [child.result["accepted"] for child in children] == [2, 2, 1]
    assert done.params["after"] == f"{prefix}/4.png"

    again = sources.sync(resources.catalog, job.params["source"])
    with resources.catalog.write() as session:  # as an attempt that died after its first page left it
        row = session.get_one(JobRow, again.id)
        row.params = row.params | {"after": f"{prefix}/2.png", "tally": {"listed": 3, "unchanged": 3}}
    done, _ = run_all(resources, again)
    assert (done.result["listed"], done.result["unchanged"]) == (5, 5)


def test_what_is_too_large_is_not_fetched_to_its_end(resources, put, prefix, pack_tar, receipt_of, monkeypatch):
    """What is no archive is bounded as an entry is, an archive by the setting."""
    monkeypatch.setattr(source_jobs.entries, "MAX_ENTRY_BYTES", 4000)
    put("a.bin", b"x" * 5000)
    put("b.tar", pack_tar({"1.png": GOOD[0]}))
    put("c.png", GOOD[1])
    _, (child,) = run_all(resources, sources.add(resources.catalog, "photos", f"s3://understudy/{prefix}/"))
    assert [line.reason for line in receipt_of(child)] == ["too_large", None, None]


def test_a_google_bucket_is_a_source_too(resources, bucket, prefix, tmp_path, monkeypatch):
    """By Google's XML interface, which the S3 server speaks well enough, and its own variables."""
    account = {
        "gcs_base_url": os.environ["AWS_ENDPOINT_URL"], "disable_oauth": True,
        "client_email": "", "private_key": "", "private_key_id": "",
    }  # fmt: skip
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    for name, data in (("a.png", GOOD[0]), ("b/c.png", GOOD[1])):  # nobody signs here, so all may read them
        bucket.put_object(Bucket="understudy", Key=f"{prefix}/{name}", Body=data, ACL="public-read")
    done, (child,) = run_all(resources, sources.add(resources.catalog, "photos", f"gs://understudy/{prefix}/"))
    assert (done.result["listed"], child.result["accepted"]) == (2, 2)
    done, _ = run_all(resources, sources.sync(resources.catalog, done.result["source"]))
    assert (done.result["new"], done.result["unchanged"]) == (0, 2)


def test_a_bucket_that_is_not_there_or_not_ours_fails_with_the_reason(resources, s3_url):
    """In our words, which name the bucket only."""
    done, _ = run_all(resources, sources.add(resources.catalog, "photos", "s3://no-such-bucket-here/x/"))
    assert (done.state, done.problem.code) == (JobState.FAILED, "source_missing")


def test_a_key_that_cannot_be_read_fails_the_sync_with_its_name(resources, put, prefix):
    """At once: another attempt would meet it again."""
    put("a//b.png", GOOD[0])
    done, _ = run_all(resources, sources.add(resources.catalog, "photos", f"s3://understudy/{prefix}/"))
    assert (done.state, done.problem.code) == (JobState.FAILED, "unreadable_key")
    assert f"{prefix}/a//b.png" in done.problem.detail


@pytest.mark.parametrize(
    "name", ["a b.png", "ü.png", "%41.png", "q?#&+.png", "[x]*~.png", "back\\slash.png", "'\".png"]
)
def test_awkward_keys_are_read_as_they_are(resources, put, prefix, name, receipt_of):
    """What is escaped on the way is not escaped in the receipt; synced again, it is known."""
    put(name, GOOD[0])
    done, (child,) = run_all(resources, sources.add(resources.catalog, "photos", f"s3://understudy/{prefix}/"))
    assert [(line.name, line.outcome.value) for line in receipt_of(child)] == [(f"{prefix}/{name}", "accepted")]
    done, _ = run_all(resources, sources.sync(resources.catalog, done.result["source"]))
    assert (done.result["new"], done.result["unchanged"]) == (0, 1)


def test_a_file_by_https_is_taken_once(resources, files, pack_zip, receipt_of, monkeypatch):
    """From a host that is allowed by name, with this machine's own authority; again only when it has changed."""
    monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
    url = f"https://localhost:{files.port}/photos.zip"
    files.answers["/photos.zip"] = (200, {"ETag": "one"}, pack_zip({"1.png": GOOD[0], "2.png": GOOD[1]}))
    refused, _ = run_all(resources, sources.add(resources.catalog, "photos", url))
    assert (refused.state, refused.problem.code) == (JobState.FAILED, "address_refused")
    assert files.asked == []

    resources.settings = resources.settings.model_copy(update={"allowed_sources": "localhost"})
    done, (child,) = run_all(resources, sources.add(resources.catalog, "photos", url))
    assert (done.result["new"], child.result["accepted"]) == (1, 2)
    done, children = run_all(resources, sources.add(resources.catalog, "photos", url))
    assert (done.result["new"], done.result["unchanged"], children) == (0, 1, [])
    files.answers["/photos.zip"] = (200, {"ETag": "two"}, pack_zip({"1.png": GOOD[0], "3.png": GOOD[2]}))
    done, (child,) = run_all(resources, sources.add(resources.catalog, "photos", url))
    assert (child.result["accepted"], child.result["duplicate"]) == (1, 1)


def test_a_source_that_is_away_is_asked_again_and_then_told_of(resources, files, lapse_leases, receipt_of, monkeypatch):
    """Three attempts; one object that never comes does not fail the others of its job."""
    monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
    resources.settings = resources.settings.model_copy(update={"allowed_sources": "localhost"})
    url = f"https://localhost:{files.port}/a.png"
    files.answers["/a.png"] = (200, {"ETag": "one"}, GOOD[0])
    job = sources.add(resources.catalog, "photos", url)
    unpack(resources, job.id)
    (child,) = jobs.get(resources.catalog, job.id).result["jobs"]
    files.answers["/a.png"] = (503, {}, b"")
    for state in (JobState.QUEUED, JobState.QUEUED, JobState.SUCCEEDED):
        unpack(resources, child)
        assert jobs.get(resources.catalog, child).state is state
        lapse_leases(resources.catalog)
    assert [line.reason for line in receipt_of(jobs.get(resources.catalog, child))] == ["source_away"]
    files.answers["/a.png"] = (200, {"ETag": "one"}, GOOD[0])
    done, (child,) = run_all(resources, sources.sync(resources.catalog, job.params["source"]))
    assert (done.result["new"], child.result["accepted"]) == (1, 1)
