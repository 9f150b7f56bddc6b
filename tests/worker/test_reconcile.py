import threading

import pytest
from sqlalchemy import update

from understudy import messages, registry
from understudy.catalog import buckets, claims, generations, jobs, loop, pausing, shards, versions
from understudy.catalog.tables import GenerationRow, JobRow, LabelSetRow
from understudy.records import JobKind, JobState
from understudy.store import upload_key
from understudy.testing import picture, tiny_artifact
from worker import reconcile
from worker.label import label
from worker.unpack import unpack

GOOD = [picture(n, 3, seed=n, size=8) for n in range(3)]


@pytest.fixture
def reconcile_once(resources, app):
    return lambda: reconcile.reconcile(resources.catalog, resources.store, app, resources.settings)


def waiting(app):
    return messages.num_waiting(app, messages.UNPACK), messages.num_waiting(app, messages.LABEL)


def spend(resources, work, id, lapse_leases, times):
    for _ in range(times):
        assert claims.claim(resources.catalog, work, id, lease_s=60, max_attempts=100)
        lapse_leases(resources.catalog)


def test_a_job_that_nobody_was_told_of_is_rung_for_once(resources, send, app, reconcile_once):
    """An empty queue gets what waits; a queue that is not empty gets nothing more."""
    send(GOOD[0])
    send(GOOD[1])
    reconcile_once()
    assert waiting(app) == (2, 0)
    reconcile_once()
    assert waiting(app) == (2, 0)


def test_a_generation_is_not_rung_for(resources, app, reconcile_once):
    """Its job is the trainer's."""
    generation = jobs.open_upload(resources.catalog, JobKind.GENERATION, params={})
    jobs.received(resources.catalog, generation.id, [])
    reconcile_once()
    assert waiting(app) == (0, 0)


def test_shards_without_label_sets_get_them_wished_and_rung_for(resources, send, app, reconcile_once):
    """Also those that were sealed before there was a champion."""
    unpack(resources, send(GOOD[0]).id)
    artifact, card = tiny_artifact(["a", "b"])
    registry.publish(resources.store, resources.catalog, card, artifact, b"")
    with resources.catalog.write() as session:
        versions.promote(session, card.version, instead_of=None, reason="first", actor="test")
    reconcile_once()
    assert waiting(app) == (0, 1)
    assert shards.label_progress(resources.catalog, card.version).num_shards == 1


def test_a_paused_loop_is_not_rung_for_until_it_goes_on(resources, send, champion, app, reconcile_once):
    """Uploads are, whether it is paused or not."""
    unpack(resources, send(GOOD[0]).id)
    pausing.pause(resources.catalog, "test", actor="me")
    send(GOOD[1])
    reconcile_once()
    assert waiting(app) == (1, 0)
    pausing.resume(resources.catalog)
    reconcile_once()
    assert waiting(app) == (1, 1)


def test_the_loop_turns_by_itself_if_the_settings_say_so(resources, send, champion, app, teaching):
    """After so many newly labeled images; whoever asks is told after how many."""
    taught = teaching(resources.catalog, resources.store)
    taught.shard(None, GOOD[:1], "red")
    taught.label(taught.shard("photos", GOOD[1:]), [[1, 0, 0]] * 2)
    for after, opened in ((0, []), (3, []), (2, [0]), (2, [0])):
        chosen = resources.settings.model_copy(update={"generate_after": after})
        reconcile.reconcile(resources.catalog, resources.store, app, chosen)
        assert [turn.number for turn in generations.every(resources.catalog)] == opened
        assert loop.state(resources.catalog).generate_after == after


def test_work_that_killed_its_holders_is_set_aside(resources, send, reconcile_once, lapse_leases):
    """At three; a trainer may die more often."""
    job = send(GOOD[0])
    generation = jobs.open_upload(resources.catalog, JobKind.GENERATION, params={})
    jobs.received(resources.catalog, generation.id, [])
    spend(resources, JobRow, job.id, lapse_leases, claims.MAX_ATTEMPTS)
    spend(resources, JobRow, generation.id, lapse_leases, generations.MAX_ATTEMPTS - 1)
    reconcile_once()
    assert jobs.get(resources.catalog, job.id).problem.code == "gave_up"
    assert len(resources.store.list("uploads/")) == 1  # its bytes are kept for a retry
    assert jobs.get(resources.catalog, generation.id).state is JobState.RUNNING
    spend(resources, JobRow, generation.id, lapse_leases, 1)
    reconcile_once()
    assert jobs.get(resources.catalog, generation.id).state is JobState.FAILED


