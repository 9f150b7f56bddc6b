"""Idempotency keys: a request that is sent twice makes one job.

A key is bound to its job in the transaction that makes the job count, so nothing is reserved for a request that
never came to its end. It knows nothing of HTTP; what a request's fingerprint is, its route says.
"""

import hashlib
from dataclasses import dataclass

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from understudy.catalog.database import Catalog, insert_or_ignore, now
from understudy.catalog.tables import IdempotencyRow, JobRow
from understudy.errors import Conflict
from understudy.records import JobState

#: A client that has not heard of its request after a week asks about its job instead.
KEPT_S = 7 * 24 * 3600.0
#: A job that ended so has nothing of what was sent: the same request may be sent again and is another job.
FORGOTTEN = frozenset({"upload_broken", "bucket_deleted"})


@dataclass(frozen=True)
class Key:
    """One client's key for one kind of request."""

    id: str

    @classmethod
    def of(cls, actor: str, act: str, key: str) -> "Key":
        """Keys of different clients, or for different acts, never meet."""
        return cls(hashlib.sha256("\0".join((actor, act, key)).encode()).hexdigest())


def find(catalog: Catalog, key: Key) -> tuple[str, str] | None:
    """The job and the fingerprint that a key stands for. None: it is free."""
    with catalog.read() as session:
        row = session.get(IdempotencyRow, key.id)
        return None if row is None or _is_forgotten(session, row.job_id) else (row.job_id, row.fingerprint)


def refuse_other(known: str, fingerprint: str) -> None:
    """Raise Conflict if a key is used for something else than before."""
    if known != fingerprint:
        raise Conflict(
            "this Idempotency-Key was used for another request before; send what was sent then, or choose a new key",
            code="idempotency_mismatch",
        )


def bind(session: Session, key: Key, fingerprint: str, job_id: str) -> str:
    """Bind a key to a job within the caller's transaction; gives the job that it stands for: this, or an earlier one.

    Raises Conflict if it stands for another request.
    """
    values = {"job_id": job_id, "fingerprint": fingerprint, "created_at": now()}
    session.execute(insert_or_ignore(session, IdempotencyRow).values(id=key.id, **values))
    row = session.get_one(IdempotencyRow, key.id, with_for_update=True)
    if row.job_id != job_id and _is_forgotten(session, row.job_id):
        session.execute(update(IdempotencyRow).where(IdempotencyRow.id == key.id).values(**values))
        return job_id
    refuse_other(row.fingerprint, fingerprint)
    return row.job_id


def forget_old(catalog: Catalog) -> None:
    """Free the keys that nobody will ask for again."""
    with catalog.write() as session:
        session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < now() - KEPT_S))


def _is_forgotten(session: Session, job_id: str) -> bool:
    job = session.get(JobRow, job_id)
    return job is None or (job.state == JobState.FAILED and (job.problem or {}).get("code") in FORGOTTEN)
