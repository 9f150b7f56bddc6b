"""The pictures and files on the pages, fetched in the name of who looks: ``<img>`` cannot send an API key.

Strangers sent these images: what is shown is always a JPEG that the service made anew, or a PNG that the trainer drew.
"""

import itertools
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as Part
from fastapi.responses import FileResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from dashboard.sessions import System
from understudy.client import RequestFailed
from understudy.errors import UnderstudyError
from understudy.records import NAME_PATTERN

router = APIRouter()

STATIC = Path(__file__).parent / "static"
#: An image never changes under its name.
FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}
BRIEFLY = {"Cache-Control": "private, max-age=5"}

THUMBNAIL_SIZE = 160  #: pixels of the longer side

Sha256 = Annotated[str, Part(pattern="^[0-9a-f]{64}$")]
JobId = Annotated[str, Part(pattern=NAME_PATTERN)]
Size = Annotated[int, Query(ge=16, le=1024)]


@router.get("/static/{name}")
async def static(name: Annotated[str, Part(pattern=r"^[a-z-]+\.(css|svg|js)$")]) -> Response:
    """The look of the pages, and their scripts."""
    path = STATIC / name
    return FileResponse(path) if path.is_file() else Response(status_code=404)


@router.get("/picture/{sha256}")
async def picture(request: Request, sha256: Sha256, size: Size = THUMBNAIL_SIZE) -> Response:
    """An accepted image as a JPEG."""
    try:
        data = await _system(request).ask(lambda client: client.picture(sha256, size=size))
    except UnderstudyError as error:
        return _missing(error)
    return Response(data, media_type="image/jpeg", headers=FOR_EVER)


@router.get("/quarantine/{job_id}/{index}")
async def quarantined(
    request: Request, job_id: JobId, index: Annotated[int, Part(ge=0, le=10**9)], size: Size = THUMBNAIL_SIZE
) -> Response:
    """What can be seen of a quarantined entry; a sign for what cannot."""
    try:
        data = await _system(request).ask(lambda client: client.quarantined(job_id, index, size=size))
    except UnderstudyError as error:
        if isinstance(error, RequestFailed) and error.status in (404, 422):
            return FileResponse(STATIC / "unseen.svg")
        return _missing(error)
    return Response(data, media_type="image/jpeg", headers=BRIEFLY)


@router.get("/receipts/{job_id}.csv")
async def receipt(request: Request, job_id: JobId) -> Response:
    """A receipt as a download, line by line as it comes."""
    lines = _system(request).client.receipt_as(job_id, "csv")
    try:
        first = await run_in_threadpool(next, lines, b"")
    except UnderstudyError as error:
        return _missing(error)
    headers = {"Content-Disposition": f'attachment; filename="receipt-{job_id}.csv"'}
    return StreamingResponse(itertools.chain([first], lines), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/generations/{number}/pictures/{name}")
async def drawn(
    request: Request,
    number: Annotated[int, Part(ge=0)],
    name: Annotated[str, Part(pattern=r"^[a-z0-9_-]+\.(png|jpg)$")],
) -> Response:
    """A picture that the trainer drew of a generation."""
    try:
        data = await _system(request).ask(lambda client: client.generation_picture(number, name))
    except UnderstudyError as error:
        return _missing(error)
    media_type = "image/jpeg" if name.endswith(".jpg") else "image/png"
    return Response(data, media_type=media_type, headers=BRIEFLY)


def _system(request: Request) -> System:
    system: System = request.app.state.sessions.of(request.cookies)
    return system


def _missing(error: UnderstudyError) -> Response:
    status = (error.status if isinstance(error, RequestFailed) else None) or 502
    return Response(str(error), status_code=status, media_type="text/plain")
