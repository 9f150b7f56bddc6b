"""Every page, in the order of the menu."""

from dashboard import frame
from dashboard.pages import compare, generation, generations, loop, serving
from dashboard.sessions import Sessions

EVERY = (
    loop.PAGE,
    generations.PAGE,
    generation.PAGE,
    compare.PAGE,
    serving.PAGE,
)


def register(sessions: Sessions) -> None:
    """Give every page its address."""
    frame.serve(EVERY, sessions)
