"""``/v2``: the Open Inference Protocol over REST, with binary tensors, for clients made for Triton or KServe."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Path, Request, Response

import understudy
from service import bodies, examples, problems, protocol, tensors
from service.batcher import Batcher
from service.clients import Patience, Timeout
from service.protocol import IndexEntry, InferRequest, InferResponse, ModelMetadata, ModelReady, ProtocolProblem
from service.state import Service, State
from service.turn import turn
from understudy import images
from understudy.engine import Engine, Probabilities
from understudy.errors import ImageRefused, NotFound, UploadRefused
from understudy.images import Pixels

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

JSON_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"
#: curl --data-binary says x-www-form-urlencoded unless told otherwise; tritonclient says nothing at all.
CONTENT_TYPES = ("application/json", BINARY, "application/x-www-form-urlencoded", "")


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: the problems that a route answers with."""
    schema = ProtocolProblem.model_json_schema()
    described = {400: "The body is not JSON.", 404: "There is no such model or version."} | {
        int(status): response["description"] for status, response in (problems.RESPONSES | problems.IN_TIME).items()
    }
    return {
        status: {"description": described[status], "content": {problems.MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A schema without references: a request body that FastAPI does not parse gets no components."""
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items() if key != "$defs"}


def _json_schema(model: type[InferRequest] | type[InferResponse]) -> Any:
    schema = model.model_json_schema()
    return _inlined(schema, schema.get("$defs", {}))


_TENSORS = {"type": "string", "format": "binary", "description": "JSON, then the binary tensors"}
_INFER_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _json_schema(InferRequest),
                "example": {
                    "id": "42",
                    "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [examples.PICTURE]}],
                    "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}],
                },
            },
            BINARY: {"schema": _TENSORS},
        },
    }
}
_INFERRED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The probabilities, and the version that gave them.",
        "headers": {
            JSON_LENGTH: {"description": "bytes of JSON before the binary tensors", "schema": {"type": "integer"}}
        },
        "content": {"application/json": {"schema": _json_schema(InferResponse)}, BINARY: {"schema": _TENSORS}},
    }
}
Name = Annotated[str, Path(description="the one model that there is", examples=[protocol.MODEL])]
Version = Annotated[str, Path(description="the version that serves", examples=["g0003-8f2c1a"])]
JsonLength = Annotated[
    int | None, Header(alias=JSON_LENGTH, ge=0, lt=2**63, description="where the JSON ends; absent: nowhere")
]


@router.get("")
async def server_metadata() -> protocol.ServerMetadata:
    """Name, version and the extensions of the protocol that are understood."""
    return protocol.ServerMetadata(
        name=protocol.MODEL, version=understudy.__version__, extensions=list(protocol.EXTENSIONS)
    )


@router.get("/health/live")
async def server_live() -> protocol.Live:
    """Whether the process lives. As /healthz."""
    return protocol.Live(live=True)


@router.get("/health/ready", responses=_refusals(503))
async def server_ready(service: Service) -> protocol.Ready:
    """Whether inference requests can be answered: 200, or 503 while no model serves."""
    _engine(service)
    return protocol.Ready(live=True, ready=True)


@router.get("/models/{name}", responses=_refusals(404, 503))
async def model_metadata(service: Service, name: Name) -> ModelMetadata:
    """Inputs and outputs of the version that serves."""
    return _metadata(service, name)


@router.get("/models/{name}/versions/{version}", responses=_refusals(404, 503))
async def version_metadata(service: Service, name: Name, version: Version) -> ModelMetadata:
    """Inputs and outputs of a version; only one that serves can be asked."""
    return _metadata(service, name, version)


@router.get("/models/{name}/ready", responses=_refusals(404, 503))
async def model_ready(service: Service, name: Name) -> ModelReady:
    """Whether the model can be asked: 200, or 503 while no version serves."""
    _engine(service, name)
    return ModelReady(name=name, ready=True)


@router.get("/models/{name}/versions/{version}/ready", responses=_refusals(404, 503))
async def version_ready(service: Service, name: Name, version: Version) -> ModelReady:
    """Whether this version can be asked: 404 for one that does not serve."""
    _engine(service, name, version)
    return ModelReady(name=name, ready=True)


@router.post("/repository/index", responses=_refusals(400, 413, 422))
async def repository_index(service: Service, wanted: protocol.IndexRequest | None = None) -> list[IndexEntry]:
    """The version that serves, and champions that could not be loaded with the reason. /models has them all."""
    version = service.slot.version
    serving = [IndexEntry(name=protocol.MODEL, version=version, state="READY", reason="")] if version else []
    if wanted is not None and wanted.ready:
        return serving
    return serving + [
        IndexEntry(name=protocol.MODEL, version=refused, state="UNAVAILABLE", reason=why)
        for refused, why in service.follower.refused.items()
    ]


@router.post(
    "/models/{name}/infer",
    response_class=Response,
    openapi_extra=_INFER_BODY,
    responses=_INFERRED | _refusals(404, 408, 413, 415, 422, 503, 504),
)
async def infer(
    request: Request, service: Service, name: Name, json_length: JsonLength = None, timeout_ms: Timeout = None
) -> Response:
    """Classify tensors with the champion.

    One input: `pixels`, UINT8 of the shape [N, size, size, 3], as the metadata says; or `image`, BYTES of the
    shape [N], each element an encoded image (base64 in JSON). One image that cannot be used refuses the request.
    """
    return await _infer(request, service, name, None, json_length, timeout_ms)


@router.post(
    "/models/{name}/versions/{version}/infer",
    response_class=Response,
    openapi_extra=_INFER_BODY,
    responses=_INFERRED | _refusals(404, 408, 413, 415, 422, 503, 504),
)
async def infer_with_version(
    request: Request,
    service: Service,
    name: Name,
    version: Version,
    json_length: JsonLength = None,
    timeout_ms: Timeout = None,
) -> Response:
    """Classify tensors with this version and no other: 404 if it does not serve, or no longer."""
    return await _infer(request, service, name, version, json_length, timeout_ms)


async def _infer(
    request: Request,
    service: State,
    name: str,
    version: str | None,
    json_length: int | None,
    timeout_ms: int | None,
) -> Response:
    _check_content(request)
    _engine(service, name, version)
    patience = Patience(timeout_ms, service.settings.request_timeout_ms)
    service.admission.require_room(1, patience.timeout_s)
    with service.bodies.allowance() as share:
        body = await bodies.read(request, share)
        asked = tensors.parse(body, json_bytes=json_length, max_images=service.settings.max_images_per_request)
        async with turn(request, service, patience, len(asked.inputs)) as (batcher, deadline):
            _check_version(batcher.engine, version)
            if isinstance(asked.inputs, np.ndarray):
                tensors.check_size(asked.inputs, batcher.engine.card.preprocessing.size)
            inputs = tuple(asked.inputs)
            deployed = service.traffic.deployed
            try:
                if deployed is None or version is not None or not _takes(deployed.batcher, inputs[0]):
                    rows = await _rows(batcher, inputs, deadline)
                else:
                    batcher, rows = await service.traffic.classify(
                        batcher, _rows, inputs, deadline, _called, share.num_bytes
                    )
                probabilities = _whole(rows)
            except ImageRefused as refused:
                service.metrics.refused_images.labels(refused.code).inc()
                raise
    engine = batcher.engine
    service.metrics.images.labels(engine.version).inc(len(probabilities))
    content, length = tensors.answer(asked, probabilities, engine.card, model_name=protocol.MODEL)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type=BINARY, headers={JSON_LENGTH: str(length)})


async def _rows(
    batcher: Batcher, inputs: Sequence[Pixels | bytes], deadline: float
) -> Sequence[Probabilities | BaseException]:
    """The probabilities (C,) float32 of pixels or of encoded images, or what is wrong with each of them."""
    preprocessing = batcher.engine.card.preprocessing
    waiting = [
        batcher.classify(partial(images.load, one, preprocessing), deadline)
        if isinstance(one, bytes)
        else batcher.predict(one, deadline)
        for one in inputs
    ]
    rows: list[Probabilities | BaseException] = await asyncio.gather(*waiting, return_exceptions=True)
    return rows


def _takes(challenger: Batcher, one: Pixels | bytes) -> bool:
    """Whether it can be asked too: encoded images always, pixels that are cut to the champion's size if it is its own."""
    return isinstance(one, bytes) or len(one) == challenger.engine.card.preprocessing.size


def _called(row: Probabilities) -> int:
    return int(row.argmax())


def _whole(rows: Sequence[Probabilities | BaseException]) -> Probabilities:
    """All of them (N, C) float32. Raises ImageRefused naming the image, DeadlineExceeded."""
    for index, row in enumerate(rows):
        if isinstance(row, ImageRefused):
            raise ImageRefused(f"image {index}: {row}", code=row.code) from row
        if isinstance(row, BaseException):
            raise row
    return np.stack(rows)  # type: ignore[arg-type]


def _check_content(request: Request) -> None:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in CONTENT_TYPES:
        raise UploadRefused(
            f"content type {kind!r} is not taken; send application/json or {BINARY}", code="unsupported_media_type"
        )
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise UploadRefused(
            f"a body in the coding {coding!r} is not taken; send it uncompressed, images are compressed already",
            code="unsupported_media_type",
        )


def _engine(service: State, name: str = protocol.MODEL, version: str | None = None) -> Engine:
    """The engine that answers for a name and version now. Raises NotFound, NoChampion."""
    if name != protocol.MODEL:
        raise NotFound(f"there is no model {name!r}; the one here is {protocol.MODEL!r}")
    with service.slot.lease() as batcher:
        _check_version(batcher.engine, version)
        return batcher.engine


def _check_version(engine: Engine, version: str | None) -> None:
    if version not in (None, engine.version):
        raise NotFound(f"version {version!r} does not serve; {engine.version!r} does, and needs no version in the path")


def _metadata(service: State, name: str, version: str | None = None) -> ModelMetadata:
    engine = _engine(service, name, version)
    return ModelMetadata(
        name=protocol.MODEL,
        versions=[engine.version],
        platform=protocol.PLATFORM,
        inputs=tensors.inputs_of(engine.card),
        outputs=tensors.outputs_of(engine.card),
    )
