"""Every page, in the order of the menu."""

from dashboard import frame
from dashboard.pages import (
    compare,
    generation,
    generations,
    ingest,
    jobs,
    loop,
    pseudo_label,
    pseudo_labels,
    review,
    serving,
    trying,
)
from dashboard.sessions import Sessions

EVERY = (
    loop.PAGE,
    ingest.PAGE,
    pseudo_labels.PAGE,
    pseudo_label.PAGE,
    review.PAGE,
    generations.PAGE,
    generation.PAGE,
    compare.PAGE,
    serving.PAGE,
    jobs.PAGE,
    trying.PAGE,
)


def register(sessions: Sessions) -> None:
    """Give every page its address."""
    frame.serve(EVERY, sessions)
