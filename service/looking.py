"""Where looking at pseudo-labels is worked on: beside the event loop, and behind whoever classifies.

One query at a time, on two threads of low priority, which those that the query starts inherit. A few may wait; beyond
that the answer is 503 at once.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from understudy import pseudo_labels
from understudy.errors import Overloaded
from understudy.pseudo_labels import Looking

T = TypeVar("T")

#: Of a query: half the time of one, and still little beside those that classify.
THREADS = 2
#: Queries that may wait for the one that runs: about two seconds of work at a million pseudo-labels.
MAX_WAITING = 4
#: Nice, as ``nice(1)`` has it: what classifies goes first wherever both want the same core.
NICE = 10


class Looker:
    """A thread that looks. Used from one event loop; close it at the end."""

    def __init__(self, looking: Looking, *, max_waiting: int = MAX_WAITING) -> None:
        self._looking, self._max_waiting = looking, max_waiting
        self._num_accepted = 0
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="look", initializer=_step_back)

    async def look(self, query: Callable[[Looking], T]) -> T:
        """The answer to a query. Raises Overloaded if too many wait, and what the query raises."""
        if self._num_accepted > self._max_waiting:
            raise Overloaded(
                f"{self._num_accepted} queries over pseudo-labels are accepted already, and one runs at a time; "
                "try again soon",
                retry_after_s=1.0,
            )
        self._num_accepted += 1
        running = self._executor.submit(self._run, query)
        # Not when the client leaves: the thread works until the query has ended.
        loop = asyncio.get_running_loop()
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(self._ended))
        return await asyncio.wrap_future(running)

    def prepare(self) -> None:
        """Have the champion's labels at hand before anybody asks for them."""
        self._executor.submit(self._run, pseudo_labels.prepare)

    def close(self) -> None:
        """Wait for the query that runs, and drop those that wait."""
        self._executor.shutdown(cancel_futures=True)

    def _run(self, query: Callable[[Looking], T]) -> T:
        return query(self._looking)

    def _ended(self) -> None:
        self._num_accepted -= 1


def _step_back() -> None:
    if hasattr(os, "setpriority"):
        with suppress(OSError):  # on Linux a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
