"""Reading a request's body into memory: within a time, and within what all bodies together may take.

Only for requests that are answered at once. Uploads, which may be of any size, stream into the store
instead (``uploads``).
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

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


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raises BodyTimeout when the block takes longer: a client that sends a byte a minute holds nothing for long."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as late:
        raise BodyTimeout(
            f"the body was not here after {seconds:g} s; send less at a time, or over a faster line"
        ) from late
