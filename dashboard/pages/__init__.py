"""Every page, in the order of the menu."""

from dashboard import frame
from dashboard.pages import ingest, jobs, loop, pseudo_label, pseudo_labels, trying
from dashboard.sessions import Sessions

EVERY = (
    loop.PAGE,
    ingest.PAGE,
    pseudo_labels.PAGE,
    pseudo_label.PAGE,
    jobs.PAGE,
    trying.PAGE,
)


def register(sessions: Sessions) -> None:
    """Give every page its address."""
    frame.serve(EVERY, sessions)
