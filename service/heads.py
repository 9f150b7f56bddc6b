"""What a request's head must be, before anything is done for it; and the end of a connection whose body nobody reads.

The parser has refused by then what is no HTTP at all. It knows nothing of routes.
"""

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from understudy.errors import UnderstudyError, UploadRefused

RawHeaders = list[tuple[bytes, bytes]]

#: A name or an address, and perhaps a port: no user, no path.
HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~%!$&'()*+,;=-]*)(:[0-9]*)?")
#: So much of a refused body is read and thrown away, so that its connection can be used again: a photo.
MAX_UNREAD_BYTES = 2**20


class HeadRefused(UnderstudyError):
    """A head that contradicts itself, or that two servers could read in two ways."""

    code = "bad_request"


class Heads:
    """Refuses what cannot be meant. An answer that comes before the end of a long body ends the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: RawHeaders = scope["headers"]
        receive, send = _watched(headers, receive, send)
        try:
            _check_host(_values(headers, b"host"), scope["http_version"])
            _check_codings(headers)
        except HeadRefused as error:
            await problems.answer(400, error.code, str(error), {"Connection": "close"}, path=scope["path"])(
                scope, receive, send
            )
        except UploadRefused as error:
            # RFC 9110, 15.5.16: so that the client knows that it was the coding, and which would do.
            headers_back = {"Accept-Encoding": "identity"}
            await problems.answer(415, error.code, str(error), headers_back, path=scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _values(headers: RawHeaders, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _check_host(hosts: list[bytes], http_version: str) -> None:
    if not hosts and http_version == "1.0":
        return
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
        seen = b", ".join(hosts)[:100].decode("latin-1")
        raise HeadRefused(f"the header Host is {seen!r}; send one, with a host name and perhaps a port")


def _check_codings(headers: RawHeaders) -> None:
    for value in _values(headers, b"transfer-encoding"):
        if value.strip().lower() != b"chunked":
            raise HeadRefused(
                f"the transfer coding {value[:100].decode('latin-1')!r} is not taken; send chunked or none"
            )
    for value in _values(headers, b"content-encoding"):
        if value.strip().lower() not in (b"", b"identity"):
            raise UploadRefused(
                f"a body in the content coding {value[:100].decode('latin-1')!r} is not taken; send it uncompressed: images "
                f"are compressed already",
                code="unsupported_media_type",
            )


def _watched(headers: RawHeaders, receive: Receive, send: Send) -> tuple[Receive, Send]:
    """The same, but an answer before the end of a long body says that the connection ends with it.

    The server would read the rest only to throw it away: a gigabyte, or a byte a minute.
    """
    if not _may_be_long(headers):
        return receive, send
    is_read = False

    async def receiving() -> Message:
        nonlocal is_read
        message = await receive()
        is_read = is_read or not message.get("more_body", False)
        return message

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start" and not is_read:
            message = {**message, "headers": [*_without_connection(message["headers"]), (b"connection", b"close")]}
        await send(message)

    return receiving, sending


def _may_be_long(headers: RawHeaders) -> bool:
    lengths = _values(headers, b"content-length")
    is_chunked = bool(_values(headers, b"transfer-encoding"))
    return is_chunked or any(not length.isdigit() or int(length) > MAX_UNREAD_BYTES for length in lengths)


def _without_connection(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    return [(key, value) for key, value in headers if key.lower() != b"connection"]
