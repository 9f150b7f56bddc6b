import hashlib
import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from understudy import messages, quarantine, registry, shards
from understudy.catalog import Catalog, claims, jobs, versions
from understudy.catalog import shards as sealed
from understudy.errors import Conflict
from understudy.records import JobKind, JobState, Outcome
from understudy.store import Store, quarantine_key
from understudy.testing import picture, tiny_artifact
from worker import reconcile
from worker.checkers import Checkers
from worker.resources import Resources
from worker.unpack import unpack

GOOD = [picture(n % 3, 3, seed=n, size=8) for n in range(6)]


def members(resources):
    """Every image of every shard that the catalog lists."""
    listed = [
        shards.read_manifest(resources.store, shard.key) for shard in sealed.of_split(resources.catalog, "unlabeled")
    ]
    return [member.sha256 for manifest in listed for member in manifest.members]


def test_an_upload_becomes_shards_and_a_receipt(resources, send, pack_zip, receipt_of):
    """Good images are sealed in shards of bounded size; the others are in the receipt with their reasons."""
    job = send(pack_zip({"a.png": GOOD[0], "b.png": GOOD[1], "c.png": GOOD[2], "again.png": GOOD[0], "d.txt": b"no"}))
    unpack(resources, job.id)

    done = jobs.get(resources.catalog, job.id)
    assert done.state is JobState.SUCCEEDED
    assert done.result | {"receipt_key": ""} == {
        "entries": 5, "accepted": 3, "duplicate": 1, "holdout-leak": 0, "quarantined": 1, "attached": 0,
        "reasons": {"not_an_image": 1}, "near_duplicates": 0, "receipt_key": "",
    }  # fmt: skip
    assert [(line.index, line.name, line.outcome.value, line.reason) for line in receipt_of(job)] == [
        (0, "a.png", "accepted", None),
        (1, "b.png", "accepted", None),
        (2, "c.png", "accepted", None),
        (3, "again.png", "duplicate", None),
        (4, "d.txt", "quarantined", "not_an_image"),
    ]
    assert [shard.num_images for shard in sealed.of_split(resources.catalog, "unlabeled")] == [2, 1]
    assert (done.step, done.done, done.total) == ("unpack", 5, 5)


def test_what_belongs_to_an_image_has_an_outcome_of_its_own(resources, send, pack_tar, receipt_of):
    """A WebDataset shard: the images are accepted, the rest is attached, and nothing is unpickled."""
    job = send(pack_tar({"1.png": GOOD[0], "1.cls": b"3", "1.pyd": b"cos\nsystem\n"}))
    unpack(resources, job.id)
    assert [(line.name, line.outcome.value, line.reason, line.detail) for line in receipt_of(job)] == [
        ("1.png", "accepted", None, None),
        ("1.cls", "attached", None, "it belongs to 1.png"),
        ("1.pyd", "quarantined", "forbidden_type", ".pyd files hold Python's pickles, which are never opened"),
    ]


def test_nothing_is_left_behind(resources, send, pack_tar):
    """Neither the upload, nor the spool's files."""
    job = send(pack_tar({"a.png": GOOD[0]}))
    unpack(resources, job.id)
    assert resources.store.list("uploads/") == []
    assert list(resources.settings.spool.iterdir()) == []


def test_an_image_of_another_job_is_a_duplicate(resources, send, pack_zip, receipt_of):
    """The receipt says where the first copy is."""
    first, second = send(GOOD[0], bucket="one"), send(pack_zip({"x.png": GOOD[0]}), bucket="two")
    for job in (first, second):
        unpack(resources, job.id)
    (line,) = receipt_of(second)
    assert line.outcome is Outcome.DUPLICATE
    assert first.id in line.detail


def test_indexes_run_on_over_several_uploads(resources, send, pack_tar, receipt_of):
    """One file that cannot be opened is one bad entry among others."""
    job = send(pack_tar({"a.png": GOOD[0], "b.png": GOOD[1]}), b"no image at all", GOOD[2])
    unpack(resources, job.id)
    assert [(line.index, line.name, line.reason) for line in receipt_of(job)] == [
        (0, "a.png", None), (1, "b.png", None), (2, "upload-1", "not_an_archive"), (3, "upload-2", None),
    ]  # fmt: skip


