"""A paused loop: nothing new is taken, what had begun goes on. On both engines."""

import threading

import pytest
from sqlalchemy import update

from understudy.catalog import Catalog, claims, generations, pausing, shards
from understudy.catalog.tables import JobRow
from understudy.records import GenerationRequest


@pytest.fixture
def waiting_shard(catalog, claimed_job, manifest_of, crown):
    """A shard that waits for the champion's labels."""
    crown("g0000-aaaaaa")
    return shards.seal(catalog, claimed_job(), manifest_of(["x"]), [0])


def is_paused(catalog):
    with catalog.read() as session:
        return pausing.is_paused(session)


def test_pausing_and_going_on_are_done_once(catalog):
    """The second call changes nothing, and says so."""
    assert not is_paused(catalog)
    assert [pausing.pause(catalog, reason, actor="me") for reason in ("first", "second")] == [True, False]
    assert is_paused(catalog)
    assert [pausing.resume(catalog) for _ in range(2)] == [True, False]
    assert not is_paused(catalog)


def test_no_label_set_is_taken_while_paused(catalog, waiting_shard):
    """It waits, and is taken when the loop goes on."""
    pausing.pause(catalog, "test", actor="me")
    assert shards.claim_labels(catalog, lease_s=60) is None
    pausing.resume(catalog)
    assert shards.claim_labels(catalog, lease_s=60).id == waiting_shard.label_task


def test_what_is_being_labeled_is_published_while_paused(catalog, waiting_shard):
    """A pause takes nothing away from whoever holds it."""
    claim = shards.claim_labels(catalog, lease_s=60)
    pausing.pause(catalog, "test", actor="me")
    claims.renew(catalog, claim)
    shards.publish_labels(catalog, claim, key="labels/x", sha256="0" * 64, num_rows=1)
    assert shards.label_progress(catalog, "g0000-aaaaaa").num_done == 1


def test_no_generation_is_begun_while_paused_but_one_that_had_begun_goes_on(catalog, labeled_set):
    """Also in another trainer, after the death of the first."""
    job = generations.open_generation(catalog, GenerationRequest()).job
    pausing.pause(catalog, "test", actor="me")
    assert generations.claim(catalog, lease_s=60) is None
    pausing.resume(catalog)
    assert generations.claim(catalog, lease_s=60).attempt == 1
    pausing.pause(catalog, "test", actor="me")
    with catalog.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job.id).values(lease_until=1.0))
    assert generations.claim(catalog, lease_s=60).attempt == 2


def test_nothing_is_taken_after_the_pause_was_answered(catalog, catalog_url, waiting_shard):
    """A pause waits for whoever is taking work at this moment."""
    order = []

    def pause():
        with_own = Catalog(catalog_url)
        pausing.pause(with_own, "test", actor="me")
        order.append("paused")
        with_own.close()

    with catalog.write() as session:
        assert not pausing.is_paused(session, is_taking=True)
        pausing_now = threading.Thread(target=pause)
        pausing_now.start()
        pausing_now.join(0.2)
        order.append("taken")
    pausing_now.join(30)
    assert order == ["taken", "paused"]
