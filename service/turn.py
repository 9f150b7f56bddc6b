"""A request's turn: accepted, with an engine that stays its own to the end, for as long as its client waits.

A server that works for clients who have gone, or whose time is over, has less for those who wait.
"""

import asyncio
from contextlib import suppress
from types import TracebackType

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.batcher import Batcher
from service.clients import Patience
from service.state import State
from understudy.errors import DeadlineExceeded


class turn:
    """The engine of this moment and the deadline, for ``num_images`` of a request whose body has been read.

    Raises NoChampion, Overloaded; and in place of what the block does ClientDisconnect when the client goes.
    """

    def __init__(self, request: Request, service: State, patience: Patience, num_images: int) -> None:
        self._request, self._service, self._patience, self._num_images = request, service, patience, num_images

    async def __aenter__(self) -> tuple[Batcher, float]:
        deadline = self._patience.deadline()
        self._lease = self._service.slot.take()
        try:
            self._service.admission.accept(self._num_images, deadline - asyncio.get_running_loop().time())
        except BaseException:
            self._service.slot.give_back(self._lease)
            raise
        task = asyncio.current_task()
        assert task is not None
        self._task, self._is_gone = task, False
        self._watching = asyncio.create_task(self._watch())
        return self._lease.batcher, deadline

    async def _watch(self) -> None:
        """Cancel the block when the client goes."""
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watching.cancel()
        self._service.slot.give_back(self._lease)
        self._service.admission.leave(self._num_images, are_answered=error is None)
        if isinstance(error, DeadlineExceeded):
            self._service.metrics.dropped_requests.labels("deadline").inc()
        if self._is_gone:
            self._service.metrics.dropped_requests.labels("client_gone").inc()
            self._task.uncancel()
            with suppress(asyncio.CancelledError):  # if the block had ended before the cancellation came
                await asyncio.sleep(0)
            raise ClientDisconnect from error
