"""The one who asks: how long they will wait, and whether they are still there.

A server that works for clients who have gone, or whose time is over, has less for those who wait.
"""

import asyncio
from typing import Annotated

from fastapi import Depends, Header, Request

#: Nobody waits longer than an hour for a picture's name.
MAX_TIMEOUT_MS = 3_600_000

#: How long a client will wait for the answer; the setting ``request_timeout_ms`` where it does not say.
Timeout = Annotated[
    int | None,
    Header(
        alias="X-Request-Timeout-Ms",
        ge=1,
        le=MAX_TIMEOUT_MS,
        description="how long you will wait for the answer, from now on; what cannot be answered in this time is "
        "refused at once (503) or dropped (504)",
        examples=[1000],
    ),
]


async def _actor(request: Request) -> str:
    key_id = getattr(request.state, "key_id", None)
    return f"key {key_id}" if key_id else "anonymous"


#: Who asks, for the records: the API key by its id, where keys are required.
Actor = Annotated[str, Depends(_actor)]


class Patience:
    """How long one client waits: the time that it gave, from its first byte on; or the default, for our part alone."""

    def __init__(self, timeout_ms: int | None, default_ms: int) -> None:
        self.timeout_s = (timeout_ms or default_ms) / 1000
        self._clock = asyncio.get_running_loop().time
        self._arrived = self._clock() if timeout_ms else None

    def deadline(self) -> float:
        """By the event loop's clock. Ask when the whole request is here."""
        return (self._clock() if self._arrived is None else self._arrived) + self.timeout_s
