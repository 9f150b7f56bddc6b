"""``POST /models/{version}/classify``: what any version says of an image, whether it serves or not."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from service import bodies, examples
from service.problems import IN_TIME, RESPONSES, may_be
from service.routes.classify import TOP_K
from service.state import Service
from understudy.records import NAME_PATTERN
from understudy.work_records import Tried

router = APIRouter(tags=["models"])

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"image/*": _BYTES, "application/octet-stream": _BYTES}}
}


@router.post(
    "/models/{version}/classify",
    openapi_extra=_BODY,
    responses=RESPONSES
    | {408: IN_TIME[408]}
    | may_be(404)
    | examples.of(200, examples.TRIED, "What it says, and how long that took."),
)
async def classify_with(
    request: Request,
    service: Service,
    version: Annotated[str, Path(pattern=NAME_PATTERN, description="any version that GET /models lists")],
    top_k: Annotated[int, Query(ge=1, le=1000, description="how many classes to answer, most probable first")] = TOP_K,
) -> Tried:
    """Ask one version about one image, sent as the raw body: to compare it with the champion.

    The version is loaded for this question alone, beside what serves and behind it: one at a time, 503 when too
    many wait. For more than a few images use `POST /classify`, which asks the champion, or a deployment.
    """
    with service.bodies.allowance() as share:
        data = await bodies.read(request, share)
        return await service.trier.ask(version, data, top_k=top_k)
