"""Model versions and the champion: the one pointer that moves, by appending to its history."""

from collections.abc import Sequence

from sqlalchemy import case, select, update
from sqlalchemy.orm import Session

from understudy.catalog import events
from understudy.catalog.database import Catalog, insert_or_ignore, now
from understudy.catalog.tables import ChampionRow, DeploymentRow, VersionRow
from understudy.errors import Conflict, NotFound
from understudy.records import Championship, DeploymentState, ModelCard, ModelVersion, VersionState, WebhookEvent


def register(catalog: Catalog, card: ModelCard) -> None:
    """Write a version down as a challenger; the same card twice is one version."""
    with catalog.write() as session:
        session.execute(
            insert_or_ignore(session, VersionRow).values(
                id=card.version,
                generation=card.generation,
                state=VersionState.CHALLENGER,
                student=card.student,
                card=card.model_dump(mode="json"),
                created_at=now(),
            )
        )


def champion(catalog: Catalog) -> Championship | None:
    """Who serves now. None: nobody was promoted yet."""
    with catalog.read() as session:
        row = _newest(session)
        return None if row is None else _championship(row)


def history(catalog: Catalog) -> list[Championship]:
    """Every champion, the newest first."""
    with catalog.read() as session:
        return [
            _championship(row) for row in session.scalars(select(ChampionRow).order_by(ChampionRow.sequence.desc()))
        ]


def champion_at(catalog: Catalog, at: float) -> Championship | None:
    """Who served at a time, in seconds since 1970, to the millisecond. None: nobody was promoted yet.

    A time to come is answered with the champion of now.
    """
    statement = (
        select(ChampionRow)
        # A time shown in milliseconds is cut off: asked for again, it means all of its millisecond.
        .where(ChampionRow.at < at + 0.001)
        .order_by(ChampionRow.sequence.desc())
        .limit(1)
    )
    with catalog.read() as session:
        row = session.scalar(statement)
        return None if row is None else _championship(row)


def roll_back(catalog: Catalog, version: str | None, *, reason: str, actor: str) -> Championship:
    """Make a former champion the champion again, by one more entry of the history.

    None: the one that the champion took over from when it was promoted first, so that two rollbacks go
    back twice and never forth. Raises Conflict for a version that never was the champion, for the one
    that is, where there is none before, and when another is promoted at the same moment.
    """
    with catalog.write() as session:
        rows = list(session.scalars(select(ChampionRow).order_by(ChampionRow.sequence)))
        if not rows:
            raise Conflict("no model has been promoted yet: there is nothing to roll back", code="no_former_champion")
        serving, chosen = rows[-1].version, version or _former(rows)
        if chosen == serving:
            raise Conflict(f"{chosen} is the champion already", code="is_champion")
        if chosen not in {row.version for row in rows}:
            if session.get(VersionRow, chosen) is None:
                raise NotFound(f"there is no model {chosen!r}")
            raise Conflict(
                f"{chosen} never was the champion; a model becomes it only through the gate. "
                f"GET /models/champions names those that were",
                code="never_champion",
            )
        promote(session, chosen, instead_of=serving, reason=reason, actor=actor, told_as=WebhookEvent.MODEL_ROLLED_BACK)
        row = _newest(session)
        assert row is not None  # it was written just now
        return _championship(row)


def override(catalog: Catalog, version: str, *, reason: str, actor: str) -> Championship:
    """Make a version that the gate refused the champion: a person answers for it, by one more entry of the history.

    Raises NotFound for an unknown version, and Conflict for one that was not refused: the champion, a former
    one (roll back to it), or one that the gate has not judged.
    """
    with catalog.write() as session:
        row = session.get(VersionRow, version)
        if row is None:
            raise NotFound(f"there is no model {version!r}")
        if row.state != VersionState.REFUSED:
            raise Conflict(
                f"{version} is {row.state}, and only what the gate refused can be promoted against its verdict; "
                f"a former champion comes back by a rollback",
                code="not_refused",
            )
        serving = held_champion(session)
        instead_of = None if serving is None else serving.version
        promote(session, version, instead_of=instead_of, reason=f"override: {reason}", actor=actor)
        newest = _newest(session)
        assert newest is not None  # it was written just now
        return _championship(newest)