def test_an_upload_that_cannot_be_opened_fails_its_job(resources, send):
    """With the reason; nothing is sealed, and the upload is deleted."""
    job = send(b"Rar!\x1a\x07 and more")
    unpack(resources, job.id)
    done = jobs.get(resources.catalog, job.id)
    assert (done.state, done.problem.code) == (JobState.FAILED, "not_an_archive")
    assert resources.store.list("") == []


def test_a_shard_is_bounded_in_bytes_too(resources, send, pack_zip):
    """A shard is sealed before it would be too heavy."""
    light = resources.settings.model_copy(update={"shard_bytes": len(GOOD[0]) + 1})
    job = send(pack_zip({f"{n}.png": data for n, data in enumerate(GOOD[:3])}))
    unpack(Resources(resources.catalog, resources.store, light, resources.ring, resources.checkers), job.id)
    assert [shard.num_images for shard in sealed.of_split(resources.catalog, "unlabeled")] == [1, 1, 1]


def test_a_sealed_shard_rings_for_its_label_set(resources, send, rings, local_store, sqlite_catalog):
    """Only where there is a champion to label it."""
    unpack(resources, send(GOOD[0]).id)
    assert rings == []
    artifact, card = tiny_artifact(["a", "b"])
    registry.publish(local_store, sqlite_catalog, card, artifact, b"")
    with sqlite_catalog.write() as session:
        versions.promote(session, card.version, instead_of=None, reason="first", actor="test")
    unpack(resources, send(GOOD[1]).id)
    assert rings == [(messages.LABEL, 1)]


def test_a_fault_of_ours_gives_the_job_back(resources, send, lapse_leases):
    """Three times, with pauses; then it is failed with the fault, its bytes are kept, and it can be retried."""
    job, kept = send(GOOD[0], GOOD[1]), send(GOOD[2])
    gone = resources.store.list(f"uploads/{job.id}/")[0]
    data = resources.store.get(gone)
    resources.store.delete(gone)
    for state in (JobState.QUEUED, JobState.QUEUED, JobState.FAILED):
        unpack(resources, job.id)
        assert jobs.get(resources.catalog, job.id).state is state
        lapse_leases(resources.catalog)
    reconcile.sweep_uploads(resources.catalog, resources.store)
    assert len(resources.store.list(f"uploads/{job.id}/")) == 1
    assert len(resources.store.list(f"uploads/{kept.id}/")) == 1

    resources.store.put(gone, data)
    with pytest.raises(Conflict, match="queued"):
        jobs.retry(resources.catalog, kept.id)
    assert jobs.retry(resources.catalog, job.id).state is JobState.QUEUED
    unpack(resources, job.id)
    assert jobs.get(resources.catalog, job.id).state is JobState.SUCCEEDED
    assert resources.store.list(f"uploads/{job.id}/") == []


def test_a_full_disk_costs_time_and_not_the_upload(resources, send, lapse_leases):
    """However often: the work is not to blame, and is done when there is room again."""
    job = send(GOOD[0])
    spool = resources.settings.spool
    spool.mkdir(parents=True, exist_ok=True)
    spool.rename(spool.with_name("elsewhere"))
    spool.write_text("in the way: no folder can be made here, as on a full disk")
    for _ in range(5):
        unpack(resources, job.id)
        assert jobs.get(resources.catalog, job.id).state is JobState.QUEUED
        lapse_leases(resources.catalog)
    spool.unlink()
    unpack(resources, job.id)
    assert jobs.get(resources.catalog, job.id).state is JobState.SUCCEEDED


