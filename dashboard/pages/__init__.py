"""Every page, in the order of the menu."""

from dashboard import frame
from dashboard.pages import loop, pseudo_label, pseudo_labels
from dashboard.sessions import Sessions

EVERY = (loop.PAGE, pseudo_labels.PAGE, pseudo_label.PAGE)


def register(sessions: Sessions) -> None:
    """Give every page its address."""
    frame.serve(EVERY, sessions)
