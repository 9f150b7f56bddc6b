"""``POST /classify``: images in, probabilities and the version that gave them out."""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from service import bodies, examples, forms
from service.batcher import Batcher
from service.bodies import Allowance
from service.clients import Patience, Timeout
from service.problems import IN_TIME, RESPONSES
from service.schemas import ClassifyBody
from service.state import Service, State
from service.turn import turn
from understudy import images
from understudy.engine import Probabilities
from understudy.errors import DeadlineExceeded, ImageRefused, UploadRefused
from understudy.records import Classified

router = APIRouter(tags=["classify"])

#: How many classes are answered when nobody says.
TOP_K = 5

Ranking = list[tuple[int, float]]  #: classes by index, and their probabilities, the most probable first

_BODIES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
                    },
                    "required": ["file"],
                }
            },
            "application/json": {
                "schema": ClassifyBody.model_json_schema(),
                "example": {"images": [examples.PICTURE], "top_k": 3},
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
    response_model=Classified,
    responses=RESPONSES
    | IN_TIME
    | examples.of(200, examples.CLASSIFIED, "One prediction an image, in the order sent."),
)
async def classify(
    request: Request,
    service: Service,
    top_k: Annotated[int, Query(ge=1, le=1000, description="how many classes to answer, most probable first")] = TOP_K,
    timeout_ms: Timeout = None,
) -> Response:
    """Classify images with the champion.

    Send one image as the raw body, one or several as multipart files, or as base64 in JSON. One image
    that cannot be used is answered with its problem (415 or 422); among several, its own prediction
    carries the problem and the others are answered. What cannot be answered in time is refused at once.
    """
    return await answer(request, service, top_k, timeout_ms)


async def answer(request: Request, service: State, top_k: int, timeout_ms: int | None) -> Response:
    """The same, when the parameters have been read."""
    patience = Patience(timeout_ms, service.settings.request_timeout_ms)
    service.admission.require_room(1, patience.timeout_s)
    with service.bodies.allowance() as share:
        sent, top_k = await _read(request, service, share, top_k)
        async with turn(request, service, patience, len(sent)) as (batcher, deadline):
            if (traffic := service.traffic).deployed is None:
                answers = await _classify(batcher, sent, deadline, top_k)
            else:
                ask = partial(_classify, top_k=top_k)
                batcher, answers = await traffic.classify(batcher, ask, sent, deadline, _called, share.num_bytes)
    predictions = [_prediction(service, batcher, one, got) for one, got in zip(sent, answers, strict=True)]
    if len(answers) == 1 and isinstance(answers[0], ImageRefused):
        raise answers[0]
    service.metrics.images.labels(batcher.engine.version).inc(sum(one["problem"] is None for one in predictions))
    return Response(
        to_json({"model": batcher.engine.version, "predictions": predictions}), media_type="application/json"
    )


async def _classify(
    batcher: Batcher, sent: Sequence[_Sent], deadline: float, top_k: int
) -> Sequence[Ranking | BaseException]:
    """The best classes of each image, or what is wrong with it; they may be spread over several batches."""
    preprocessing = batcher.engine.card.preprocessing
    best = partial(_best, top_k=top_k)
    waiting = [batcher.classify(partial(images.load, one.data, preprocessing), deadline, best) for one in sent]
    if len(waiting) > 1:
        answers: list[Ranking | BaseException] = await asyncio.gather(*waiting, return_exceptions=True)
        for late in answers:
            if isinstance(late, DeadlineExceeded):
                raise late  # here, where it is counted
        return answers
    try:
        return [await waiting[0]]
    except ImageRefused as refused:
        return [refused]


def _best(probabilities: Probabilities, top_k: int) -> Ranking:
    """The ``top_k`` most probable classes, the best first, equals by their order. Sorts only what is near the top."""
    if top_k < len(probabilities):
        least = np.partition(probabilities, -top_k)[-top_k]
        near = np.flatnonzero(probabilities >= least)
    else:
        near = np.arange(len(probabilities))
    order = near[(-probabilities[near]).argsort(kind="stable")[:top_k]]
    return list(zip(order.tolist(), probabilities[order].clip(0.0, 1.0).tolist(), strict=True))


def _called(ranking: Ranking) -> int:
    """The class that an image is called, by index."""
    return ranking[0][0]


def _prediction(service: State, batcher: Batcher, sent: _Sent, got: Ranking | BaseException) -> dict[str, Any]:
    """As the record Prediction is in JSON; making one for every class would cost as much as the ranking did."""
    if isinstance(got, ImageRefused):
        service.metrics.refused_images.labels(got.code).inc()
        problem = {"code": got.code, "detail": str(got)}
        return {"name": sent.name, "label": None, "probability": None, "classes": [], "problem": problem}
    if isinstance(got, BaseException):
        raise got
    labels = batcher.engine.card.classes
    classes = [{"label": labels[index], "probability": probability} for index, probability in got]
    return {"name": sent.name} | classes[0] | {"classes": classes, "problem": None}


async def _read(request: Request, service: State, share: Allowance, top_k: int) -> tuple[Sequence[_Sent], int]:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        body = await bodies.read(request, share)
        # Tens of megabytes of JSON take tenths of a second: that is no work for the event loop.
        sent, wanted = await run_in_threadpool(_parse, body)
        top_k = wanted or top_k
    elif kind == "multipart/form-data":
        sent = await _from_form(request, share, service.settings.max_images_per_request)
    elif kind.startswith("image/") or kind in ("application/octet-stream", "application/x-www-form-urlencoded", ""):
        # curl --data-binary says x-www-form-urlencoded unless told otherwise
        sent = [_Sent(await bodies.read(request, share))]
    else:
        raise UploadRefused(
            f"content type {kind!r} is not taken; send image/*, multipart/form-data or application/json",
            code="unsupported_media_type",
        )
    _check_count(sent, service.settings.max_images_per_request)
    return sent, top_k


def _parse(body: bytes) -> tuple[list[_Sent], int | None]:
    try:
        parsed = ClassifyBody.model_validate_json(body)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors())
        raise UploadRefused(faults, code="invalid_request") from error
    return _from_base64(parsed.images), parsed.top_k


def _from_base64(texts: Sequence[str]) -> list[_Sent]:
    try:
        return [_Sent(base64.b64decode(text, validate=True)) for text in texts]
    except (binascii.Error, ValueError) as error:
        raise UploadRefused(f"an image is not base64: {error}", code="invalid_base64") from error


async def _from_form(request: Request, share: Allowance, max_images: int) -> list[_Sent]:
    """The files of a form. They wait on disk while the form is read; then they are held as any body is."""
    async with (
        bodies.within(share.budget.timeout_s),
        forms.read(request, max_files=max_images) as form,
    ):
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        share.raise_to(sum(file.size or 0 for file in files))
        return [_Sent(await file.read(), file.filename) for file in files]


def _check_count(sent: Sequence[_Sent], max_images: int) -> None:
    if not 1 <= len(sent) <= max_images:
        raise UploadRefused(f"the request holds {len(sent)} images; send 1 to {max_images}", code="image_count")