def test_what_failed_by_our_fault_says_so(resources, send, lapse_leases):
    """The problem names the fault."""
    job = send(GOOD[0])
    resources.store.delete(resources.store.list("uploads/")[0])
    for _ in range(claims.MAX_ATTEMPTS):
        unpack(resources, job.id)
        lapse_leases(resources.catalog)
    assert jobs.get(resources.catalog, job.id).problem.code == "worker_fault"


def test_a_job_of_another_kind_or_of_nobody_is_let_be(resources):
    """A message is only a hint."""
    unpack(resources, "no such job")
    generation = jobs.open_upload(resources.catalog, JobKind.GENERATION, params={})
    jobs.received(resources.catalog, generation.id, [])
    unpack(resources, generation.id)
    assert jobs.get(resources.catalog, generation.id).attempt == 0


FILES = {"a.png": GOOD[0], "b.png": GOOD[1], "bad": b"no", "a2.png": GOOD[0], "c.png": GOOD[2], "d.png": GOOD[3]}
#: More writes than the job makes; the last rounds prove that it ends before.
MOST_WRITES = 60


@pytest.mark.parametrize("num_writes", range(1, MOST_WRITES))
def test_killed_at_any_write_and_begun_again_it_gives_the_same_receipt(
    num_writes, resources, send, pack_tar, receipt_of, lapse_leases, run_with_fuse
):
    """Every accepted image is in exactly one shard, whatever the first attempt had done."""
    job = send(pack_tar(FILES))
    died = run_with_fuse(num_writes, lambda mortal: unpack(mortal, job.id))
    if died:
        lapse_leases(resources.catalog)
        unpack(resources, job.id)
    assert died or num_writes > 20

    outcomes = [line.outcome.value for line in receipt_of(job)]
    assert outcomes == ["accepted", "accepted", "quarantined", "duplicate", "accepted", "accepted"]
    assert receipt_of(job)[3].detail == "the same as entry 0 of this upload"
    assert sorted(members(resources)) == sorted(hashlib.sha256(image).hexdigest() for image in GOOD[:4])
    assert resources.store.list("uploads/") == [] or died


class _Race:
    """A store that lets another job go first, once, just before a shard is written."""

    def __init__(self, resources, other) -> None:
        self._store, self._other, self._is_over = resources.store, other, False

    def put(self, key, data):
        if key.startswith("shards/") and not self._is_over:
            self._is_over = True
            self._other()
        return self._store.put(key, data)

    def __getattr__(self, name):
        return getattr(self._store, name)


@pytest.mark.parametrize("num_shared", [1, 2])
def test_an_image_that_another_job_seals_meanwhile_becomes_a_duplicate(
    num_shared, resources, send, pack_zip, receipt_of
):
    """The shard is built again without it; two jobs with the same shard share no row."""
    mine = send(pack_zip({f"{n}.png": GOOD[n] for n in range(3)}))
    others = send(pack_zip({f"{n}.png": GOOD[n] for n in range(num_shared)}))
    race = _Race(resources, lambda: unpack(resources, others.id))
    unpack(Resources(resources.catalog, race, resources.settings, resources.ring, resources.checkers), mine.id)

    outcomes = [line.outcome.value for line in receipt_of(mine)]
    assert outcomes == ["duplicate"] * num_shared + ["accepted"] * (3 - num_shared)
    assert all(others.id in line.detail for line in receipt_of(mine)[:num_shared])
    assert sorted(members(resources)) == sorted(hashlib.sha256(image).hexdigest() for image in GOOD[:3])


