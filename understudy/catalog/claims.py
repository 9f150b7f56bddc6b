"""How a program takes work, keeps it, and gives its result: the same for jobs, label sets and deliveries.

1. ``claim``: one guarded UPDATE raises ``attempt`` and takes a lease. No row: somebody else has it.
2. ``keep``: a thread renews the lease while the work goes on; a lost lease stops the work.
3. ``settle``: the result counts only under the newest attempt; a late or repeated worker changes nothing.

A claim whose lease has lapsed may be claimed again. Work whose holder died ``MAX_ATTEMPTS`` times is
set aside, so that a poisoned piece cannot stop the rest. All times are the database's.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, true, update
from sqlalchemy.orm import Session

from understudy.catalog import events
from understudy.catalog.database import Catalog, now
from understudy.catalog.tables import DeliveryRow, JobRow, LabelSetRow
from understudy.errors import LeaseLost
from understudy.records import JobState, Problem

#: A piece of work that took down its holder this often is set aside with its reason.
MAX_ATTEMPTS = 3
#: What failed by a fault of ours waits this long, then four times as long, before it is claimed again: a full
#: disk or a store that is away must not use up all attempts within seconds.
FIRST_PAUSE_S, LAST_PAUSE_S = 5.0, 600.0
#: Renew a lease this many times within its length, so that one missed beat does not lose it.
BEATS_PER_LEASE = 4

#: Codes of problems that are ours, not of what was sent: trying again may help.
STOPPED, WORKER_FAULT, GAVE_UP = "stopped", "worker_fault", "gave_up"
OUR_FAULTS = frozenset({STOPPED, WORKER_FAULT, GAVE_UP})

Work = type[JobRow] | type[LabelSetRow] | type[DeliveryRow]


@dataclass(frozen=True)
class Claim:
    """Proof that this process may work on one row, until its lease lapses."""

    work: Work
    id: str | int
    attempt: int
    lease_s: float
    num_spent: int = 1  #: attempts that count, this one included
    _lost: threading.Event = field(default_factory=threading.Event, compare=False)

    def check(self) -> None:
        """Raise LeaseLost if another process has taken the work over. Cheap: call it often."""
        if self._lost.is_set():
            raise LeaseLost(f"{self.work.__tablename__} {self.id}: attempt {self.attempt} has been overtaken")


def owner() -> str:
    """This process, for people who look into the catalog, and for ``release_dead``."""
    return f"{_here()}{os.getpid()}:{_began(os.getpid())}"


def _here() -> str:
    """This host, this boot of it, and this container: where a process' number means something."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:  # no Linux
        boot = namespace = ""
    return f"{socket.gethostname()}:{boot}:{namespace}:"


def _began(pid: int) -> str | None:
    """When a process began, which tells it from a later one of its number. None: it is dead, or this is no Linux."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = stat[stat.rindex(")") + 1 :].split()
    return None if state in "ZX" else fields[18]  # a zombie only waits to be counted


def _is_dead(owner: str | None) -> bool:
    """Whether a process of this host has surely ended. One of another host never has."""
    if owner is None or not owner.startswith(_here()):
        return False
    pid, _, began = owner.removeprefix(_here()).partition(":")
    return pid.isdecimal() and began.isdecimal() and _began(int(pid)) != began


def release_dead(catalog: Catalog, work: Work) -> list[Any]:
    """Let the leases of this host's dead processes lapse now; gives the ids. What is elsewhere lapses by itself.

    So work whose process was killed is taken up within seconds. The attempt counts as spent.
    """
    with catalog.read() as session:
        ours = and_(work.state == JobState.RUNNING, work.owner.startswith(_here(), autoescape=True))
        held = session.execute(select(work.id, work.owner, work.attempt).where(ours, work.lease_until > now())).all()
    dead = [(id, attempt) for id, owner, attempt in held if _is_dead(owner)]
    for id, attempt in dead:
        with catalog.write() as session:
            is_it = and_(work.id == id, work.attempt == attempt, work.state == JobState.RUNNING)
            session.execute(update(work).where(is_it).values(lease_until=now() - 1.0))
    return [id for id, _ in dead]


def is_claimable(work: Work, max_attempts: int) -> Any:
    """Queued and not pausing, or held under a lease that has lapsed; and not tried too often."""
    is_open = work.state.in_([JobState.QUEUED, JobState.RUNNING])
    is_free = or_(work.lease_until.is_(None), work.lease_until < now())
    return and_(is_open, is_free, work.attempt - work.forgiven < max_attempts)


def claim(
    catalog: Catalog, work: Work, id: str | int, *, lease_s: float, max_attempts: int = MAX_ATTEMPTS
) -> Claim | None:
    """Take one piece of work. None: it is taken, ended, or was set aside."""
    with catalog.write() as session:
        return claim_in(session, work, id, lease_s=lease_s, max_attempts=max_attempts)


def claim_in(session: Session, work: Work, id: str | int, *, lease_s: float, max_attempts: int) -> Claim | None:
    """The same within the caller's transaction."""
    statement = (
        update(work)
        .where(work.id == id, is_claimable(work, max_attempts))
        .values(
            state=JobState.RUNNING,
            attempt=work.attempt + 1,
            owner=owner(),
            lease_until=now() + lease_s,
            updated_at=now(),
        )
        .returning(work.attempt, work.attempt - work.forgiven)
    )
    taken = session.execute(statement).one_or_none()
    return None if taken is None else Claim(work, id, taken[0], lease_s, taken[1])


