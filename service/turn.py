"""A request's turn: accepted, with an engine that stays its own to the end, for as long as its client waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.batcher import Batcher
from service.clients import Patience, present
from service.state import State
from understudy.errors import DeadlineExceeded


@asynccontextmanager
async def turn(
    request: Request, service: State, patience: Patience, num_images: int
) -> AsyncIterator[tuple[Batcher, float]]:
    """The engine of this moment and the deadline, for ``num_images`` of a request whose body has been read.

    Raises NoChampion, Overloaded; and in place of what the block does ClientDisconnect when the client goes.
    """
    deadline = patience.deadline()
    left_s = deadline - asyncio.get_running_loop().time()
    with service.slot.lease() as batcher, service.admission.enter(num_images, left_s):
        try:
            async with present(request):
                yield batcher, deadline
        except DeadlineExceeded:
            service.metrics.dropped_requests.labels("deadline").inc()
            raise
        except ClientDisconnect:
            service.metrics.dropped_requests.labels("client_gone").inc()
            raise
