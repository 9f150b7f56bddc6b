"""Deployments: a challenger on live traffic, what all service processes counted of it, and how it ended.

At most one is active. Counts only grow, by what a process adds; the state changes once, by a guarded update.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from understudy.catalog import events, jobs, versions
from understudy.catalog.database import Catalog, insert_or_ignore, now
from understudy.catalog.tables import DeploymentRow, VersionRow
from understudy.errors import Conflict, NoChampion, NotFound
from understudy.records import (
    Counts,
    Deployment,
    DeploymentKind,
    DeploymentRequest,
    DeploymentState,
    Limits,
)


def open_deployment(catalog: Catalog, request: DeploymentRequest, *, actor: str) -> Deployment:
    """Give a challenger its share of the traffic.

    Raises NotFound for an unknown version, NoChampion without one to compare with, and Conflict for the
    champion itself, for other classes than the champion's, and while another deployment is active.
    """
    deployment_id = jobs.new_id()
    with catalog.write() as session:
        champion = versions.held_champion(session)
        if champion is None:
            raise NoChampion("no model has been promoted yet: there is no champion to compare a challenger with")
        _check(session, request.version, champion.version)
        entry = insert_or_ignore(session, DeploymentRow).values(
            id=deployment_id,
            version=request.version,
            champion=champion.version,
            kind=request.kind,
            share=request.share,
            limits=request.limits.model_dump(mode="json"),
            state=DeploymentState.ACTIVE,
            opened_by=actor,
            created_at=now(),
        )
        if session.scalar(entry.returning(DeploymentRow.id)) is None:
            raise Conflict(
                "another deployment is active; GET /deployments shows it, POST /deployments/{id}/end ends it",
                code="deployment_active",
            )
    return get(catalog, deployment_id)


def _check(session: Session, version: str, champion: str) -> None:
    row = session.get(VersionRow, version)
    if row is None:
        raise NotFound(f"there is no model {version!r}; GET /models names those that there are")
    if version == champion:
        raise Conflict(f"{version} is the champion: it answers everything already", code="is_champion")
    ours, theirs = (session.get_one(VersionRow, name).card["classes"] for name in (version, champion))
    if ours != theirs:
        raise Conflict(
            f"{version} tells {len(ours)} classes apart and the champion {champion} {len(theirs)}, and they are not "
            f"the same in the same order: their answers cannot be compared",
            code="other_classes",
        )


def active(catalog: Catalog) -> Deployment | None:
    """The one that is active. None: there is none."""
    with catalog.read() as session:
        row = session.scalar(select(DeploymentRow).where(DeploymentRow.state == DeploymentState.ACTIVE))
        return None if row is None else _record(row)


def get(catalog: Catalog, deployment_id: str) -> Deployment:
    """Raises NotFound."""
    with catalog.read() as session:
        row = session.get(DeploymentRow, deployment_id)
        if row is None:
            raise NotFound(f"there is no deployment {deployment_id!r}")
        return _record(row)


def recent(catalog: Catalog, *, limit: int) -> Sequence[Deployment]:
    """The newest first."""
    with catalog.read() as session:
        newest = select(DeploymentRow).order_by(DeploymentRow.created_at.desc(), DeploymentRow.id).limit(limit)
        return [_record(row) for row in session.scalars(newest)]


def add(catalog: Catalog, deployment_id: str, counts: Counts) -> Deployment:
    """Add what was counted, while the deployment is active; gives it as it is then. Raises NotFound."""
    grown: dict[str, Any] = {
        name: getattr(DeploymentRow, name) + count for name, count in counts.model_dump().items() if count
    }
    if grown:
        with catalog.write() as session:
            session.execute(update(DeploymentRow).where(*_is_active(deployment_id)).values(grown))
    return get(catalog, deployment_id)


def withdraw(catalog: Catalog, deployment_id: str, reason: str) -> bool:
    """End it by itself; whether this call did, and not another process or a person before."""
    with catalog.write() as session:
        is_ours = _close(session, deployment_id, DeploymentState.WITHDRAWN, reason, None)
        if is_ours:
            version = session.get_one(DeploymentRow, deployment_id).version
            events.alarm(session, "deployment_withdrawn", deployment_id, reason, version=version)
        return is_ours


def end(catalog: Catalog, deployment_id: str, reason: str, *, actor: str) -> Deployment:
    """End it by hand. Raises NotFound, and Conflict if it has ended already."""
    with catalog.write() as session:
        closed = _close(session, deployment_id, DeploymentState.ENDED, reason, actor)
    deployment = get(catalog, deployment_id)
    if not closed:
        raise Conflict(
            f"deployment {deployment_id} is {deployment.state} already: {deployment.reason}", code="deployment_over"
        )
    return deployment


def _close(session: Session, deployment_id: str, state: DeploymentState, reason: str, actor: str | None) -> bool:
    statement = (
        update(DeploymentRow)
        .where(*_is_active(deployment_id))
        .values(state=state, reason=reason[:1000], ended_by=actor, ended_at=now())
        .returning(DeploymentRow.id)
    )
    return session.scalar(statement) is not None


def _is_active(deployment_id: str) -> tuple[Any, Any]:
    return DeploymentRow.id == deployment_id, DeploymentRow.state == DeploymentState.ACTIVE


def _record(row: DeploymentRow) -> Deployment:
    counts = Counts(**{name: getattr(row, name) for name in Counts.model_fields})
    return Deployment(
        id=row.id,
        version=row.version,
        champion=row.champion,
        kind=DeploymentKind(row.kind),
        share=row.share,
        limits=Limits(**row.limits),
        state=DeploymentState(row.state),
        reason=row.reason,
        opened_by=row.opened_by,
        ended_by=row.ended_by,
        created_at=row.created_at,
        ended_at=row.ended_at,
        counts=counts,
        agreement=_ratio(counts.agreed_images, counts.compared_images),
        champion_latency_ms=_ratio(1000 * counts.champion_seconds, counts.champion_requests),
        challenger_latency_ms=_ratio(1000 * counts.challenger_seconds, counts.challenger_requests),
    )


def _ratio(part: float, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
