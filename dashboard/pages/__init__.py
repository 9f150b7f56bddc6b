"""Every page, in the order of the menu."""

from dashboard import frame
from dashboard.pages import ingest, jobs, loop, trying
from dashboard.sessions import Sessions

EVERY = (
    loop.PAGE,
    ingest.PAGE,
    jobs.PAGE,
    trying.PAGE,
)


def register(sessions: Sessions) -> None:
    """Give every page its address."""
    frame.serve(EVERY, sessions)
