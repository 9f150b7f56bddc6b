"""What browsers send: images on their way to the service, and single images to be asked about.

Uploads pass through as they come: nothing of them is kept here, on disk or in memory. A single image that somebody
tries is held for a while, under a name that nobody guesses, so that the page which shows its answers is a link.
"""

import functools
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import anyio
from anyio import from_thread, to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.requests import ClientDisconnect

from dashboard.pictures import STATIC
from dashboard.sessions import System
from understudy.client import Client, RequestFailed
from understudy.errors import UnderstudyError
from understudy.records import BUCKET_PATTERN, Job

router = APIRouter()

#: Uploads that pass through at once, each in a thread of its own; more are told to wait.
MAX_SENDING = 8
#: An image to try: far above any phone's photo, and little to hold.
MAX_IMAGE_BYTES = 32_000_000
#: Browsers draw these; by their first bytes, because names say nothing.
_DRAWN = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
    b"BM": "image/bmp",
}
#: Whoever sent it, it is a picture and nothing else.
_INERT = {"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "private, max-age=3600"}


@router.post("/ingest/send")
async def send(
    request: Request,
    bucket: Annotated[str, Query(pattern=BUCKET_PATTERN)],
    name: Annotated[str, Query(max_length=1000)] = "upload",
) -> Response:
    """Pass an upload on: an archive or an image as the raw body, or several files as multipart."""
    if not _is_from_page(request):
        return _refusal(403, "send files from the dashboard's own page")
    limiter: anyio.CapacityLimiter = request.app.state.sending
    if limiter.borrowed_tokens >= limiter.total_tokens:
        return _refusal(503, f"{limiter.total_tokens:g} uploads are under way already; try again when one has ended")
    media_type = request.headers.get("content-type", "")
    multipart = media_type if media_type.startswith("multipart/form-data") else ""

    def passed_on(client: Client) -> Job:
        return client.relay(bucket, _chunks(request.stream()), name=name, media_type=multipart)

    try:
        system = _system(request)
        job = await to_thread.run_sync(functools.partial(passed_on, system.client), limiter=limiter)
    except UnderstudyError as error:
        return _refusal((error.status if isinstance(error, RequestFailed) else None) or 502, str(error))
    except ClientDisconnect:
        return _refusal(400, "the browser left before the end")
    return JSONResponse({"id": job.id}, status_code=202)


def _chunks(stream: AsyncIterator[bytes]) -> Iterator[bytes]:
    """A body as it arrives, for a thread of the event loop's that reads it: what is slow is waited for."""
    while chunk := from_thread.run(_next, stream):
        yield chunk


async def _next(stream: AsyncIterator[bytes]) -> bytes:
    async for chunk in stream:
        if chunk:
            return chunk
    return b""


@router.post("/try/send")
async def hold(request: Request) -> Response:
    """Hold an image that is to be asked about."""
    if not _is_from_page(request):
        return _refusal(403, "send images from the dashboard's own page")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_IMAGE_BYTES:
            return _refusal(413, f"the image is larger than {MAX_IMAGE_BYTES:,} bytes, the limit here")
    if not data:
        return _refusal(422, "the file is empty")
    return JSONResponse({"id": _system(request).held.keep(bytes(data))})


@router.get("/try/picture/{token}")
async def held(request: Request, token: str) -> Response:
    """An image that is held, where browsers draw such."""
    data = _system(request).held.find(token) or b""
    kind = next((kind for magic, kind in _DRAWN.items() if data.startswith(magic)), None)
    if kind is None:
        return FileResponse(STATIC / "unseen.svg")
    return Response(data, media_type=kind, headers=_INERT)


def _system(request: Request) -> System:
    system: System = request.app.state.sessions.of(request.cookies)
    return system


def _is_from_page(request: Request) -> bool:
    """Whether our page sent it: no other site's page may set this header without asking, and nobody answers that."""
    return "x-understudy-page" in request.headers


def _refusal(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status)
