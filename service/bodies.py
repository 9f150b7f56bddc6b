"""Reading a request's body into memory: within a time, and within what all bodies together may take.

Only for requests that are answered at once. Uploads, which may be of any size, stream into the store
instead (``uploads``).
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from fastapi import Request

from understudy.errors import BodyTimeout, Overloaded

#: What a refused client is told to wait: a body of usual size is here and answered within this.
RETRY_AFTER_S = 1.0


class Budget:
    """The memory that the bodies of all requests of a process together may take, and how long each may arrive."""

    def __init__(self, max_bytes: int, *, timeout_s: float) -> None:
        self.max_bytes, self.timeout_s = max_bytes, timeout_s
        self.held_bytes = 0

    @contextmanager
    def allowance(self) -> Iterator["Allowance"]:
        """One request's share for as long as the block lasts, empty at first."""
        share = Allowance(self)
        try:
            yield share
        finally:
            self.held_bytes -= share.num_bytes

    def take(self, num_bytes: int) -> None:
        """Raises Overloaded if so much more would be too much."""
        if self.held_bytes + num_bytes > self.max_bytes:
            raise Overloaded(
                f"{self.held_bytes:,} bytes of requests are held already, and {num_bytes:,} more would pass the limit of "
                f"{self.max_bytes:,}; try again soon",
                retry_after_s=RETRY_AFTER_S,
            )
        self.held_bytes += num_bytes


class Allowance:
    """What one request holds of the budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.num_bytes = 0

    def raise_to(self, num_bytes: int) -> None:
        """Hold as much as is missing to ``num_bytes``. Raises Overloaded."""
        if num_bytes > self.num_bytes:
            self.budget.take(num_bytes - self.num_bytes)
            self.num_bytes = num_bytes


async def read(request: Request, share: Allowance) -> bytes:
    """The whole body. Raises BodyTimeout, Overloaded; the framework answers 413 to one over the limit."""
    chunks: list[bytes] = []
    num_bytes = 0
    async with within(share.budget.timeout_s):
        async for chunk in request.stream():
            num_bytes += len(chunk)
            share.raise_to(num_bytes)
            chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class within:
    """Raises BodyTimeout when the block takes longer: a client that sends a byte a minute holds nothing for long.

    As ``asyncio.timeout`` does it, which with a context manager of ours around it costs several times as much.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._is_late = seconds, False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._num_cancelled = task, task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        self._is_late = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # Not if somebody else wants the task to end as well; the server that stops, for one.
        if self._is_late and self._task.uncancel() <= self._num_cancelled and kind is asyncio.CancelledError:
            raise BodyTimeout(
                f"the body was not here after {self._seconds:g} s; send less at a time, or over a faster line"
            ) from error