def _held(claim: Claim) -> Any:
    return and_(claim.work.id == claim.id, claim.work.attempt == claim.attempt, claim.work.state == JobState.RUNNING)


def renew(catalog: Catalog, claim: Claim, **values: Any) -> None:
    """Lengthen the lease, and write ``values`` (progress) with it. Raises LeaseLost."""
    with catalog.write() as session:
        lease = {"lease_until": now() + claim.lease_s, "updated_at": now()}
        kept = session.execute(update(claim.work).where(_held(claim)).values(**lease, **values))
    if kept.rowcount == 0:  # type: ignore[attr-defined]
        claim._lost.set()
    claim.check()


@contextmanager
def keep(catalog: Catalog, claim: Claim) -> Iterator[None]:
    """Renew the lease from a thread for as long as the block runs."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(claim.lease_s / BEATS_PER_LEASE):
            try:
                renew(catalog, claim)
            except LeaseLost:
                return
            except Exception:  # the database is away: the lease lapses by itself if it stays away
                continue

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def settle(session: Session, claim: Claim, state: JobState, **values: Any) -> None:
    """End the work within the caller's transaction. Raises LeaseLost, which rolls the transaction back."""
    _fenced(session, claim, {"state": state, "owner": None, "lease_until": None, **values})
    if state.is_ended:
        events.ended(session, claim.work, [claim.id])


def fence(session: Session, claim: Claim) -> None:
    """Make the caller's transaction count only while the claim is held. Raises LeaseLost."""
    _fenced(session, claim, {})


def _fenced(session: Session, claim: Claim, values: dict[str, Any]) -> None:
    done = session.execute(update(claim.work).where(_held(claim)).values(updated_at=now(), **values))
    if done.rowcount == 0:  # type: ignore[attr-defined]
        claim._lost.set()
        claim.check()


def give_back(
    catalog: Catalog, claim: Claim, problem: Problem, *, is_forgiven: bool = False, max_attempts: int = MAX_ATTEMPTS
) -> None:
    """Put work back after a fault of ours, to be claimed again after a pause; or aside after its last attempt.

    ``is_forgiven``: the work is not to blame (a graceful stop, a full disk), so the attempt does not count.
    """
    row = claim.work
    pause_s = min(FIRST_PAUSE_S * 4 ** (claim.attempt - 1), LAST_PAUSE_S) if problem.code != STOPPED else 0.0
    with catalog.write() as session:
        spent = session.execute(select(row.attempt - row.forgiven).where(_held(claim))).scalar()
        is_last = spent is not None and spent >= max_attempts and not is_forgiven
        state = JobState.FAILED if is_last else JobState.QUEUED
        settle(session, claim, state, problem=problem.model_dump(), forgiven=row.forgiven + int(is_forgiven))
        if state == JobState.QUEUED and pause_s:
            session.execute(update(row).where(row.id == claim.id).values(lease_until=now() + pause_s))


def set_aside(
    catalog: Catalog, work: Work, *, where: ColumnElement[bool] | None = None, max_attempts: int = MAX_ATTEMPTS
) -> list[Any]:
    """Fail what took its holder down too often; give the ids. ``where`` narrows it to some of the work."""
    problem = Problem(code=GAVE_UP, detail=f"its worker died {max_attempts} times while working on it")
    poisoned = and_(
        work.state == JobState.RUNNING, work.lease_until < now(), work.attempt - work.forgiven >= max_attempts
    )
    statement = (
        update(work)
        .where(poisoned, true() if where is None else where)
        .values(state=JobState.FAILED, problem=problem.model_dump(), owner=None, lease_until=None, updated_at=now())
        .returning(work.id)
    )
    with catalog.write() as session:
        failed = list(session.scalars(statement))
        events.ended(session, work, failed)
        return failed


def overdue(
    catalog: Catalog,
    work: Work,
    *,
    limit: int,
    where: ColumnElement[bool] | None = None,
    max_attempts: int = MAX_ATTEMPTS,
) -> list[Any]:
    """Ids of work that waits to be claimed, oldest first. ``where`` narrows it to some of the work."""
    statement = (
        select(work.id)
        .where(is_claimable(work, max_attempts), true() if where is None else where)
        .order_by(work.created_at, work.id)
        .limit(limit)
    )
    with catalog.read() as session:
        return list(session.scalars(statement))


def retry(session: Session, work: Work, id: str | int) -> bool:
    """Queue failed work again within the caller's transaction, all its attempts forgiven; False if it has not failed."""
    again = {"state": JobState.QUEUED, "forgiven": work.attempt, "lease_until": None, "updated_at": now()}
    done = session.execute(update(work).where(work.id == id, work.state == JobState.FAILED).values(**again))
    return bool(done.rowcount)  # type: ignore[attr-defined]
