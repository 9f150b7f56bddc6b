"""Where looking at pseudo-labels is worked on: behind whoever classifies, on two threads of the query's own."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from service.behind import Behind
from understudy import pseudo_labels
from understudy.pseudo_labels import Looking

T = TypeVar("T")

#: Of a query: half the time of one, and still little beside those that classify.
THREADS = 2
#: Queries that may wait for the one that runs: about two seconds of work at a million pseudo-labels.
MAX_WAITING = 4


class Looker:
    """A thread that looks. Used from one event loop; close it at the end."""

    def __init__(self, looking: Looking, *, max_waiting: int = MAX_WAITING) -> None:
        self._looking = looking
        self._behind = Behind("look", "queries over pseudo-labels", max_waiting=max_waiting)

    async def look(self, query: Callable[[Looking], T]) -> T:
        """The answer to a query. Raises Overloaded if too many wait, and what the query raises."""
        return await self._behind.run(partial(query, self._looking))

    def prepare(self) -> None:
        """Have the champion's labels at hand before anybody asks for them."""
        self._behind.submit(partial(pseudo_labels.prepare, self._looking))

    def close(self) -> None:
        """Wait for the query that runs, and drop those that wait."""
        self._behind.close()
