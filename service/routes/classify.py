"""``POST /classify``: images in, probabilities and the version that gave them out."""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from service import examples
from service.batcher import Batcher
from service.problems import RESPONSES
from service.schemas import ClassifyBody
from service.state import Service, State
from understudy import images
from understudy.engine import Probabilities
from understudy.errors import ImageRefused, UploadRefused
from understudy.records import Classified, ClassProbability, Prediction, Problem

router = APIRouter(tags=["classify"])

_BODIES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "application/json": {
                "schema": ClassifyBody.model_json_schema(),
                "example": {"images": ["iVBORw0KGgo..."], "top_k": 3},
            },
        },
    }
}


@dataclass(frozen=True)
class _Sent:
    """One image of a request, as it came."""

    data: bytes
    name: str | None = None


@router.post(
    "/classify",
    openapi_extra=_BODIES,
    responses=RESPONSES | examples.of(200, examples.CLASSIFIED, "One prediction an image, in the order sent."),
)
async def classify(
    request: Request,
    service: Service,
    top_k: Annotated[int, Query(ge=1, le=1000, description="how many classes to answer, most probable first")] = 5,
) -> Classified:
    """Classify images with the champion.

    Send one image as the raw body, one or several as multipart files, or as base64 in JSON. One image
    that cannot be used is answered with its problem (415 or 422); among several, its own prediction
    carries the problem and the others are answered.
    """
    sent, top_k = await _read(request, service, top_k)
    with service.slot.lease() as batcher:
        answers = await asyncio.gather(*(_classify(service, batcher, one) for one in sent), return_exceptions=True)
    predictions = [_prediction(service, batcher, one, got, top_k) for one, got in zip(sent, answers, strict=True)]
    if len(answers) == 1 and isinstance(answers[0], ImageRefused):
        raise answers[0]
    return Classified(model=batcher.engine.version, predictions=tuple(predictions))


async def _classify(service: State, batcher: Batcher, sent: _Sent) -> Probabilities:
    """Decode in the pool, then wait for a place in a batch. Raises ImageRefused, Overloaded."""
    pixels = await asyncio.get_running_loop().run_in_executor(
        service.decoders, images.load, sent.data, batcher.engine.card.preprocessing
    )
    return await batcher.predict(pixels)


def _prediction(
    service: State, batcher: Batcher, sent: _Sent, got: Probabilities | BaseException, top_k: int
) -> Prediction:
    if isinstance(got, ImageRefused):
        service.metrics.refused_images.labels(got.code).inc()
        return Prediction(name=sent.name, problem=Problem(code=got.code, detail=str(got)))
    if isinstance(got, BaseException):
        raise got
    service.metrics.images.labels(batcher.engine.version).inc()
    best = (-got).argsort(kind="stable")[:top_k]
    classes = tuple(
        ClassProbability(label=batcher.engine.card.classes[i], probability=min(max(float(got[i]), 0.0), 1.0))
        for i in best
    )
    return Prediction(
        name=sent.name, label=classes[0].label, probability=classes[0].probability, classes=classes
    )  # fmt: skip


async def _read(request: Request, service: State, top_k: int) -> tuple[list[_Sent], int]:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        body = _parse(await request.body())
        sent, top_k = _from_base64(body.images), body.top_k or top_k
    elif kind == "multipart/form-data":
        sent = await _from_form(request, service.settings.max_images_per_request)
    elif kind.startswith("image/") or kind in ("application/octet-stream", "application/x-www-form-urlencoded", ""):
        sent = [_Sent(await request.body())]  # curl --data-binary says x-www-form-urlencoded unless told otherwise
    else:
        raise UploadRefused(
            f"content type {kind!r} is not taken; send image/*, multipart/form-data or application/json",
            code="unsupported_media_type",
        )
    _check_count(sent, service.settings.max_images_per_request)
    return sent, top_k


def _parse(body: bytes) -> ClassifyBody:
    try:
        return ClassifyBody.model_validate_json(body)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors())
        raise UploadRefused(faults, code="invalid_request") from error


def _from_base64(texts: Sequence[str]) -> list[_Sent]:
    try:
        return [_Sent(base64.b64decode(text, validate=True)) for text in texts]
    except (binascii.Error, ValueError) as error:
        raise UploadRefused(f"an image is not base64: {error}", code="invalid_base64") from error


async def _from_form(request: Request, max_images: int) -> list[_Sent]:
    async with request.form(max_files=max_images, max_fields=16) as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return [_Sent(await file.read(), file.filename) for file in files]


def _check_count(sent: list[_Sent], max_images: int) -> None:
    if not 1 <= len(sent) <= max_images:
        raise UploadRefused(f"the request holds {len(sent)} images; send 1 to {max_images}", code="image_count")
