"""Deleting a bucket, on both engines: what goes, what stays, and that nothing comes back."""

from collections.abc import Callable

import pytest

from understudy.catalog import Catalog, buckets, claims, jobs, shards
from understudy.catalog.claims import Claim
from understudy.catalog.tables import JobRow, LabelSetRow
from understudy.errors import Conflict, LeaseLost, NotFound
from understudy.records import Job, JobKind, JobState, ShardManifest, ShardMember


def manifest_of(catalog: Catalog, bucket: str, *sha256s: str) -> ShardManifest:
    members = tuple(
        ShardMember(sha256=each * 64, name="a", offset=512, num_bytes=1, width=1, height=1, format="PNG")
        for each in sha256s
    )
    key = f"shards/{buckets.folder(catalog, bucket)}/{''.join(sha256s)}.tar"
    return ShardManifest(key=key, sha256="0" * 64, num_bytes=10, split="unlabeled", bucket=bucket, members=members)


def working(catalog: Catalog, bucket: str) -> tuple[Job, Claim]:
    """An ingest job that a worker holds."""
    job = jobs.received(catalog, jobs.open_upload(catalog, JobKind.INGEST, bucket=bucket, params={}).id, [])
    claim = claims.claim(catalog, JobRow, job.id, lease_s=60)
    assert claim is not None
    return job, claim


def test_a_bucket_goes_while_it_is_being_ingested_and_does_not_come_back(catalog: Catalog):
    """The worker's next seal writes nothing, its job is told, and the other bucket is as it was."""
    job, claim = working(catalog, "b")
    _, other = working(catalog, "other")
    shards.seal(catalog, claim, manifest_of(catalog, "b", "1", "2"), [0, 1])
    shards.seal(catalog, other, manifest_of(catalog, "other", "3"), [0])
    late = manifest_of(catalog, "b", "4")

    removed = buckets.delete_bucket(catalog, "b", actor="test")

    assert (removed.num_images, removed.num_shards, removed.num_bytes, removed.num_jobs) == (2, 1, 10, 1)
    with pytest.raises(LeaseLost):
        shards.seal(catalog, claim, late, [2])
    ended = jobs.get(catalog, job.id)
    assert (ended.state, ended.problem and ended.problem.code) == (JobState.FAILED, "bucket_deleted")
    assert claims.claim(catalog, JobRow, job.id, lease_s=60) is None
    with pytest.raises(Conflict):
        jobs.retry(catalog, job.id)
    assert set(shards.known(catalog, [each * 64 for each in "1234"])) == {"3" * 64}
    assert [(b.name, b.num_images) for b in shards.buckets(catalog)] == [("other", 1)]
    with pytest.raises(NotFound):
        buckets.delete_bucket(catalog, "b", actor="test")


def test_a_bucket_made_again_shares_nothing_with_the_first(catalog: Catalog):
    """The same images are new, and lie elsewhere: the sweep of the first takes nothing of the second."""
    _, claim = working(catalog, "b")
    first = manifest_of(catalog, "b", "1")
    shards.seal(catalog, claim, first, [0])
    buckets.delete_bucket(catalog, "b", actor="test")
    _, claim = working(catalog, "b")
    second = manifest_of(catalog, "b", "1")
    shards.seal(catalog, claim, second, [0])
    (recall,) = buckets.unswept(catalog)
    assert first.key.startswith(f"shards/{recall.folder}/")
    assert not second.key.startswith(f"shards/{recall.folder}/")
    buckets.swept(catalog, recall)
    assert buckets.unswept(catalog) == [recall]  # a worker that wakes up late may write there still
    buckets.swept(catalog, recall, after_s=-1)
    assert buckets.unswept(catalog) == []


def test_looking_removes_nothing(catalog: Catalog):
    """The extent is the same before and after."""
    _, claim = working(catalog, "b")
    shards.seal(catalog, claim, manifest_of(catalog, "b", "1"), [0])
    assert buckets.extent(catalog, "b") == buckets.extent(catalog, "b")
    with pytest.raises(NotFound):
        buckets.extent(catalog, "none")


def test_a_label_set_of_a_deleted_bucket_is_published_under_no_others_name(
    catalog: Catalog, crown: Callable[[str], None]
):
    """The late worker's id belongs to nobody, though another label set was wanted meanwhile."""
    crown("g0000-aaaaaa")
    _, claim = working(catalog, "b")
    first = shards.seal(catalog, claim, manifest_of(catalog, "b", "1"), [0]).label_task
    assert first is not None
    late = claims.claim(catalog, LabelSetRow, first, lease_s=60)
    assert late is not None
    buckets.delete_bucket(catalog, "b", actor="test")
    _, claim = working(catalog, "c")
    second = shards.seal(catalog, claim, manifest_of(catalog, "c", "2"), [0]).label_task
    assert second is not None
    assert claims.claim(catalog, LabelSetRow, second, lease_s=60) is not None
    with pytest.raises(LeaseLost):
        shards.publish_labels(catalog, late, key="labels/late", sha256="0" * 64, num_rows=1)
    assert shards.label_task(catalog, second).key is None
