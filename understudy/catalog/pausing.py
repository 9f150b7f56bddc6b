"""Whether the loop is paused: one row, which every program reads in the transaction in which it takes work.

It knows neither what work there is nor who takes it.
"""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from understudy.catalog.database import Catalog, now
from understudy.catalog.tables import LoopRow

#: The id of the one row, which a migration wrote.
THE_ROW = 1


def is_paused(session: Session, *, is_taking: bool = False) -> bool:
    """Whether nothing new may be begun.

    ``is_taking``: the caller is about to take work. A pause waits for its transaction, so that nobody takes
    anything after the pause was answered.
    """
    statement = select(LoopRow.paused_at).where(LoopRow.id == THE_ROW)
    if is_taking:
        statement = statement.with_for_update(read=True)  # SQLite has one writer, and no such words
    return session.scalar(statement) is not None


def pause(catalog: Catalog, reason: str, *, actor: str) -> bool:
    """Begin nothing new from now on; whether this call did that. A pause that is there already stays as it is."""
    with catalog.write() as session:
        paused = session.execute(
            update(LoopRow)
            .where(LoopRow.id == THE_ROW, LoopRow.paused_at.is_(None))
            .values(paused_at=now(), paused_by=actor, reason=reason)
        )
        return bool(paused.rowcount)  # type: ignore[attr-defined]


def resume(catalog: Catalog) -> bool:
    """Go on; whether this call did that, and the loop was paused before."""
    with catalog.write() as session:
        resumed = session.execute(
            update(LoopRow)
            .where(LoopRow.id == THE_ROW, LoopRow.paused_at.is_not(None))
            .values(paused_at=None, paused_by=None, reason=None)
        )
        return bool(resumed.rowcount)  # type: ignore[attr-defined]
