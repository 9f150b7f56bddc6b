"""What is seen of every request: its id, its count and time, its span, its line in the log.

One middleware for all of it, around everything that answers, so that errors are seen too. It knows the route
by its template, never by its path: paths are without number.
"""

import logging
import random
import re
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from service.metrics import Metrics
from understudy import telemetry
from understudy.telemetry import Span

log = logging.getLogger(__name__)
access = logging.getLogger("service.requests")

#: An id that a client may choose: it goes into logs and headers as it is.
SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
#: Asked every few seconds by machines: no trace and no log line, unless they fail.
PROBES = {"/healthz", "/readyz", "/metrics"}
#: Any other word that a client sends as a method is counted as OTHER.
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
#: A request that took longer has its line even without an access log.
SLOW_S = 10.0


class Observed:
    """Gives every request an id, and tells metrics, trace and log how it went."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, access_log: bool) -> None:
        self._app, self._metrics, self._access_log = app, metrics, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        request_id = _id_of(scope["headers"])
        telemetry.request_id.set(request_id)  # for this task, which ends with the request

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        self._metrics.in_flight.inc()
        with _span(scope, request_id) as span:
            try:
                await self._app(scope, receive, answered)
            except Exception:
                log.exception("%s %s failed", scope["method"], _path(scope))
                if status:
                    raise  # too late for another answer: the connection is closed
                await problems.internal(scope["path"])(scope, receive, answered)
            finally:
                self._metrics.in_flight.dec()
                self._tell(scope, status or 500, time.perf_counter() - began, span)

    def _tell(self, scope: Scope, status: int, seconds: float, span: Span) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        self._metrics.answered(method, route, status, seconds)
        if telemetry.is_tracing():
            span.rename(f"{method} {route}")
            span.set(**{"http.route": route, "http.response.status_code": status})
            if status >= 500:
                span.fail(str(status))
        if self._access_log or seconds > SLOW_S or (status >= 500 and status != 503):  # a 503 is no fault
            _log_access(scope, route, status, seconds)


def _id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id that the client chose, if it can be used; else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and SANE_ID.fullmatch(value):
            return value.decode()
    return f"{random.getrandbits(128):032x}"  # to tell requests apart, not to keep them secret


def _path(scope: Scope) -> str:
    """As it was sent, percent-encoded: a path must not write a line of its own into the log."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.decode("ascii", "backslashreplace")


def _span(scope: Scope, request_id: str) -> Span:
    if not telemetry.is_tracing() or scope["path"] in PROBES:
        return Span()
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    client, server = scope.get("client") or ("", 0), scope.get("server") or ("", 0)
    attributes = {
        "http.request.method": scope["method"] if scope["method"] in METHODS else "_OTHER",
        "url.path": scope["path"],
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
        "server.address": server[0],
        "server.port": server[1] or 0,
        "client.address": client[0],
        "user_agent.original": headers.get("user-agent", ""),
        "understudy.request_id": request_id,
    }
    return telemetry.span(scope["method"], incoming=headers, **attributes)


def _log_access(scope: Scope, route: str, status: int, seconds: float) -> None:
    if scope["path"] in PROBES and (status < 500 or status == 503):
        return
    client = (scope.get("client") or ("-",))[0]
    fields = {
        "method": scope["method"],
        "path": _path(scope),
        "route": route,
        "status": status,
        "duration_s": round(seconds, 6),
        "client": client,
    }
    access.info("%s %s %d in %.3f s for %s", scope["method"], fields["path"], status, seconds, client, extra=fields)