def test_an_upload_that_fell_silent_ends_its_job(resources, reconcile_once):
    """And its bytes go; one that still arrives is let be."""
    silent, alive = (jobs.open_upload(resources.catalog, JobKind.INGEST, bucket="b", params={}) for _ in range(2))
    for job in (silent, alive):
        resources.store.put(upload_key(job.id, 0), b"some")
    with resources.catalog.write() as session:
        long_ago = JobRow.updated_at - reconcile.UPLOAD_SILENCE_S - 1
        session.execute(update(JobRow).where(JobRow.id == silent.id).values(updated_at=long_ago))
    reconcile_once()
    assert jobs.get(resources.catalog, silent.id).problem.code == "upload_broken"
    assert jobs.get(resources.catalog, alive.id).state is JobState.RECEIVING
    assert resources.store.list("uploads/") == [upload_key(alive.id, 0)]


def test_uploads_of_nobody_are_swept(resources, send, reconcile_once):
    """A job is in the catalog before its first byte, so what has none is an orphan."""
    job = send(GOOD[0])
    resources.store.put(upload_key("0" * 20, 0), b"orphan")
    reconcile_once()
    assert resources.store.list("uploads/") == [upload_key(job.id, 0)]


def test_without_redis_the_rest_is_done(resources, send, tmp_path, caplog, lapse_leases):
    """Nobody is rung, and the log says so."""
    poisoned = send(GOOD[0])
    spend(resources, JobRow, poisoned.id, lapse_leases, claims.MAX_ATTEMPTS)
    away = messages.celery_app(f"redis+socket://{tmp_path / 'nobody.sock'}")
    reconcile.reconcile(resources.catalog, resources.store, away, resources.settings)
    assert jobs.get(resources.catalog, poisoned.id).state is JobState.FAILED
    assert "the queue is away" in caplog.text


def test_the_loop_ends_when_it_is_told_to(resources, app):
    """At once, in the middle of its pause."""
    stopped = threading.Event()
    settings = resources.settings.model_copy(update={"reconcile_s": 600.0})
    loop = threading.Thread(
        target=reconcile.run, args=(resources.catalog, resources.store, app, settings, stopped), daemon=True
    )
    loop.start()
    stopped.set()
    loop.join(20)
    assert not loop.is_alive()


def test_no_more_rings_than_workers_can_hear(resources, send, app, reconcile_once, monkeypatch):
    """The rest is rung for in later rounds."""
    monkeypatch.setattr(reconcile, "MAX_RINGS", 1)
    send(GOOD[0])
    send(GOOD[1])
    reconcile_once()
    assert waiting(app)[0] == 1


def test_a_label_set_that_killed_its_workers_is_set_aside(resources, send, reconcile_once, lapse_leases):
    """So that one poisoned shard does not stop the others."""
    artifact, card = tiny_artifact(["a", "b"])
    registry.publish(resources.store, resources.catalog, card, artifact, b"")
    with resources.catalog.write() as session:
        versions.promote(session, card.version, instead_of=None, reason="first", actor="test")
    unpack(resources, send(GOOD[0]).id)
    spend(resources, LabelSetRow, 1, lapse_leases, shards.LABEL_ATTEMPTS)
    reconcile_once()
    assert shards.label_progress(resources.catalog, card.version).num_failed == 1


@pytest.fixture
def crown(resources):
    """Publishes a model that is sure by so much, and makes it the champion."""

    def make(sharpness):
        artifact, card = tiny_artifact(["a", "b"], sharpness=sharpness)
        registry.publish(resources.store, resources.catalog, card, artifact, b"")
        before = versions.champion(resources.catalog)
        with resources.catalog.write() as session:
            instead_of = before.version if before else None
            versions.promote(session, card.version, instead_of=instead_of, reason="test", actor="test")
        return card.version

    return make


