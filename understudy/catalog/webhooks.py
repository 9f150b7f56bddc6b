"""Webhooks and their deliveries: who is told, what waits to be told, and what came of each attempt.

A delivery is claimed as all work is (``catalog/claims.py``), so that of two deliverers one sends it, and one that was
killed on the way is sent again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import and_, delete, select, update
from sqlalchemy.orm import Session

from understudy import webhooks
from understudy.catalog import claims, events, jobs
from understudy.catalog.claims import Claim
from understudy.catalog.database import Catalog, now
from understudy.catalog.tables import DeliveryRow, WebhookRow
from understudy.errors import NotFound
from understudy.records import (
    PING,
    Delivery,
    DeliveryAttempt,
    JobState,
    NewWebhook,
    Problem,
    Webhook,
    WebhookEvent,
)

#: The pauses between two attempts grow fourfold from 5 s: after the ninth, about thirty hours after the first, it is
#: given up.
MAX_ATTEMPTS = 9
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 24 * 3600.0
#: A request takes 10 s at most.
LEASE_S = 60.0
#: After a change of the secret the old one signs too.
ROTATION_S = 24 * 3600.0
#: Attempts that are kept of a delivery that was sent again and again by hand.
MAX_KEPT_ATTEMPTS = 20
#: What has ended so long ago is forgotten.
KEPT_S = 30 * 24 * 3600.0


@dataclass(frozen=True)
class Sending:
    """A claimed delivery: what to send, to whom, and signed with what."""

    claim: Claim
    url: str = field(repr=False)
    event_id: str
    body: bytes = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


def add(catalog: Catalog, *, url: str, events: Sequence[WebhookEvent], description: str = "", actor: str) -> NewWebhook:
    """Tell a URL of events from now on; the answer is the only one with its secret."""
    row = WebhookRow(
        id=jobs.new_id(),
        url=url,
        events=[event.value for event in dict.fromkeys(events)],
        description=description,
        secret=webhooks.new_secret(),
        created_by=actor,
        created_at=now(),
    )
    with catalog.write() as session:
        session.add(row)
        session.flush()
        session.refresh(row)
        return NewWebhook(**_fields(row), secret=row.secret)


def every(catalog: Catalog) -> list[Webhook]:
    """The oldest first."""
    with catalog.read() as session:
        return [_record(row) for row in session.scalars(select(WebhookRow).order_by(WebhookRow.created_at))]


def get(catalog: Catalog, webhook_id: str) -> Webhook:
    """Raises NotFound."""
    with catalog.read() as session:
        return _record(_row(session, webhook_id))


def remove(catalog: Catalog, webhook_id: str) -> Webhook:
    """Tell it nothing more, also not what waits; gives what it was. Raises NotFound."""
    with catalog.write() as session:
        removed = _record(_row(session, webhook_id))
        session.execute(delete(WebhookRow).where(WebhookRow.id == webhook_id))
        session.execute(delete(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id))
        return removed


def rotate(catalog: Catalog, webhook_id: str) -> NewWebhook:
    """Give it another secret; for a day the old one signs too. Raises NotFound."""
    with catalog.write() as session:
        row = _row(session, webhook_id)
        fresh = webhooks.new_secret()
        session.execute(
            update(WebhookRow)
            .where(WebhookRow.id == webhook_id)
            .values(secret=fresh, previous_secret=row.secret, previous_until=now() + ROTATION_S)
        )
        return NewWebhook(**_fields(row), secret=fresh)


def ping(catalog: Catalog, webhook_id: str) -> Delivery:
    """Tell it something that has not happened, to see whether it listens. Raises NotFound."""
    with catalog.write() as session:
        _row(session, webhook_id)
        (delivery_id,) = events.write(session, [webhook_id], PING, webhook_id, {})
        return _delivery(session.get_one(DeliveryRow, delivery_id))


def deliveries(catalog: Catalog, webhook_id: str, *, before: int | None = None, limit: int) -> list[Delivery]:
    """The newest first, those before a delivery's id. Raises NotFound."""
    statement = select(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id).order_by(DeliveryRow.id.desc())
    if before is not None:
        statement = statement.where(DeliveryRow.id < before)
    with catalog.read() as session:
        _row(session, webhook_id)
        return [_delivery(row) for row in session.scalars(statement.limit(limit))]


def delivery(catalog: Catalog, webhook_id: str, delivery_id: int) -> Delivery:
    """Raises NotFound."""
    with catalog.read() as session:
        return _delivery(_delivery_row(session, webhook_id, delivery_id))


def redeliver(catalog: Catalog, webhook_id: str, delivery_id: int) -> Delivery:
    """Send it again, or now what waits for its next attempt; what is being sent is let be. Raises NotFound."""
    with catalog.write() as session:
        _delivery_row(session, webhook_id, delivery_id)
        session.execute(
            update(DeliveryRow)
            .where(DeliveryRow.id == delivery_id, DeliveryRow.state != JobState.RUNNING)
            .values(
                state=JobState.QUEUED, forgiven=DeliveryRow.attempt, lease_until=None, problem=None, updated_at=now()
            )
        )
        session.expire_all()
        return _delivery(_delivery_row(session, webhook_id, delivery_id))


