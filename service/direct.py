"""The short way for the usual request: one image as the raw body of ``POST /classify``, and no query.

The framework reads parameters, resolves dependencies and walks a dozen layers for every request; on a busy core
that takes a thirtieth of the time in which an EfficientNet-B0 answers. Whatever is not the usual request goes
the long way, which gives the same answers: both end in ``routes.classify.answer``.
"""

from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service import problems
from service.clients import MAX_TIMEOUT_MS
from service.routes import classify
from understudy.errors import UnderstudyError


@dataclass(frozen=True)
class Usual:
    """The route that a usual request went to, as metrics and logs name it."""

    path: str


CLASSIFY = Usual("/classify")
#: Digits of the longest time that a client may give.
MAX_DIGITS = len(str(MAX_TIMEOUT_MS))
#: Content types of a raw body besides image/*: curl says the second unless told otherwise.
RAW = (b"application/octet-stream", b"application/x-www-form-urlencoded", b"")


class Direct:
    """Answers usual requests itself, and hands on all others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["path"] != CLASSIFY.path
            or scope["method"] != "POST"
            or scope["query_string"]
            or not is_usual(dict(scope["headers"]), scope["app"].state.understudy.settings.max_request_bytes)
        ):
            await self._app(scope, receive, send)
            return
        scope["route"] = CLASSIFY
        request = Request(scope, receive, send)
        timeout = request.headers.get("x-request-timeout-ms")
        try:
            response = await classify.answer(
                request, request.app.state.understudy, classify.TOP_K, int(timeout) if timeout else None
            )
        except UnderstudyError as error:
            response = problems.of(error, CLASSIFY.path)
        except ClientDisconnect:
            response = problems.gone()
        await response(scope, receive, send)


def is_usual(headers: dict[bytes, bytes], max_bytes: int) -> bool:
    """Whether nothing about a request needs the long way: it says how long its one image is, and that is allowed."""
    kind = headers.get(b"content-type", b"")
    length, timeout = headers.get(b"content-length", b""), headers.get(b"x-request-timeout-ms", b"1")
    return (
        (kind.startswith(b"image/") or kind in RAW)
        and length.isdigit()
        and int(length) <= max_bytes
        and b"content-encoding" not in headers
        and timeout.isdigit()
        and len(timeout) <= MAX_DIGITS  # int() refuses thousands of them with an error of its own
        and 1 <= int(timeout) <= MAX_TIMEOUT_MS
    )
