"""``POST /labeled`` and ``POST /weights``: what humans labeled, and weights to start from."""

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from service import examples, uploads
from service.clients import Actor
from service.idempotency import IdempotencyKey, key_of
from service.problems import RESPONSES, may_be
from service.routes.ingest import UPLOAD_BODIES
from service.schemas import Weights
from service.state import Service
from understudy import store, turns
from understudy.catalog import jobs
from understudy.errors import RecipeRefused, UploadRefused
from understudy.records import GenerationRequest, Job, JobKind

router = APIRouter(tags=["labeled"])

#: A safetensors file begins with the length of its JSON header; more than this is none.
MAX_HEADER_BYTES = 100_000_000


@router.post(
    "/labeled",
    status_code=202,
    openapi_extra=UPLOAD_BODIES,
    responses=RESPONSES
    | may_be(409)
    | examples.of(202, examples.LABELED_JOB, "The bytes are safe; a job works on them."),
)
async def labeled(
    request: Request,
    response: Response,
    service: Service,
    actor: Actor,
    holdout_fraction: Annotated[
        float | None,
        Query(
            ge=0,
            lt=1,
            description="share of each class to freeze as holdout if no `holdout` file is sent; "
            "without it 0.2 of the first set and nothing of later ones",
        ),
    ] = None,
    student: Annotated[str | None, Query(description="architecture of the first teacher, e.g. efficientnet_b0")] = None,
    recipe: Annotated[str | None, Query(description="how to train it; see docs/recipes.md")] = None,
    overrides: Annotated[
        str, Query(description='recipe fields to replace, as JSON: {"student_steps": 2000}', max_length=10_000)
    ] = "{}",
    weights: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="from POST /weights")] = None,
    seed: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    key: IdempotencyKey = None,
) -> Job:
    """Take human-labeled images: an archive with one folder a class, raw or as multipart file `labeled`.

    A second multipart file `holdout`, which may come alone later, is frozen for evaluation and the gate, without what a
    student may have learned from; without one a share of the first set is. The first labeled set opens generation 0, which trains the first teacher.
    """
    asked = _asked(student=student, recipe=recipe, overrides=_fields(overrides), weights=weights, seed=seed)
    if asked != GenerationRequest():
        await run_in_threadpool(turns.check, service.catalog, service.store, asked)
    params = {"holdout_fraction": holdout_fraction, "request": asked.model_dump(mode="json")}
    job = await uploads.receive(
        request, service, JobKind.LABELED, params=params, split="labeled", key=key_of(actor, "labeled", key)
    )
    response.headers["Location"] = f"/jobs/{job.id}"
    return job


def _asked(**fields: Any) -> GenerationRequest:
    try:
        return GenerationRequest(**fields)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeRefused(faults, code="invalid_request") from error


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no JSONDecodeError
        raise RecipeRefused(f"overrides={text[:100]!r} is not JSON: {error}", code="invalid_request") from error
    if not isinstance(fields, dict):
        raise RecipeRefused(f"overrides={text[:100]!r} is not a JSON object of recipe fields", code="invalid_request")
    return fields


@router.post(
    "/weights",
    status_code=201,
    responses=RESPONSES,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def weights(request: Request, service: Service) -> Weights:
    """Store pretrained weights: a safetensors file as the raw body (no pickle is ever read)."""
    digest, num_bytes = hashlib.sha256(), 0
    head = b""

    async def counted() -> AsyncIterator[bytes]:
        nonlocal num_bytes, head
        async for chunk in request.stream():
            head = (head + chunk)[:9] if len(head) < 9 else head
            if len(head) == 9:
                _check_head(head)
            digest.update(chunk)
            num_bytes += len(chunk)
            if chunk:
                yield chunk

    arriving = store.weights_key(f"arriving-{jobs.new_id()}")  # its name is known when its last byte is here
    await service.store.receive(arriving, counted())
    if len(head) < 9:
        await run_in_threadpool(service.store.delete, arriving)
        raise UploadRefused(f"the body has {num_bytes} bytes; that is no safetensors file", code="not_safetensors")
    sha256 = digest.hexdigest()
    await run_in_threadpool(service.store.move, arriving, store.weights_key(sha256))
    return Weights(sha256=sha256, num_bytes=num_bytes)


def _check_head(head: bytes) -> None:
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER_BYTES or head[8:9] != b"{":
        raise UploadRefused(
            "this is not a safetensors file; save the weights with safetensors.torch.save_file and send that",
            code="not_safetensors",
        )
