"""Errors to RFC 9457 problem details. The one place that knows which status belongs to which error."""

import logging
import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from understudy import errors
from understudy.catalog import database
from understudy.errors import UnderstudyError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Ask a refused client to come back after this long, if nothing better is known. Longer than the other makes
#: clients of a short overload idle.
RETRY_AFTER_S, MAX_RETRY_AFTER_S = 1, 30
#: Under this path clients of the Open Inference Protocol look for the sentence in a member ``error``.
PROTOCOL_PATH = "/v2"

#: The first that fits decides: codes before classes, special classes before general ones.
STATUS_OF_CODE = {
    "not_an_image": 415,
    "unsupported_media_type": 415,
    "bad_form": 400,
    "json_too_large": 413,
    "body_too_large": 413,
    "range_not_satisfiable": 416,
}
STATUS_OF_ERROR: tuple[tuple[type[UnderstudyError], int], ...] = (
    (errors.ArtifactRefused, 500),  # the model's fault, not the client's
    (errors.LabelSetRefused, 500),  # the store's
    (errors.BodyTimeout, 408),
    (errors.Refused, 422),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.DeadlineExceeded, 504),
    (errors.NotReady, 503),
    (errors.UnderstudyError, 500),
)


class ProblemDetails(BaseModel):
    """RFC 9457. ``code`` is stable and for programs; ``detail`` is for people."""

    type: str = Field("about:blank", description="always about:blank: `code` says what happened")
    title: str = Field(description="the status in words", examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["the image breaks off or is damaged: image file is truncated"])
    code: str = Field(examples=["truncated"])


#: Codes of the framework's own errors; Python's words for a status change from version to version.
CODE_OF_STATUS = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}

#: For OpenAPI: every route may answer so.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemDetails, "description": text, "content": {MEDIA_TYPE: {}}}
    for status, text in {
        413: "The body is too large.",
        415: "Not a kind of content that is taken.",
        422: "What was sent cannot be used; `code` and `detail` say why.",
        503: "Not ready or overloaded; try again after `Retry-After` seconds.",
    }.items()
}
#: Besides, for routes that wait for a model's answer.
IN_TIME: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemDetails, "description": text, "content": {MEDIA_TYPE: {}}}
    for status, text in {
        408: "The body took too long to arrive.",
        504: "The request's time (`X-Request-Timeout-Ms`) was over before its turn came.",
    }.items()
}


def may_be(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: a route's own refusals, besides those that ``openapi`` gives to every route of its kind."""
    described = {
        404: "There is nothing of that name.",
        409: "It contradicts what is there already.",
        416: "The range begins after the end of the file.",
        503: RESPONSES[503]["description"],
    }
    return {status: {"model": ProblemDetails, "description": described[status]} for status in statuses}


def status_of(error: UnderstudyError) -> int:
    """The HTTP status of an error of ours."""
    by_class = next(status for kind, status in STATUS_OF_ERROR if isinstance(error, kind))
    return STATUS_OF_CODE.get(error.code, by_class)


def answer(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None, *, path: str = ""
) -> JSONResponse:
    """A problem as a response to a request for ``path``."""
    detail = detail.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair, as JSON may have, is no text
    body = ProblemDetails(title=HTTPStatus(status).phrase, status=status, detail=detail, code=code)
    spoken = {"error": detail} if f"{path}/".startswith(f"{PROTOCOL_PATH}/") else {}
    retry = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return JSONResponse(body.model_dump() | spoken, status, headers=retry | (headers or {}), media_type=MEDIA_TYPE)


def _headers(error: UnderstudyError) -> dict[str, str]:
    if isinstance(error, errors.Overloaded):
        return {"Retry-After": str(math.ceil(min(max(error.retry_after_s, RETRY_AFTER_S), MAX_RETRY_AFTER_S)))}
    # What is left of a body that is late would have to be read before the connection could be used again.
    return {"Connection": "close"} if isinstance(error, errors.BodyTimeout) else {}


def internal(path: str) -> JSONResponse:
    """The answer to an error that nobody expected: a bug. What it was stands in the log, not here."""
    return answer(
        500,
        "internal",
        "the service failed on this request; its log says why, under the answer's X-Request-Id",
        path=path,
    )


def of(error: UnderstudyError, path: str) -> JSONResponse:
    """An error of ours as a response to a request for ``path``."""
    return answer(status_of(error), error.code, str(error), _headers(error), path=path)


def gone() -> JSONResponse:
    """What nobody reads."""
    return answer(400, "client_gone", "the client left before the end of its request")


def install(app: FastAPI) -> None:
    """Make every expected error of an application a problem; ``observed`` answers for the others."""
    app.add_middleware(_BodyLimitSpoken)

    @app.exception_handler(UnderstudyError)
    async def ours(request: Request, error: UnderstudyError) -> JSONResponse:
        return of(error, request.url.path)

    @app.exception_handler(HTTPException)
    async def from_the_framework(request: Request, error: HTTPException) -> JSONResponse:
        code = CODE_OF_STATUS.get(error.status_code, f"http_{error.status_code}")
        headers = dict(error.headers or {}) | (_allowed(request) if error.status_code == 405 else {})
        return answer(error.status_code, code, str(error.detail), headers, path=request.url.path)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {str(e['input'])[:100]!r})" for e in error.errors()
        )
        return answer(422, "invalid_request", faults, path=request.url.path)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> JSONResponse:
        return gone()

    async def away(request: Request, error: Exception) -> JSONResponse:
        log.warning("%s: the catalog is away: %s", request.method, error)
        detail = "the catalog cannot be reached or is busy; /classify goes on, try again soon"
        return answer(503, "catalog_away", detail, path=request.url.path)

    for kind in database.AWAY:
        app.add_exception_handler(kind, away)


def _allowed(request: Request) -> dict[str, str]:
    """Every method of a path: the framework names those of one route only, and a path may have several."""
    path = getattr(request.scope.get("route"), "path", "")
    methods = sorted(method.upper() for method in request.app.openapi()["paths"].get(path, {}))
    return {"Allow": ", ".join(methods)} if methods else {}


class _BodyLimitSpoken:
    """Starlette answers a too large ``Content-Length`` in plain text, past every handler: a problem takes its place."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_replaced = False

        async def spoken(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and message["status"] == 413:
                is_replaced = Headers(raw=message["headers"]).get("content-type", "").startswith("text/plain")
                if is_replaced:
                    limit = scope.get("starlette.max_body_size", "less")
                    detail = f"the body is larger than is taken here; the limit is {limit} bytes"
                    await answer(413, CODE_OF_STATUS[413], detail, path=scope["path"])(scope, receive, send)
            if not is_replaced:
                await send(message)

        await self._app(scope, receive, spoken)
