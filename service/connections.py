"""Limits on connections, which no middleware can see: how many there are, and how long one may take to ask.

A request whose head does not come to its end in time gets 408; a connection that says nothing, or does not read its
answers, is closed; one too many gets 503 at once. The pace of bodies is the routes' business. For a request that comes whole, all of it is two comparisons.
"""

import asyncio
import secrets
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service import problems
from service.metrics import Metrics
from service.problems import RETRY_AFTER_S

#: A head may grow to this, give or take what one read brings; browsers and proxies send an eighth of it at most.
MAX_HEAD_BYTES = 64 * 2**10
#: A refused client gets this long to read why, before its connection is reset.
FAREWELL_S = 1.0
#: A kept connection is closed this long after the stop began: a request that is on its way by then is answered.
LAST_REQUEST_S = 0.25
#: A client that does not even read its answer is cut off this long after its connection was to be closed.
ABORT_S = 10.0


class Connections:
    """What all connections of one server share: their limits, their counts, and whether the server is stopping."""

    def __init__(
        self, *, header_timeout_s: float, send_timeout_s: float, max_connections: int, metrics: Metrics
    ) -> None:
        self.header_timeout_s, self.send_timeout_s = header_timeout_s, send_timeout_s
        self.max_connections, self.metrics = max_connections, metrics
        self.is_stopping = False

    def refused(self, reason: str) -> None:
        """Count a connection that a limit has closed."""
        self.metrics.refused_connections.labels(reason).inc()


class Corked:
    """A transport that writes an answer's head and body together, which uvicorn hands over one after the other.

    A write wakes the client, and costs as much as reading its request did. What is written first waits for the
    second, or for the end of this turn of the event loop. All but writing is the transport's own.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: bytes | None = None
        self.is_closing, self.get_extra_info = transport.is_closing, transport.get_extra_info

    def __getattr__(self, name: str) -> Any:
        """Whatever else is done to a transport comes after what was written before."""
        self._flush()
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._held is not None:
            data, self._held = self._held + data, None
            self._transport.write(data)
            return
        self._held = data
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.write(held)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's connection, with limits."""

    def __init__(self, shared: Connections, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._shared = shared
        self._is_in_head, self._head_bytes = False, 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._is_counted = self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        limit = self._shared.max_connections
        if len(self.connections) >= limit:
            self.transport = transport
            detail = f"this process has {limit} connections open, its limit; come again in {RETRY_AFTER_S} s"
            self._refuse(503, "too_many_connections", detail)
            return
        super().connection_made(Corked(transport, self.loop))  # type: ignore[arg-type]
        self._is_counted = True
        self._shared.metrics.connections.inc()
        self._start_head_timer()
        if self._shared.is_stopping:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_send_timer()
        if self._is_counted:
            self._shared.metrics.connections.dec()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        super().data_received(data)
        if self._is_in_head or not self._is_answering:
            self._wait_for_head(len(data))

    def on_message_begin(self) -> None:
        self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head, self._head_bytes = False, 0
        self._stop_head_timer()
        super().on_headers_complete()
        if self._shared.is_stopping:
            self.cycle.keep_alive = False

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self, num_bytes: int) -> None:
        if self._is_in_head:
            self._head_bytes += num_bytes
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                detail = f"the request's head has more than {MAX_HEAD_BYTES} bytes; send fewer or shorter headers"
                self._refuse(431, "head_too_large", detail)
        if self._head_timer is None:  # bytes that trickle do not start it anew
            self._start_head_timer()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._shared.header_timeout_s, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing() or self._is_refused:
            return
        if self._is_answering:  # the next request comes slowly while this one is being answered
            self._start_head_timer()
        elif self._is_in_head:
            limit = self._shared.header_timeout_s
            self._refuse(408, "head_timeout", f"the request's head was not complete after {limit:g} s; send it faster")
        else:
            self._shared.refused("silent")
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets a problem too."""
        self._refuse(400, "bad_request", "this is no HTTP/1.1 request, or its body breaks the rules of its length")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Say why, end our side, and hear no more: closing at once would reset the connection before it is read."""
        self._is_refused = True
        self._stop_head_timer()
        self._shared.refused(code)
        if self._is_answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:  # two answers in one are worse than a short one
                self.transport.close()
                return
        self.transport.write(_as_bytes(status, code, detail, self.server_state.default_headers))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(FAREWELL_S, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timer = self.loop.call_later(self._shared.send_timeout_s, self._is_not_read)

    def resume_writing(self) -> None:
        self._stop_send_timer()
        super().resume_writing()

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _is_not_read(self) -> None:
        self._shared.refused("not_read")
        self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing():
            self._close()

    def _close(self) -> None:
        """Once what was written has gone out; but not later than that."""
        self.transport.close()
        self.loop.call_later(ABORT_S, self.transport.abort)

    def shutdown(self) -> None:
        """The server stops: answer what is being answered and what is on its way, and close."""
        if self._is_answering:
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(LAST_REQUEST_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._is_answering and not self.transport.is_closing():
            self._close()


def _as_bytes(status: int, code: str, detail: str, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """A problem as it goes over the wire."""
    problem = problems.answer(status, code, detail)
    headers = [
        *default_headers,
        *problem.raw_headers,
        (b"x-request-id", secrets.token_hex(16).encode()),
        (b"connection", b"close"),
    ]
    lines = [STATUS_LINE[status], *(b"%s: %s\r\n" % header for header in headers), b"\r\n", bytes(problem.body)]
    return b"".join(lines)