def _former(rows: Sequence[ChampionRow]) -> str:
    first = next(i for i, row in enumerate(rows) if row.version == rows[-1].version)
    if first == 0:
        raise Conflict(
            f"{rows[-1].version} was the first champion: there is none before it; name the version that shall serve",
            code="no_former_champion",
        )
    return rows[first - 1].version


def promote(
    session: Session,
    version: str,
    *,
    instead_of: str | None,
    reason: str,
    actor: str,
    told_as: WebhookEvent = WebhookEvent.MODEL_SWAPPED,
) -> None:
    """Make ``version`` the champion within the caller's transaction.

    Raises Conflict unless ``instead_of`` is the champion (None: there must be none): what was proved
    better than one model is not proved better than another. Raises NotFound for an unknown version.
    """
    if session.get(VersionRow, version) is None:
        raise NotFound(f"there is no model {version!r}")
    newest = held_champion(session)
    serving = newest.version if newest is not None else None
    if serving != instead_of:
        raise Conflict(f"{version} was compared with {instead_of}, but {serving} is the champion now; compare again")
    sequence = newest.sequence + 1 if newest is not None else 1
    entry = insert_or_ignore(session, ChampionRow).values(
        sequence=sequence, version=version, at=now(), reason=reason[:1000], actor=actor
    )
    if session.scalar(entry.returning(ChampionRow.sequence)) is None:
        raise Conflict(f"another model became the champion at the moment when {version} was to; compare again")
    judge(session, version, VersionState.PROMOTED)
    _end_deployment(session, version, actor)
    moved = {"version": version, "previous": serving, "sequence": sequence, "reason": reason[:1000], "actor": actor}
    events.emit(session, told_as, version, moved)
    events.labels_ready(session, version)  # a former champion may have labeled everything before


def held_champion(session: Session) -> ChampionRow | None:
    """The newest entry of the history, which nobody adds to until the caller's transaction ends."""
    newest = select(ChampionRow).order_by(ChampionRow.sequence.desc()).limit(1)
    held = session.scalar(newest.with_for_update())
    # PostgreSQL: if we had to wait for another's promotion, the newest is one that was not there when we asked.
    return None if held is None else session.scalar(newest)


def _end_deployment(session: Session, promoted: str, actor: str) -> None:
    """A challenger was compared with the champion of then: with another one the comparison is over."""
    challenger, champion = f"promoted: {promoted} is the champion now", f"{promoted} became the champion"
    session.execute(
        update(DeploymentRow)
        .where(DeploymentRow.state == DeploymentState.ACTIVE)
        .values(
            state=DeploymentState.ENDED,
            reason=case((DeploymentRow.version == promoted, challenger), else_=champion),
            ended_by=actor,
            ended_at=now(),
        )
    )


def judge(session: Session, version: str, state: VersionState) -> None:
    """Write a version's state within the caller's transaction."""
    session.execute(update(VersionRow).where(VersionRow.id == version).values(state=state))


def get(catalog: Catalog, version: str) -> ModelVersion:
    """Raises NotFound."""
    with catalog.read() as session:
        row = session.get(VersionRow, version)
        if row is None:
            raise NotFound(f"there is no model {version!r}")
        return _version(row, _newest(session))


def every(catalog: Catalog) -> list[ModelVersion]:
    """All versions, the newest first."""
    with catalog.read() as session:
        newest = _newest(session)
        rows = session.scalars(select(VersionRow).order_by(VersionRow.created_at.desc(), VersionRow.id))
        return [_version(row, newest) for row in rows]


def _newest(session: Session) -> ChampionRow | None:
    return session.scalar(select(ChampionRow).order_by(ChampionRow.sequence.desc()).limit(1))


def _championship(row: ChampionRow) -> Championship:
    return Championship(sequence=row.sequence, version=row.version, at=row.at, reason=row.reason, actor=row.actor)


def _version(row: VersionRow, newest: ChampionRow | None) -> ModelVersion:
    return ModelVersion(
        id=row.id,
        generation=row.generation,
        state=VersionState(row.state),
        student=row.student,
        created_at=row.created_at,
        is_champion=newest is not None and newest.version == row.id,
        card=ModelCard(**row.card),
    )
