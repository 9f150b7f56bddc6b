"""A light HTTP client for what wrk cannot do: a schedule of its own, and looking into the answers.

Keep-alive connections over asyncio, requests as bytes made beforehand; a thousand requests a second cost it a tenth of a core.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools
import numpy as np

from benchmarks.serving.photos import Bodies

#: Pause before a broken connection is opened again, so that a dead server is not asked in a tight loop.
REOPEN_S = 0.05


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Outcome:
    """What became of one request. Times are of ``time.perf_counter``."""

    due: float  #: when it should have been sent; in a closed loop, when it was
    sent: float
    ended: float
    status: int  #: 0: the connection broke, or the client gave up
    body: bytes = b""

    @property
    def ms(self) -> float:
        """From when it was due, so that a request which had to wait for its turn is not thought fast."""
        return (self.ended - self.due) * 1e3


@dataclass(frozen=True)
class Target:
    """A server's address, and the requests to send it, complete as bytes, with the deadline they ask for."""

    host: str
    port: int
    requests: tuple[bytes, ...]

    @classmethod
    def of(cls, url: str, bodies: Bodies, *, timeout_ms: int | None = None) -> "Target":
        address = urlsplit(url)
        deadline = f"X-Request-Timeout-Ms: {timeout_ms}\r\n" if timeout_ms is not None else ""
        head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {bodies.content_type}\r\n{deadline}"
        requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies.read()]
        return cls(address.hostname or "", address.port or 80, tuple(requests))


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, target: Target) -> "Connection":
        """Raises OSError."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, target.host, target.port)
        return connection

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def send(self, request: bytes) -> Answer:
        """Raises ConnectionError if it breaks before the answer is whole."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the server closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the connection broke before the answer was whole"))

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        self._parser = httptools.HttpResponseParser(self)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(status, self._body))


async def closed(
    target: Target,
    *,
    connections: int,
    is_over: Callable[[], bool],
    outcomes: list[Outcome] | None = None,
    keep_bodies: bool = False,
) -> list[Outcome]:
    """A closed loop: so many connections, each sending its next request when it has its answer, until it is over.

    ``outcomes`` is a list to be added to, for one who watches while the loop runs.
    """
    outcomes = [] if outcomes is None else outcomes
    requests = itertools.cycle(target.requests)

    async def repeat() -> None:
        connection: Connection | None = None
        while not is_over():
            sent = time.perf_counter()
            try:
                if connection is None or not connection.is_open:
                    connection = await Connection.open(target)
                answer = await connection.send(next(requests))
            except OSError:
                outcomes.append(Outcome(sent, sent, time.perf_counter(), 0))
                connection = None
                await asyncio.sleep(REOPEN_S)
                continue
            body = answer.body if keep_bodies else b""
            outcomes.append(Outcome(sent, sent, time.perf_counter(), answer.status, body))
        if connection is not None:
            connection.close()

    await asyncio.gather(*(repeat() for _ in range(connections)))
    return outcomes


def within(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds are over, from now."""
    until = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= until


def percentile(milliseconds: Sequence[float], percent: float) -> float:
    """NaN of nothing."""
    return float(np.percentile(milliseconds, percent)) if milliseconds else float("nan")