ENTRIES = st.lists(st.sampled_from([*GOOD, b"", b"no image", GOOD[0][:40], b"PK\x03\x04"]), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=ENTRIES, second=ENTRIES, is_zip=st.booleans())
def test_receipts_sum_up_and_every_accepted_image_is_in_one_shard(
    first, second, is_zip, tmp_path_factory, worker_settings, pack_zip, pack_tar, send_to, checkers
):
    """Invariant 1, for any mix of good, bad and repeated entries over two jobs."""
    folder: Path = tmp_path_factory.mktemp("one")
    own = worker_settings.model_copy(
        update={"catalog_url": f"sqlite:///{folder / 'c.db'}", "store_url": (folder / "store").as_uri()}
    )
    catalog, store = Catalog(own.catalog_url), Store(own.store_url)
    resources = Resources(catalog, store, own, lambda task, work_id: None, checkers)
    resources.catalog.migrate()
    pack, accepted = pack_zip if is_zip else pack_tar, Counter()
    for contents in (first, second):
        job = send_to(resources, pack({f"{n}.png": data for n, data in enumerate(contents)}))
        unpack(resources, job.id)
        result = jobs.get(resources.catalog, job.id).result
        assert result["entries"] == len(contents)
        assert sum(result[outcome.value] for outcome in Outcome) == len(contents)
        assert sum(result["reasons"].values()) == result["quarantined"]
        accepted["images"] += result["accepted"]
    inside = members(resources)
    assert len(inside) == len(set(inside)) == accepted["images"]
    assert set(inside) == {hashlib.sha256(image).hexdigest() for image in {*first, *second} & set(GOOD)}
    catalog.close()


def test_two_jobs_at_once_seal_each_image_once(catalog, local_store, worker_settings, pack_zip, send_to):
    """On both databases, in threads of their own: the constraint decides, and nobody waits for ever."""

    def open_own() -> Resources:
        return Resources(
            Catalog(catalog._engine.url.render_as_string(hide_password=False)),
            local_store,
            worker_settings,
            lambda task, work_id: None,
            Checkers(1),
        )

    own = [open_own() for _ in range(3)]
    sent = [send_to(r, pack_zip({f"{n}.png": GOOD[(n + at) % 6] for n in range(6)})) for at, r in enumerate(own)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda pair: unpack(pair[0], pair[1].id), zip(own, sent, strict=True)))
    results = [jobs.get(catalog, job.id) for job in sent]
    assert [done.state for done in results] == [JobState.SUCCEEDED] * 3
    assert sum(done.result["accepted"] for done in results) == 6
    inside = members(own[0])
    assert len(inside) == len(set(inside)) == 6
    for each in own:
        each.close()


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz"])
def test_archives_are_read_from_any_store(
    mode, sqlite_catalog, store, worker_settings, pack_zip, pack_tar, send_to, checkers
):
    """In a folder and in a bucket, by ranges rather than as a whole."""
    resources = Resources(sqlite_catalog, store, worker_settings, lambda task, work_id: None, checkers)
    files = {f"{n}.png": data for n, data in enumerate(GOOD[:3])}
    job = send_to(resources, pack_zip(files) if mode == "zip" else pack_tar(files, mode))
    unpack(resources, job.id)
    assert jobs.get(resources.catalog, job.id).result["accepted"] == 3


def test_a_photo_with_a_preview_behind_it_is_a_jpeg(resources, send, receipt_of):
    """Many phones make them, and Pillow gives them a format of their own."""
    buffer, image = io.BytesIO(), Image.new("RGB", (8, 8))
    image.save(buffer, "MPO", save_all=True, append_images=[image])
    job = send(buffer.getvalue())
    unpack(resources, job.id)
    assert [line.outcome for line in receipt_of(job)] == [Outcome.ACCEPTED]


def test_what_is_quarantined_is_kept_and_can_be_tried_again(resources, send, pack_zip, receipt_of):
    """The bytes that were read, under the entry's index; the new job's receipt says what becomes of them now."""
    job = send(pack_zip({"a.png": GOOD[0], "bad.png": GOOD[1][:50], "../c.png": GOOD[2]}))
    unpack(resources, job.id)
    assert [line.outcome.value for line in receipt_of(job)] == ["accepted", "quarantined", "quarantined"]
    assert resources.store.get(quarantine_key(job.id, 1)) == GOOD[1][:50]
    again = quarantine.retry(resources.catalog, resources.store, job.id)
    unpack(resources, again.id)
    assert next(line.reason for line in receipt_of(again)) == "truncated"
    assert resources.store.exists(quarantine_key(job.id, 1))
