"""Work beside the event loop, and behind whoever classifies: one piece at a time, on a thread of low priority.

What its work starts inherits that priority. A few pieces may wait; beyond that the answer is 503 at once.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from understudy.errors import Overloaded

T = TypeVar("T")

#: Nice, as ``nice(1)`` has it: what classifies goes first wherever both want the same core.
NICE = 10


class Behind:
    """A thread for one kind of work. Used from one event loop; close it at the end. ``what`` is for who is refused."""

    def __init__(self, name: str, what: str, *, max_waiting: int) -> None:
        self._what, self._max_waiting = what, max_waiting
        self._num_accepted = 0
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_step_back)

    async def run(self, work: Callable[[], T]) -> T:
        """What the work gives. Raises Overloaded if too much waits, and what the work raises."""
        if self._num_accepted > self._max_waiting:
            raise Overloaded(
                f"{self._num_accepted} {self._what} are accepted already, and one runs at a time; try again soon",
                retry_after_s=1.0,
            )
        self._num_accepted += 1
        running = self._executor.submit(work)
        # Not when the client leaves: the thread works until the work has ended.
        loop = asyncio.get_running_loop()
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(self._ended))
        return await asyncio.wrap_future(running)

    def submit(self, work: Callable[[], object]) -> None:
        """Have something done after what waits; nobody asks what becomes of it. Raises RuntimeError when closed."""
        self._executor.submit(work)

    def close(self) -> None:
        """Wait for what runs, and drop what waits."""
        self._executor.shutdown(cancel_futures=True)

    def _ended(self) -> None:
        self._num_accepted -= 1


def _step_back() -> None:
    if hasattr(os, "setpriority"):
        with suppress(OSError):  # on Linux a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
