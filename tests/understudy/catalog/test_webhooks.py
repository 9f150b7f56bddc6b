"""Webhooks and what waits for them: claimed by one, tried again, given up, sent again by hand. On both engines."""

import pytest
from sqlalchemy import select, update

from understudy.catalog import claims, events, webhooks
from understudy.catalog.database import now
from understudy.catalog.tables import DeliveryRow, WebhookRow
from understudy.errors import LeaseLost, NotFound
from understudy.records import DeliveryAttempt, JobState, WebhookEvent

GOOD = DeliveryAttempt(at=1.0, status=200, ms=3, answer="ok", problem=None)
BAD = DeliveryAttempt(at=1.0, status=500, ms=3, answer="no", problem="it answered 500")


@pytest.fixture
def hook(catalog):
    return webhooks.add(catalog, url="https://example.com/?token=t", events=(WebhookEvent.ALARM,), actor="me")


@pytest.fixture
def alarm(catalog, hook):
    """Something happens; gives the id of its delivery."""

    def happen(subject="x"):
        with catalog.write() as session:
            events.alarm(session, "test", subject, "look")
            return session.scalar(select(DeliveryRow.id).order_by(DeliveryRow.id.desc()).limit(1))

    return happen


def lapse(catalog):
    with catalog.write() as session:
        session.execute(update(DeliveryRow).where(DeliveryRow.lease_until.is_not(None)).values(lease_until=1.0))


def test_a_secret_is_given_once(catalog, hook):
    """It is in no record of the webhook after that, nor in the text of what is sent."""
    assert hook.secret.startswith("whsec_")
    listed = webhooks.every(catalog)
    assert [each.id for each in listed] == [hook.id]
    assert hook.secret not in "".join(each.model_dump_json() for each in [*listed, webhooks.get(catalog, hook.id)])
    webhooks.ping(catalog, hook.id)
    assert hook.secret not in repr(webhooks.take(catalog, hook.id))


def test_a_delivery_is_taken_by_one_and_the_oldest_first(catalog, hook, alarm, in_threads):
    """While one is being sent, the webhook is sent nothing else."""
    first, second = alarm("a"), alarm("b")
    assert webhooks.due(catalog) == [hook.id]
    taken = [each for each in in_threads(lambda _: webhooks.take(catalog, hook.id), 4) if each is not None]
    assert [each.claim.id for each in taken] == [first]
    assert webhooks.answered(catalog, taken[0].claim, GOOD, pause_s=5) is JobState.SUCCEEDED
    assert webhooks.take(catalog, hook.id).claim.id == second


def test_what_is_not_taken_is_tried_again_after_a_pause_and_then_given_up(catalog, hook, alarm):
    """Each attempt is kept with its answer; what comes later does not wait for it."""
    failing = alarm()
    for number in range(1, webhooks.MAX_ATTEMPTS + 1):
        sending = webhooks.take(catalog, hook.id)
        state = webhooks.answered(catalog, sending.claim, BAD, pause_s=1000.0)
        kept = webhooks.delivery(catalog, hook.id, failing)
        assert (kept.num_attempts, len(kept.attempts)) == (number, number)
        if number < webhooks.MAX_ATTEMPTS:
            assert state is JobState.QUEUED
            with catalog.read() as session:
                assert 990 < kept.next_at - session.scalar(select(now())) <= 1000
            assert webhooks.take(catalog, hook.id) is None
            lapse(catalog)
    assert state is JobState.FAILED
    assert kept.attempts[-1] == BAD
    later = alarm()
    assert webhooks.take(catalog, hook.id).claim.id == later


def test_a_killed_senders_delivery_is_sent_again_under_its_id(catalog, hook, alarm):
    """Whoever was overtaken writes nothing."""
    alarm()
    killed = webhooks.take(catalog, hook.id)
    lapse(catalog)
    again = webhooks.take(catalog, hook.id)
    assert (again.event_id, again.body) == (killed.event_id, killed.body)
    with pytest.raises(LeaseLost):
        webhooks.answered(catalog, killed.claim, GOOD, pause_s=5)
    assert webhooks.answered(catalog, again.claim, GOOD, pause_s=5) is JobState.SUCCEEDED