def test_old_teachers_label_sets_are_kept_or_deleted_as_the_settings_say(resources, send, reconcile_once, crown):
    """Rows first, then objects; what a death between the two left behind goes at the next start."""
    unpack(resources, send(GOOD[0]).id)
    teachers = []
    for sharpness in (10.0, 9.0, 8.0):
        teachers.append(crown(sharpness))
        reconcile_once()
        label(resources, 0)
    sets = [shards.published_labels(resources.catalog, teacher) for teacher in teachers]
    assert [len(each) for each in sets] == [1, 1, 1]  # by default all are kept

    reconcile.sweep_labels(resources.catalog, resources.store, keep_teachers=2)
    left = [shards.published_labels(resources.catalog, teacher) for teacher in teachers]
    assert left == [[], sets[1], sets[2]]
    assert sorted(resources.store.list("labels/")) == sorted(each[0].key for each in sets[1:])

    shards.forget_labels(resources.catalog, teachers[1])  # and then it died
    reconcile.sweep_labels(resources.catalog, resources.store, keep_teachers=1)
    assert len(resources.store.list("labels/")) == 2
    reconcile.sweep_labels(resources.catalog, resources.store, keep_teachers=1, is_thorough=True)
    assert resources.store.list("labels/") == [sets[2][0].key]


def test_nothing_is_deleted_while_a_generation_is_under_way(resources, send, reconcile_once, crown):
    """It may be reading them."""
    unpack(resources, send(GOOD[0]).id)
    old = crown(10.0)
    reconcile_once()
    label(resources, 0)
    crown(9.0)
    job = jobs.open_upload(resources.catalog, JobKind.GENERATION, params={})
    jobs.received(resources.catalog, job.id, [])
    with resources.catalog.write() as session:
        row = GenerationRow(number=0, state="queued", request={}, teacher=old, job_id=job.id, created_at=0.0)
        session.add(row)
    assert shards.retired_teachers(resources.catalog, keep=1) == []
    claims.claim(resources.catalog, JobRow, job.id, lease_s=60)
    assert shards.retired_teachers(resources.catalog, keep=1) == []
    with resources.catalog.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job.id).values(state=JobState.SUCCEEDED))
    assert shards.retired_teachers(resources.catalog, keep=1) == [old]


def test_nothing_is_left_of_a_deleted_bucket(resources, send, app, champion, reconcile_once):
    """Shards, manifests and label sets go, those of another bucket of the same beginning stay."""
    for bucket, image in (("b", GOOD[0]), ("b2", GOOD[1])):
        unpack(resources, send(image, bucket=bucket).id)
    reconcile_once()
    for label_set in claims.overdue(resources.catalog, LabelSetRow, limit=9):
        label(resources, label_set)
    of_b2 = [key for key in resources.store.list("") if "/b2@" in key]
    assert len(of_b2) == 3  # tar, manifest, label set

    buckets.delete_bucket(resources.catalog, "b", actor="test")
    reconcile_once()

    left = [key for key in resources.store.list("") if key.startswith(("shards/", "labels/"))]
    assert sorted(left) == sorted(of_b2)
    assert [b.name for b in shards.buckets(resources.catalog)] == ["b2"]


def test_a_bucket_deleted_while_it_is_labeled_leaves_no_label_set(resources, send, app, champion, reconcile_once):
    """The worker publishes nothing, and the object that it wrote is gone."""
    unpack(resources, send(GOOD[0], bucket="b").id)
    (wanted,) = claims.overdue(resources.catalog, LabelSetRow, limit=9)

    def delete_then_engine(version):
        buckets.delete_bucket(resources.catalog, "b", actor="test")
        return type(resources).engine(resources, version)

    resources.engine = delete_then_engine
    label(resources, wanted)

    assert resources.store.list("labels/") == []
    assert shards.published_labels(resources.catalog, champion.version) == []
