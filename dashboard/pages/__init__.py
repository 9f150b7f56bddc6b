"""Every page, in the order of the menu."""

from dashboard import frame
from dashboard.pages import loop
from dashboard.sessions import Sessions

EVERY = (loop.PAGE,)


def register(sessions: Sessions) -> None:
    """Give every page its address."""
    frame.serve(EVERY, sessions)