def test_what_kills_its_senders_is_set_aside(catalog, hook, alarm):
    """After as many attempts as any other."""
    deadly = alarm()
    for _ in range(webhooks.MAX_ATTEMPTS):
        assert webhooks.take(catalog, hook.id)
        lapse(catalog)
    assert webhooks.take(catalog, hook.id) is None
    assert claims.set_aside(catalog, DeliveryRow, max_attempts=webhooks.MAX_ATTEMPTS) == [deadly]


def test_a_delivery_is_sent_again_by_hand(catalog, hook, alarm):
    """What was taken, what was given up, and at once what waits; what is being sent is let be."""
    sent = alarm()
    event_id = webhooks.delivery(catalog, hook.id, sent).event_id
    for outcome in (GOOD, BAD, GOOD):
        sending = webhooks.take(catalog, hook.id)
        assert sending.event_id == event_id
        assert webhooks.redeliver(catalog, hook.id, sent).state is JobState.RUNNING
        webhooks.answered(catalog, sending.claim, outcome, pause_s=1000)
        assert webhooks.take(catalog, hook.id) is None
        assert webhooks.redeliver(catalog, hook.id, sent).state is JobState.QUEUED
    assert len(webhooks.delivery(catalog, hook.id, sent).attempts) == 3


def test_after_a_change_both_secrets_sign_for_a_day(catalog, hook, alarm):
    """The new one first; then the old one does no more."""
    rotated = webhooks.rotate(catalog, hook.id)
    assert rotated.secret != hook.secret
    alarm()
    assert webhooks.take(catalog, hook.id).secrets == (rotated.secret, hook.secret)
    with catalog.write() as session:
        session.execute(update(WebhookRow).values(previous_until=now() - 1))
    lapse(catalog)
    assert webhooks.take(catalog, hook.id).secrets == (rotated.secret,)


def test_a_removed_webhook_is_told_nothing(catalog, hook, alarm):
    """Not what waits either; what was written for it at that moment is swept."""
    alarm()
    assert webhooks.remove(catalog, hook.id).id == hook.id
    assert webhooks.due(catalog) == []
    with catalog.write() as session:
        events.write(session, [hook.id], "alarm", "x", {})
    assert webhooks.due(catalog) == [hook.id]
    assert webhooks.take(catalog, hook.id) is None
    assert webhooks.due(catalog) == []
    for call in (webhooks.get, webhooks.remove, webhooks.rotate, webhooks.ping):
        with pytest.raises(NotFound, match=hook.id):
            call(catalog, hook.id)


def test_deliveries_are_listed_newest_first_and_old_ones_forgotten(catalog, hook, alarm):
    """Page by page; nobody sees another webhook's; what has ended is kept for a month."""
    first, second, third = (alarm() for _ in range(3))
    assert [d.id for d in webhooks.deliveries(catalog, hook.id, limit=2)] == [third, second]
    assert [d.id for d in webhooks.deliveries(catalog, hook.id, before=second, limit=2)] == [first]
    other = webhooks.add(catalog, url="https://example.com/", events=(WebhookEvent.ALARM,), actor="me")
    with pytest.raises(NotFound, match=f"no delivery {first}"):
        webhooks.delivery(catalog, other.id, first)
    webhooks.answered(catalog, webhooks.take(catalog, hook.id).claim, GOOD, pause_s=5)
    webhooks.sweep(catalog)
    assert len(webhooks.deliveries(catalog, hook.id, limit=9)) == 3
    with catalog.write() as session:
        session.execute(update(DeliveryRow).values(updated_at=now() - webhooks.KEPT_S - 1))
    webhooks.sweep(catalog)
    assert [d.id for d in webhooks.deliveries(catalog, hook.id, limit=9)] == [third, second]
