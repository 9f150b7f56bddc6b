"""Who holds what, what failed, and the map of shards, on both engines."""

from understudy.catalog import Catalog, claims, jobs, shards, work
from understudy.catalog.tables import LabelSetRow
from understudy.records import JobKind, Problem


def seal(catalog: Catalog, claimed_job, manifest_of, bucket: str, name: str) -> int:
    """A shard of one image; gives the id of the label set that is wanted for it, 0 if none is."""
    jobs.open_upload(catalog, JobKind.INGEST, bucket=bucket, params={})
    return shards.seal(catalog, claimed_job(), manifest_of([name], bucket=bucket), [0]).label_task or 0


def test_the_map_has_a_letter_a_shard_bucket_by_bucket(catalog, claimed_job, manifest_of, crown):
    """Done, failed, being labeled and waiting; a version that labels nothing has all of them wait."""
    crown("g0000-aaaaaa")
    done, failed, running = (seal(catalog, claimed_job, manifest_of, "shop", name) for name in "abc")
    seal(catalog, claimed_job, manifest_of, "attic", "d")
    first = claims.claim(catalog, LabelSetRow, done, lease_s=60)
    shards.publish_labels(catalog, first, key="labels/1.parquet", sha256="0" * 64, num_rows=1)
    second = claims.claim(catalog, LabelSetRow, failed, lease_s=60, max_attempts=1)
    claims.give_back(catalog, second, Problem(code=claims.WORKER_FAULT, detail="the disk burns"), max_attempts=1)
    claims.claim(catalog, LabelSetRow, running, lease_s=60)

    seen = work.shard_map(catalog, "g0000-aaaaaa", limit=10)
    assert [(strip.bucket, strip.states) for strip in seen.strips] == [("attic", "w"), ("shop", "dfr")]
    assert (seen.num_waiting, seen.num_running, seen.num_done, seen.num_failed, seen.next) == (1, 1, 1, 1, None)
    assert [s.states for s in work.shard_map(catalog, "g0000-aaaaaa", bucket="shop", limit=10).strips] == ["dfr"]
    assert work.shard_map(catalog, None, limit=10).num_waiting == 4

    (fault,) = work.label_faults(catalog, "g0000-aaaaaa", limit=10)
    assert (fault.bucket, fault.problem.detail, fault.num_images) == ("shop", "the disk burns", 1)
    assert work.label_faults(catalog, "g0001-bbbbbb", limit=10) == []


def test_the_parts_of_the_map_make_the_whole(catalog, claimed_job, manifest_of):
    """Whatever the size of a part; every part has the counts of all."""
    for bucket, name in zip("aabbb", "uvxyz", strict=True):
        seal(catalog, claimed_job, manifest_of, bucket, name)
    read, after = {"a": "", "b": ""}, None
    for _ in range(3):
        part = work.shard_map(catalog, None, after=after, limit=2)
        assert part.num_shards == 5
        for strip in part.strips:
            read[strip.bucket] += strip.states
        bucket, _, shard = (part.next or ":0").partition(":")
        after = (bucket, int(shard))
    assert part.next is None
    assert read == {"a": "ww", "b": "www"}


def test_who_holds_work_is_told_and_a_lapsed_lease_is_stalled(catalog, claimed_job, manifest_of, crown):
    """Jobs and label sets by their holder; what has ended is held by nobody."""
    crown("g0000-aaaaaa")
    label_set = seal(catalog, claimed_job, manifest_of, "shop", "a")
    claims.claim(catalog, LabelSetRow, label_set, lease_s=-5)
    job, label = work.holdings(catalog, limit=10)
    assert (job.kind, job.bucket, job.is_stalled, job.attempt) == ("ingest", "shop", False, 1)
    assert (label.kind, label.version, label.is_stalled) == ("label", "g0000-aaaaaa", True)
    assert job.owner == label.owner == claims.owner()
    assert label.lease_until < label.seen_at + 1
    assert [each.kind for each in work.holdings(catalog, limit=1)] == ["ingest"]
