"""A file of the store as an answer, or one range of its bytes: what is large is downloaded so, and goes on after a break."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Header, Response
from fastapi.responses import StreamingResponse

from understudy.errors import Refused
from understudy.store import Store

#: Read from the store at a time while sending.
CHUNK_BYTES = 4 * 2**20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

Range = Annotated[str | None, Header(description="one range of bytes: `bytes=1000-`")]
#: A route's ``responses``.
FILE: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}
    for status, text in {200: "The whole file.", 206: "The part that `Range` asked for."}.items()
}


def answer(store: Store, key: str, num_bytes: int, sha256: str | None, range: str | None) -> Response:
    """An object of that size, or the range of it. Raises Refused (range_not_satisfiable) for one behind its end."""
    headers = {"Accept-Ranges": "bytes"} | ({"ETag": f'"{sha256}"'} if sha256 else {})
    first, end = asked = _asked(range, num_bytes)
    if asked != (0, num_bytes):
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{num_bytes}"
    return StreamingResponse(
        _chunks(store, key, first, end),
        206 if "Content-Range" in headers else 200,
        headers | {"Content-Length": str(end - first)},
        "application/octet-stream",
    )


def _asked(header: str | None, num_bytes: int) -> tuple[int, int]:
    """The bytes from the first to before the second. What is no single range of bytes asks for all (RFC 9110, 14.2)."""
    found = _RANGE.fullmatch(header or "")
    if found is None or found.groups() == ("", ""):
        return 0, num_bytes
    first, last = found.groups()
    if not first:
        begin, end = max(0, num_bytes - int(last)), num_bytes
    else:
        begin, end = int(first), min(num_bytes, int(last) + 1) if last else num_bytes
    if last and first and int(last) < begin:
        return 0, num_bytes
    if begin >= end:
        detail = f"Range {header} begins after the end of the file, which has {num_bytes} bytes"
        raise Refused(detail, code="range_not_satisfiable")
    return begin, end


def _chunks(store: Store, key: str, first: int, end: int) -> Iterator[bytes]:
    for at in range(first, end, CHUNK_BYTES):
        yield store.get_range(key, at, min(CHUNK_BYTES, end - at))