def due(catalog: Catalog) -> list[str]:
    """The webhooks that something is due for, those that have waited longest first."""
    statement = (
        select(DeliveryRow.webhook_id)
        .where(claims.is_claimable(DeliveryRow, MAX_ATTEMPTS))
        .order_by(DeliveryRow.id)
        .limit(1000)
    )
    with catalog.read() as session:
        return list(dict.fromkeys(session.scalars(statement)))


def take(catalog: Catalog, webhook_id: str, *, lease_s: float = LEASE_S) -> Sending | None:
    """Claim the oldest delivery that is due for a webhook. None: there is none, or another one is being sent."""
    with catalog.write() as session:
        hook = session.get(WebhookRow, webhook_id, with_for_update=True)  # one at a time looks what is due for it
        if hook is None:  # it was removed while something happened
            session.execute(delete(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id))
            return None
        ours = DeliveryRow.webhook_id == webhook_id
        is_sent = and_(ours, DeliveryRow.state == JobState.RUNNING, DeliveryRow.lease_until > now())
        if session.scalar(select(DeliveryRow.id).where(is_sent).limit(1)) is not None:
            return None
        oldest = session.scalar(
            select(DeliveryRow.id)
            .where(ours, claims.is_claimable(DeliveryRow, MAX_ATTEMPTS))
            .order_by(DeliveryRow.id)
            .limit(1)
        )
        if oldest is None:
            return None
        claim = claims.claim_in(session, DeliveryRow, oldest, lease_s=lease_s, max_attempts=MAX_ATTEMPTS)
        if claim is None:
            return None
        is_both = session.scalar(
            select(WebhookRow.id).where(WebhookRow.id == webhook_id, WebhookRow.previous_until > now())
        )
        row = session.get_one(DeliveryRow, oldest)
        signers = (hook.secret, hook.previous_secret) if is_both else (hook.secret,)
        return Sending(claim, hook.url, row.event_id, row.body.encode(), tuple(each for each in signers if each))


def answered(catalog: Catalog, claim: Claim, attempt: DeliveryAttempt, *, pause_s: float) -> JobState:
    """Write down what came of an attempt; what was not taken is tried again after a pause, or given up.

    Raises LeaseLost if another has sent it meanwhile.
    """
    with catalog.write() as session:
        claims.fence(session, claim)
        before = session.scalar(select(DeliveryRow.attempts).where(DeliveryRow.id == claim.id)) or []
        kept = [*before, attempt.model_dump(mode="json")][-MAX_KEPT_ATTEMPTS:]
        if attempt.problem is None:
            claims.settle(session, claim, JobState.SUCCEEDED, attempts=kept, problem=None)
            return JobState.SUCCEEDED
        problem = Problem(code="not_delivered", detail=attempt.problem).model_dump()
        if claim.num_spent >= MAX_ATTEMPTS:
            claims.settle(session, claim, JobState.FAILED, attempts=kept, problem=problem)
            return JobState.FAILED
        later = now() + pause_s
        claims.settle(session, claim, JobState.QUEUED, attempts=kept, problem=problem, lease_until=later)
        return JobState.QUEUED


def sweep(catalog: Catalog) -> None:
    """Forget what has ended long ago."""
    is_old = and_(DeliveryRow.state.in_([JobState.SUCCEEDED, JobState.FAILED]), DeliveryRow.updated_at < now() - KEPT_S)
    with catalog.write() as session:
        session.execute(delete(DeliveryRow).where(is_old))


def _row(session: Session, webhook_id: str) -> WebhookRow:
    row = session.get(WebhookRow, webhook_id)
    if row is None:
        raise NotFound(f"there is no webhook {webhook_id!r}; GET /webhooks names those that there are")
    return row


def _delivery_row(session: Session, webhook_id: str, delivery_id: int) -> DeliveryRow:
    row = session.get(DeliveryRow, delivery_id)
    if row is None or row.webhook_id != webhook_id:
        raise NotFound(f"the webhook {webhook_id!r} has no delivery {delivery_id}; after 30 days they are forgotten")
    return row


def _fields(row: WebhookRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in Webhook.model_fields}


def _record(row: WebhookRow) -> Webhook:
    return Webhook.model_validate(_fields(row))


def _delivery(row: DeliveryRow) -> Delivery:
    is_waiting = row.state == JobState.QUEUED
    return Delivery(
        id=row.id,
        webhook=row.webhook_id,
        event_id=row.event_id,
        event=row.event,
        subject=row.subject,
        state=JobState(row.state),
        num_attempts=row.attempt,
        next_at=row.lease_until if is_waiting else None,
        created_at=row.created_at,
        body=row.body,
        attempts=tuple(DeliveryAttempt(**each) for each in row.attempts),
    )
