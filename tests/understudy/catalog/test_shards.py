"""Sealed shards, the label sets wanted for them, and what is counted, on both engines."""

import hashlib
import threading
from contextlib import suppress

import pytest
from sqlalchemy import func, select, update

from understudy.catalog import Catalog, claims, fingerprints, shards
from understudy.catalog.database import insert_or_ignore, now
from understudy.catalog.shards import AlreadyThere
from understudy.catalog.tables import BucketRow, ImageRow, JobRow, LabelSetRow, ShardRow
from understudy.errors import LeaseLost, NotFound
from understudy.records import Problem


def sha256(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def num_rows(catalog, table) -> int:
    with catalog.read() as session:
        return session.scalar(select(func.count()).select_from(table))


def publish(catalog, task_id: int, num_rows: int = 1) -> None:
    claim = claims.claim(catalog, LabelSetRow, task_id, lease_s=60)
    shards.publish_labels(catalog, claim, key=f"labels/{task_id}.parquet", sha256="0" * 64, num_rows=num_rows)


def test_a_sealed_shards_images_are_known(catalog, claimed_job, manifest_of):
    """After the seal the catalog tells of every image which job and entry brought it."""
    claim = claimed_job()

    sealed = shards.seal(catalog, claim, manifest_of(["a", "b"]), [4, 7])

    known = shards.known(catalog, [sha256("a"), sha256("b"), sha256("never seen")])
    assert {k: (v.split, v.job_id, v.entry) for k, v in known.items()} == {
        sha256("a"): ("unlabeled", claim.id, 4),
        sha256("b"): ("unlabeled", claim.id, 7),
    }
    assert [s.id for s in shards.of_split(catalog, "unlabeled", "shop")] == [sealed.shard_id]


def test_a_shard_with_one_known_image_is_not_sealed_at_all(catalog, claimed_job, manifest_of):
    """AlreadyThere names the images that are elsewhere, and nothing of the shard is written."""
    shards.seal(catalog, claimed_job(), manifest_of(["a", "b"]), [0, 1])

    with pytest.raises(AlreadyThere) as refusal:
        shards.seal(catalog, claimed_job(), manifest_of(["b", "c"]), [0, 1])

    assert refusal.value.sha256s == {sha256("b")}
    assert num_rows(catalog, ShardRow) == 1
    assert num_rows(catalog, ImageRow) == 2


def test_the_same_shard_twice_is_already_there(catalog, claimed_job, manifest_of):
    """Two jobs that were sent the same images make the same object; the second is told that all are there."""
    shards.seal(catalog, claimed_job(), manifest_of(["a", "b"]), [0, 1])

    with pytest.raises(AlreadyThere) as refusal:
        shards.seal(catalog, claimed_job(), manifest_of(["a", "b"]), [0, 1])

    assert refusal.value.sha256s == {sha256("a"), sha256("b")}
    assert num_rows(catalog, ShardRow) == 1


def test_no_copy_slips_past_a_holdout_that_is_sealed_at_the_same_moment(
    catalog, claimed_job, manifest_of, in_threads, monkeypatch
):
    """A bucket's image that resembles a holdout image is marked, whichever of the two transactions ends first."""
    both_written = threading.Barrier(2)
    insert = fingerprints.insert

    def insert_and_wait(*args, **kwargs):
        insert(*args, **kwargs)
        with suppress(threading.BrokenBarrierError):  # the other one waits for our end: it comes later
            both_written.wait(0.5)

    monkeypatch.setattr(fingerprints, "insert", insert_and_wait)
    jobs = [claimed_job(), claimed_job()]
    manifests = [manifest_of(["h"], split="holdout", bucket=None), manifest_of(["u"])]
    prints = {sha256("h"): fingerprints.Known(bytes(35)), sha256("u"): fingerprints.Known(bytes(34) + b"\x01")}

    def seal(number: int) -> object:
        name = manifests[number].members[0].sha256
        return shards.seal(catalog, jobs[number], manifests[number], [0], {name: prints[name]})

    assert [type(each) for each in in_threads(seal, 2)] == [shards.Sealed] * 2
    assert shards.human_labeled(catalog) == {sha256("h"), sha256("u")}


def test_a_late_worker_cannot_seal(catalog, claimed_job, manifest_of):
    """A worker whose job was taken over writes neither shard nor images."""
    late = claimed_job()
    with catalog.write() as session:
        session.execute(update(JobRow).where(JobRow.id == late.id).values(lease_until=now() - 1))
    claims.claim(catalog, JobRow, late.id, lease_s=60)

    with pytest.raises(LeaseLost):
        shards.seal(catalog, late, manifest_of(["a"]), [0])

    assert num_rows(catalog, ShardRow) == 0
    assert shards.known(catalog, [sha256("a")]) == {}


def test_racing_sealers_put_every_image_into_exactly_one_shard(catalog, claimed_job, manifest_of, in_threads):
    """Jobs that bring overlapping images in opposite orders at one moment: each image is sealed once, no deadlock."""
    names = [f"image{n}" for n in range(3000)]
    claims_held = [claimed_job() for _ in range(6)]

    def ingest(number: int) -> set[str]:
        mine = names[:2000] if number % 2 else names[:999:-1]  # every job overlaps with every other
        left = list(mine)
        while left:
            try:
                shards.seal(catalog, claims_held[number], manifest_of(left), list(range(len(left))))
                return set(left)
            except AlreadyThere as refusal:
                left = [name for name in left if sha256(name) not in refusal.sha256s]
        return set()

    answers = in_threads(ingest, len(claims_held))

    assert [a for a in answers if isinstance(a, Exception)] == []
    assert sorted(name for answer in answers for name in answer) == sorted(names)
    assert num_rows(catalog, ImageRow) == len(names)


def test_a_human_label_outranks(catalog, claimed_job, manifest_of):
    """Of an image that is in a bucket and in the holdout, the holdout is told."""
    shards.seal(catalog, claimed_job(), manifest_of(["a"]), [0])
    shards.seal(catalog, claimed_job(), manifest_of(["a", "b"], split="holdout", bucket=None), [0, 1])

    assert shards.known(catalog, [sha256("a")])[sha256("a")].split == "holdout"
    assert shards.human_labeled(catalog) == {sha256("a"), sha256("b")}
    assert shards.class_counts(catalog, "holdout") == {"a": 1, "b": 1}


def test_many_images_fit_one_shard(catalog, claimed_job, manifest_of):
    """A shard of more images than one SQL statement takes is sealed and found again."""
    names = [str(n) for n in range(shards.ROWS_PER_STATEMENT + 1)]

    shards.seal(catalog, claimed_job(), manifest_of(names, split="labeled", bucket=None), list(range(len(names))))

    assert len(shards.known(catalog, [sha256(name) for name in names])) == len(names)


def test_without_a_champion_no_label_set_is_wanted(catalog, claimed_job, manifest_of):
    """Shards that arrive before the first teacher wait for it."""
    assert shards.seal(catalog, claimed_job(), manifest_of(["a"]), [0]).label_task is None
    assert shards.want_labels(catalog) == []


def test_a_shard_sealed_under_a_champion_is_wanted_labeled(catalog, claimed_job, manifest_of, crown):
    """The wish for the label set is in the same transaction as the shard."""
    crown("g0000-aaaaaa")

    sealed = shards.seal(catalog, claimed_job(), manifest_of(["a", "b"]), [0, 1])

    task = shards.label_task(catalog, sealed.label_task)
    assert (task.shard.id, task.version, task.attempt, task.key) == (sealed.shard_id, "g0000-aaaaaa", 0, None)
    assert shards.want_labels(catalog) == []


def test_labeled_images_are_not_labeled_again(catalog, claimed_job, manifest_of, crown):
    """No teacher labels what a human labeled."""
    crown("g0000-aaaaaa")
    manifest = manifest_of(["a", "b"], split="labeled", bucket=None)

    assert shards.seal(catalog, claimed_job(), manifest, [0, 1]).label_task is None
    assert shards.want_labels(catalog) == []


def test_a_new_champion_is_asked_for_every_shard_once(catalog, claimed_job, manifest_of, crown):
    """Asking twice asks once; the label sets of the champion before remain."""
    for name in "abc":
        shards.seal(catalog, claimed_job(), manifest_of([name]), [0])
    crown("g0000-aaaaaa")
    assert len(shards.want_labels(catalog, limit=2)) == 2
    assert len(shards.want_labels(catalog)) == 1
    assert shards.want_labels(catalog) == []

    crown("g0001-bbbbbb")

    assert len(shards.want_labels(catalog)) == 3
    assert num_rows(catalog, LabelSetRow) == 6


def test_reconcilers_that_ask_at_once_ask_once(catalog, claimed_job, manifest_of, crown, in_threads):
    """Every shard has one wish for one teacher, however many processes see that it is missing."""
    for number in range(20):
        shards.seal(catalog, claimed_job(), manifest_of([f"image{number}"]), [0])
    crown("g0000-aaaaaa")

    answers = in_threads(lambda _: shards.want_labels(catalog), 6)

    assert [a for a in answers if isinstance(a, Exception)] == []
    assert len({task_id for answer in answers for task_id in answer}) == sum(map(len, answers)) == 20


def test_a_label_set_is_published_once(catalog, claimed_job, manifest_of, crown):
    """The first result under the newest attempt is the label set; a repeated worker changes nothing."""
    crown("g0000-aaaaaa")
    task_id = shards.seal(catalog, claimed_job(), manifest_of(["a", "b"]), [0, 1]).label_task
    claim = claims.claim(catalog, LabelSetRow, task_id, lease_s=60)
    shards.publish_labels(catalog, claim, key="first", sha256="0" * 64, num_rows=2)

    with pytest.raises(LeaseLost):
        shards.publish_labels(catalog, claim, key="second", sha256="1" * 64, num_rows=2)

    (published,) = shards.published_labels(catalog, "g0000-aaaaaa")
    assert (published.id, published.key, published.num_rows, published.attempt) == (task_id, "first", 2, 1)


def test_progress_counts_all_shards_of_all_buckets(catalog, claimed_job, manifest_of, crown):
    """Done, failed and not even wanted label sets are told apart, in shards and in images."""
    shards.seal(catalog, claimed_job(), manifest_of(["early"]), [0])
    crown("g0000-aaaaaa")
    done = shards.seal(catalog, claimed_job(), manifest_of(["a", "b", "c"]), [0, 1, 2]).label_task
    failed = shards.seal(catalog, claimed_job(), manifest_of(["d", "e"]), [0, 1]).label_task
    shards.seal(catalog, claimed_job(), manifest_of(["human"], split="labeled", bucket=None), [0])
    publish(catalog, done, num_rows=3)
    claim = claims.claim(catalog, LabelSetRow, failed, lease_s=60)
    claims.give_back(catalog, claim, Problem(code="fault", detail="fault"), max_attempts=1)

    progress = shards.label_progress(catalog, "g0000-aaaaaa")

    assert (progress.num_shards, progress.num_done, progress.num_failed) == (3, 1, 1)
    assert (progress.num_images, progress.num_images_done) == (6, 3)


def test_buckets_tell_what_they_hold_and_what_the_champion_has_labeled(catalog, claimed_job, manifest_of, crown):
    """Every bucket is listed by name with its counts; labels of an older champion do not count."""
    crown("g0000-aaaaaa")
    first = shards.seal(catalog, claimed_job(), manifest_of(["a", "b"]), [0, 1])
    second = shards.seal(catalog, claimed_job(), manifest_of(["c"]), [0])
    publish(catalog, first.label_task, num_rows=2)
    publish(catalog, second.label_task, num_rows=1)
    crown("g0001-bbbbbb")
    publish(catalog, shards.want_labels(catalog)[0], num_rows=2)

    (bucket,) = shards.buckets(catalog)

    assert (bucket.name, bucket.num_shards, bucket.num_images) == ("shop", 2, 3)
    assert (bucket.num_bytes, bucket.num_images_labeled) == (20480, 2)


def test_an_unknown_label_set_is_not_found(catalog):
    """Asking for a label set that was never wanted says NotFound."""
    with pytest.raises(NotFound, match="12345"):
        shards.label_task(catalog, 12345)


def labels_claimed(catalog):
    """The buckets and versions in the order in which label sets are claimed."""
    order = []
    while (claim := shards.claim_labels(catalog, lease_s=60)) is not None:
        task = shards.label_task(catalog, claim.id)
        order.append((task.shard.bucket, task.version))
        shards.publish_labels(catalog, claim, key=f"labels/{claim.id}", sha256="0" * 64, num_rows=1)
    return order


def test_buckets_take_turns_and_new_uploads_come_first(catalog, claimed_job, manifest_of, crown):
    """The smallest is done soonest, whoever came first; what an earlier teacher has labeled waits for what none has."""
    crown("g0000-aaaaaa")
    with catalog.write() as session:
        session.execute(insert_or_ignore(session, BucketRow).values(name="small", created_at=0.0))
    for name in ("a", "b", "c"):
        shards.seal(catalog, claimed_job(), manifest_of([name]), [0])
    shards.seal(catalog, claimed_job(), manifest_of(["d"], bucket="small"), [0])
    assert [bucket for bucket, _ in labels_claimed(catalog)] == ["shop", "small", "shop", "shop"]

    crown("g0001-bbbbbb")
    shards.want_labels(catalog)
    shards.seal(catalog, claimed_job(), manifest_of(["e"]), [0])  # sent after all the rest was asked for again
    order = labels_claimed(catalog)
    assert [bucket for bucket, _ in order] == ["shop", "small", "shop", "shop", "shop"]
    assert shards.label_progress(catalog, "g0001-bbbbbb").num_done == 5


def test_workers_that_claim_at_once_never_get_the_same(
    catalog, catalog_url, claimed_job, manifest_of, crown, in_threads
):
    """And all is claimed."""
    crown("g0000-aaaaaa")
    for number in range(12):
        shards.seal(catalog, claimed_job(), manifest_of([f"x{number}"]), [0])

    def work(number):
        mine = Catalog(catalog_url)
        try:
            claimed = []
            while (claim := shards.claim_labels(mine, lease_s=60)) is not None:
                claimed.append(claim.id)
            return claimed
        finally:
            mine.close()

    claimed = [id for ids in in_threads(work, 4) for id in ids]
    while (claim := shards.claim_labels(catalog, lease_s=60)) is not None:  # passed over while another looked at it
        claimed.append(claim.id)
    assert len(claimed) == len(set(claimed)) == 12
