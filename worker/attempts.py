"""One attempt at a piece of work: claim it, keep it while it runs, and write down how it ended.

The same for jobs and label sets. A fault of ours gives the work back for another attempt; what is
refused for good is for ``run`` to write down. Nothing is raised but a stop.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from understudy.catalog import claims
from understudy.catalog.claims import MAX_ATTEMPTS, Claim, Work
from understudy.errors import LeaseLost
from understudy.records import Problem
from worker.resources import Resources

log = logging.getLogger(__name__)

#: What an attempt does, once its work is claimed.
Run = Callable[[], object]

#: Celery stops a child with SIGTERM, or with SIGQUIT where that has been made its soft stop.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGQUIT)


class Stopped(BaseException):
    """This process has been told to stop. Not an Exception, so that nothing on the way answers it."""


def attempt(resources: Resources, work: Work, id: str | int, run: Callable[[Claim], None]) -> None:
    """Claim a piece of work and run it; somebody else's, or one that has ended, is let be."""
    claim = claims.claim(resources.catalog, work, id, lease_s=resources.settings.lease_s)
    if claim is None:
        log.info("%s %s is taken or has ended", work.__tablename__, id)
        return
    with claims.keep(resources.catalog, claim):
        answer(resources, claim, lambda: run(claim))


def answer(resources: Resources, claim: Claim, run: Run, *, max_attempts: int = MAX_ATTEMPTS) -> bool:
    """Run what is claimed, and give it back if that fails. Whether it did not. Nothing is raised but a stop."""
    try:
        run()
    except LeaseLost as lost:
        log.warning("%s", lost)
    except Stopped:
        stopped(resources, claim)
        raise
    except Exception as error:
        log.exception("attempt %s at %s %s failed", claim.attempt, claim.work.__tablename__, claim.id)
        problem = Problem(code=claims.WORKER_FAULT, detail=f"{type(error).__name__}: {error}")
        _give_back(resources, claim, problem, is_forgiven=_is_outage(error), max_attempts=max_attempts)
    else:
        return True
    return False


def stopped(resources: Resources, claim: Claim) -> None:
    """Give work back because this process has been told to stop: at once, and the attempt does not count."""
    problem = Problem(code=claims.STOPPED, detail="its worker was stopped; another attempt follows")
    _give_back(resources, claim, problem, is_forgiven=True)


def _is_outage(error: Exception) -> bool:
    """A full disk or a store that is away: the work is not to blame, and will be done when that is over."""
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)


def _give_back(
    resources: Resources, claim: Claim, problem: Problem, *, is_forgiven: bool, max_attempts: int = MAX_ATTEMPTS
) -> None:
    try:
        claims.give_back(resources.catalog, claim, problem, is_forgiven=is_forgiven, max_attempts=max_attempts)
    except Exception as error:  # taken over, or the catalog is away: the lease lapses by itself
        log.warning("could not give %s %s back: %s", claim.work.__tablename__, claim.id, error)


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Stopped in the block when this process is told to stop: once, so that the work can be given back."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be answered
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped

    before = {each: signal.signal(each, stop) for each in STOP_SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
