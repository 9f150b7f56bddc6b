"""The outbox of webhooks: what has happened is written down in the transaction in which it happens.

So nothing is told that did not happen, and nothing that happened is untold. Who delivers it, and how, is not known
here; where nobody asked for an event, nothing is written.
"""

import secrets
from collections.abc import Iterable
from typing import Any

from sqlalchemy import and_, func, insert, select
from sqlalchemy.orm import Session

from understudy import tripwires
from understudy.catalog.database import now
from understudy.catalog.tables import ChampionRow, DeliveryRow, GenerationRow, JobRow, LabelSetRow, ShardRow, WebhookRow
from understudy.records import (
    Event,
    GateReport,
    GenerationState,
    JobKind,
    JobState,
    WebhookEvent,
)

#: Jobs that bring images: their end is ``ingest.finished``.
INGESTS = frozenset({JobKind.INGEST, JobKind.LABELED, JobKind.FETCH})
#: What is told of their result: the counts, not the lists.
TOLD_OF_RESULT = ("entries", "accepted", "duplicate", "holdout-leak", "quarantined", "attached", "generation")
#: A sentence is cut off here: a receiver wants to know, and can ask for the rest.
MAX_DETAIL = 2000


def listeners(session: Session, event: str) -> list[str]:
    """The ids of the webhooks that asked for an event."""
    return [id for id, events in session.execute(select(WebhookRow.id, WebhookRow.events)) if event in events]


def emit(session: Session, event: WebhookEvent, subject: str, data: dict[str, Any]) -> None:
    """Write an event down for everybody who asked for it, within the caller's transaction."""
    write(session, listeners(session, event), event, subject, data)


def write(session: Session, webhooks: Iterable[str], event: str, subject: str, data: dict[str, Any]) -> list[int]:
    """The same for certain webhooks; gives the ids of the deliveries."""
    told = list(webhooks)
    if not told:
        return []
    at = session.scalar(select(now()))
    assert at is not None  # the database has a clock
    made = Event(id=f"msg_{secrets.token_hex(12)}", type=event, timestamp=at, subject=subject, data=data)
    fixed = {"event_id": made.id, "event": event, "subject": subject[:200], "body": made.model_dump_json()}
    fresh = {"state": JobState.QUEUED, "attempt": 0, "forgiven": 0, "attempts": [], "created_at": at, "updated_at": at}
    return [
        session.execute(
            insert(DeliveryRow).values(webhook_id=webhook, **fixed, **fresh).returning(DeliveryRow.id)
        ).scalar_one()
        for webhook in told
    ]


def alarm(session: Session, cause: str, subject: str, detail: str, **data: Any) -> None:
    """Somebody should look."""
    emit(session, WebhookEvent.ALARM, subject, {"cause": cause, "detail": detail[:MAX_DETAIL], **data})


def ended(session: Session, work: Any, ids: Iterable[Any]) -> None:
    """Tell that work has ended, well or not, after its row says so."""
    if work is DeliveryRow or session.scalar(select(WebhookRow.id).limit(1)) is None:
        return
    for id in ids:
        if work is JobRow:
            _job_ended(session, id)
        else:
            _label_set_ended(session, id)


def _job_ended(session: Session, job_id: str) -> None:
    columns = select(JobRow.kind, JobRow.state, JobRow.bucket, JobRow.result, JobRow.problem)
    kind, state, bucket, result, problem = session.execute(columns.where(JobRow.id == job_id)).one()
    if kind in INGESTS:
        told = {name: (result or {})[name] for name in TOLD_OF_RESULT if name in (result or {})}
        data = {"job": job_id, "kind": kind, "state": state, "bucket": bucket, "result": told, "problem": problem}
        emit(session, WebhookEvent.INGEST_FINISHED, job_id, data)
    elif kind == JobKind.GENERATION:
        _generation_ended(session, job_id, state, problem)


def _generation_ended(session: Session, job_id: str, state: str, problem: dict[str, Any] | None) -> None:
    columns = select(GenerationRow.number, GenerationRow.state, GenerationRow.version)
    turn = session.execute(columns.where(GenerationRow.job_id == job_id)).one_or_none()
    if turn is None:
        return
    number, verdict, version = turn
    is_failed = state == JobState.FAILED
    ended_as = GenerationState.FAILED if is_failed else verdict
    data = {"generation": number, "state": ended_as, "version": version, "job": job_id, "problem": problem}
    emit(session, WebhookEvent.GENERATION_FINISHED, str(number), data)
    if is_failed:
        said = problem or {}
        cause = "tripwire" if said.get("code") == tripwires.COLLAPSED else "generation_failed"
        alarm(session, cause, str(number), str(said.get("detail", "")), generation=number, code=said.get("code"))


def judged(session: Session, number: int, version: str, report: GateReport) -> None:
    """Tell the gate's verdict."""
    champion = report.champion
    emit(
        session,
        WebhookEvent.GATE_PASSED if report.is_proved else WebhookEvent.GATE_REFUSED,
        version,
        {
            "generation": number,
            "version": version,
            "accuracy": report.challenger.accuracy,
            "champion": champion.version if champion else None,
            "champion_accuracy": champion.accuracy if champion else None,
            "rule": report.rule,
            "reasons": [reason[:MAX_DETAIL] for reason in report.reasons],
        },
    )


def _label_set_ended(session: Session, label_set_id: int) -> None:
    columns = select(LabelSetRow.state, LabelSetRow.version, LabelSetRow.bucket, LabelSetRow.problem, ShardRow.key)
    joined = columns.join(ShardRow, ShardRow.id == LabelSetRow.shard_id).where(LabelSetRow.id == label_set_id)
    state, version, bucket, problem, shard = session.execute(joined).one()
    if state == JobState.FAILED:
        said = problem or {}
        named = {"version": version, "bucket": bucket, "shard": shard, "code": said.get("code")}
        alarm(session, "shard_set_aside", shard, str(said.get("detail", "")), **named)
    labels_ready(session, version)


def labels_ready(session: Session, version: str) -> None:
    """Tell that nothing waits for a version's labels any more, if that is so and it is the champion."""
    if not listeners(session, WebhookEvent.LABELS_READY):
        return
    # Two workers that publish the last two label sets do not see each other's: the one waits for the other here.
    newest = select(ChampionRow.version).order_by(ChampionRow.sequence.desc()).limit(1)
    if session.scalar(newest.with_for_update()) != version:
        return
    open_ones = LabelSetRow.state.in_([JobState.QUEUED, JobState.RUNNING])
    if session.scalar(select(LabelSetRow.id).where(LabelSetRow.version == version, open_ones).limit(1)) is not None:
        return  # an index knows, however many there are
    wished = and_(LabelSetRow.shard_id == ShardRow.id, LabelSetRow.version == version)
    rows = session.execute(
        select(LabelSetRow.state, func.count(), func.coalesce(func.sum(ShardRow.num_images), 0))
        .select_from(ShardRow)
        .outerjoin(LabelSetRow, wished)
        .where(ShardRow.split == "unlabeled")
        .group_by(LabelSetRow.state)
    ).all()
    counts = {state: (int(count), int(images or 0)) for state, count, images in rows}
    done, images = counts.get(JobState.SUCCEEDED, (0, 0))
    if None in counts or not done:  # not even wished for; or there is nothing to label
        return
    failed, _ = counts.get(JobState.FAILED, (0, 0))
    data = {"version": version, "num_shards": done, "num_images": images, "num_failed": failed}
    emit(session, WebhookEvent.LABELS_READY, version, data)
