"""Tensors of the Open Inference Protocol: a request's JSON and binary parts to arrays, and outputs back.

Pure functions; they know no HTTP and no engine. Whatever a stranger may get wrong is refused here with
UploadRefused, before anything of the size that he claims is reserved.

N images · S the model's input size · C classes
"""

import base64
import binascii
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from pydantic import ValidationError

from service.protocol import InferRequest, InferResponse, RequestInput, RequestOutput, ResponseOutput, TensorMetadata
from understudy.engine import INPUT, OUTPUT, Probabilities
from understudy.errors import UploadRefused
from understudy.images import Pixels
from understudy.records import ModelCard

#: The other input: encoded images, which go through the same preprocessing as those of /classify.
IMAGE = "image"
DATATYPES = {INPUT: "UINT8", IMAGE: "BYTES"}

#: Parsing JSON holds the interpreter, and so every other request: 4 MiB of numbers take 80 ms on one core
#: (seven images of 224 px), 4 MiB of the worst that JSON can hold ten times that. In binary form it costs nothing.
MAX_JSON_BYTES = 4 * 2**20
#: Of a name that a client sent, so much is repeated to it.
MAX_QUOTED = 60

#: The length of one element of a BYTES tensor, which comes before it.
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Wanted:
    """One output of the answer, as the client wants it."""

    binary: bool
    num_classes: int  #: the best so many as text; 0: all probabilities as numbers


@dataclass(frozen=True)
class Request:
    """A request that was understood."""

    id: str | None
    inputs: Pixels | tuple[bytes, ...]  #: (N, S, S, 3) uint8, or N encoded images
    output: Wanted


def parse(body: bytes, *, json_bytes: int | None, max_images: int) -> Request:
    """Read a request: JSON of ``json_bytes`` bytes, then binary tensors; None: all of it is JSON.

    What ``pixels`` must measure depends on the model, so that is for :func:`check_size`. Raises UploadRefused
    with the code json_too_large, invalid_request, unknown_input, wrong_datatype, wrong_shape, image_count,
    wrong_data, invalid_base64, unknown_output or shared_memory.
    """
    header, binary = _split(body, json_bytes)
    request = _validated(header)
    if len(request.inputs) != 1:
        names = ", ".join(_quoted(one.name) for one in request.inputs[:4])
        raise UploadRefused(
            f"the request has {len(request.inputs)} inputs ({names}); send one, {INPUT!r} or {IMAGE!r}",
            code="unknown_input",
        )
    (sent,) = request.inputs
    _check_declared(sent, max_images)
    size = sent.parameters.binary_data_size
    if len(binary) != (size or 0):
        raise UploadRefused(
            f"{len(binary)} bytes follow the JSON, but the binary_data_size of the input says {size or 0}; "
            f"the header Inference-Header-Content-Length must say where the JSON ends",
            code="wrong_data",
        )
    if sent.name == INPUT:
        inputs: Pixels | tuple[bytes, ...] = _pixels(sent, binary)
    else:
        inputs = _images(sent, binary)
    return Request(request.id, inputs, _wanted(request))


def check_size(pixels: Pixels, size: int) -> None:
    """Whether pixels are the input of a model of this size. Raises UploadRefused."""
    if pixels.shape[1:3] != (size, size):
        raise UploadRefused(
            f"{INPUT!r} has the shape {list(pixels.shape)}; this model takes [-1, {size}, {size}, 3]. Send encoded "
            f"images as {IMAGE!r} to have them cut to size",
            code="wrong_shape",
        )


def inputs_of(card: ModelCard) -> list[TensorMetadata]:
    """What a model takes: one of these."""
    size = card.preprocessing.size
    return [
        TensorMetadata(name=INPUT, datatype=DATATYPES[INPUT], shape=[-1, size, size, 3]),
        TensorMetadata(name=IMAGE, datatype=DATATYPES[IMAGE], shape=[-1]),
    ]


def outputs_of(card: ModelCard) -> list[TensorMetadata]:
    """What a model gives."""
    return [TensorMetadata(name=OUTPUT, datatype="FP32", shape=[-1, len(card.classes)])]


def answer(
    request: Request, probabilities: Probabilities, card: ModelCard, *, model_name: str
) -> tuple[bytes, int | None]:
    """The answer's body, and how much of it is JSON: None if no binary tensor follows."""
    wanted = request.output
    if wanted.num_classes:
        texts = classification(probabilities, card.classes, wanted.num_classes)
        shape, datatype = [len(texts), len(texts[0])], "BYTES"
        flat: list[str] | list[float] = [text for row in texts for text in row]
        binary = frame(text.encode() for row in texts for text in row) if wanted.binary else b""
    else:
        shape, datatype = list(probabilities.shape), "FP32"
        flat = [] if wanted.binary else probabilities.ravel().tolist()
        binary = probabilities.astype("<f4", copy=False).tobytes() if wanted.binary else b""
    output = ResponseOutput(
        name=OUTPUT,
        shape=shape,
        datatype=datatype,
        parameters={"binary_data_size": len(binary)} if wanted.binary else None,
        data=None if wanted.binary else flat,
    )
    header = InferResponse(model_name=model_name, model_version=card.version, id=request.id, outputs=[output])
    head = header.model_dump_json(exclude_none=True).encode()
    return (head + binary, len(head)) if wanted.binary else (head, None)


def classification(probabilities: Probabilities, classes: Sequence[str], num_classes: int) -> list[list[str]]:
    """The best classes of each row, the most probable first, each as ``probability:index:label``."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :num_classes]  # (N, at most num_classes) int64
    return [
        [f"{row[index]!s}:{index}:{classes[index]}" for index in best]
        for row, best in zip(probabilities, order, strict=True)
    ]


def frame(elements: Iterable[bytes]) -> bytes:
    """The binary form of a BYTES tensor: each element after its length."""
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def unframe(binary: memoryview, num_elements: int) -> tuple[bytes, ...]:
    """The elements of a BYTES tensor in binary form. Raises UploadRefused unless there are exactly so many."""
    elements: list[bytes] = []
    begin = 0
    while begin < len(binary) and len(elements) < num_elements:
        end = begin + _LENGTH.size
        if end > len(binary):
            raise UploadRefused(
                f"the length of element {len(elements)} breaks off after {len(binary) - begin} of its 4 bytes",
                code="wrong_data",
            )
        (length,) = _LENGTH.unpack(binary[begin:end])
        begin, end = end, end + length
        if end > len(binary):
            raise UploadRefused(
                f"element {len(elements)} says that it has {length} bytes, but {len(binary) - begin} are left",
                code="wrong_data",
            )
        elements.append(bytes(binary[begin:end]))
        begin = end
    if len(elements) < num_elements or begin < len(binary):
        raise UploadRefused(
            f"the shape says {num_elements} elements; the data holds {len(elements)} "
            f"and then {len(binary) - begin} bytes more",
            code="wrong_data",
        )
    return tuple(elements)


def _split(body: bytes, json_bytes: int | None) -> tuple[memoryview, memoryview]:
    whole = memoryview(body)
    length = len(body) if json_bytes is None else json_bytes
    if length > len(body):
        raise UploadRefused(
            f"Inference-Header-Content-Length says that the JSON has {length} bytes, but the body has {len(body)}",
            code="invalid_request",
        )
    if length == 0 and body:
        raise UploadRefused(
            f"a body without its JSON says nothing of its tensor; name {INPUT!r} or {IMAGE!r} in a JSON header",
            code="invalid_request",
        )
    if length > MAX_JSON_BYTES:
        raise UploadRefused(
            f"the JSON has {length} bytes, at most {MAX_JSON_BYTES} are taken; send tensors in binary form "
            f"(binary_data_size) after it",
            code="json_too_large",
        )
    return whole[:length], whole[length:]


def _validated(header: memoryview) -> InferRequest:
    try:
        return InferRequest.model_validate_json(bytes(header))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors()[:5])
        raise UploadRefused(faults[:1000], code="invalid_request") from error


def _check_declared(sent: RequestInput, max_images: int) -> None:
    """What an input says of itself, before its data is looked at."""
    if sent.parameters.shared_memory_region is not None:
        raise UploadRefused("shared memory is not taken; send the data with the request", code="shared_memory")
    datatype = DATATYPES.get(sent.name)
    if datatype is None:
        raise UploadRefused(
            f"there is no input {_quoted(sent.name)}; send {INPUT!r} or {IMAGE!r}", code="unknown_input"
        )
    if sent.datatype != datatype:
        advice = "send 0 to 255 as decoded: the model normalises" if sent.name == INPUT else "send encoded images"
        raise UploadRefused(
            f"{sent.name!r} is {datatype}, not {_quoted(sent.datatype)}; {advice}", code="wrong_datatype"
        )
    fits = len(sent.shape) == 4 and sent.shape[3] == 3 if sent.name == INPUT else len(sent.shape) == 1
    if not fits:
        wanted = "[N, size, size, 3]" if sent.name == INPUT else "[N]"
        raise UploadRefused(
            f"{sent.name!r} has the shape {str(sent.shape)[:MAX_QUOTED]}; send {wanted}", code="wrong_shape"
        )
    if not 1 <= sent.shape[0] <= max_images:
        raise UploadRefused(f"the request holds {sent.shape[0]} images; send 1 to {max_images}", code="image_count")
    if (sent.data is None) == (sent.parameters.binary_data_size is None):
        raise UploadRefused(
            f"{sent.name!r} needs either data, in the JSON, or binary_data_size, for data after it", code="wrong_data"
        )


def _pixels(sent: RequestInput, binary: memoryview) -> Pixels:
    """(N, H, W, 3) uint8, still in the request's memory if it came in binary form."""
    if sent.data is None:
        num_bytes = math.prod(sent.shape)
        if len(binary) != num_bytes:
            raise UploadRefused(
                f"{sent.name!r} of the shape {sent.shape} has {num_bytes} bytes; {len(binary)} were sent",
                code="wrong_data",
            )
        return np.frombuffer(binary, np.uint8).reshape(sent.shape)
    try:
        numbers = bytes(_flat(sent))  # refuses what is no integer of 0 to 255, NaN and text included
    except (ValueError, TypeError) as error:
        raise UploadRefused(
            f"the data of {sent.name!r} must be whole numbers from 0 to 255: {error}"[:200], code="wrong_data"
        ) from error
    return np.frombuffer(numbers, np.uint8).reshape(sent.shape)


def _images(sent: RequestInput, binary: memoryview) -> tuple[bytes, ...]:
    if sent.data is None:
        return unframe(binary, sent.shape[0])
    return tuple(_from_base64(text, index) for index, text in enumerate(_flat(sent)))


def _flat(sent: RequestInput) -> list[Any]:
    """The elements in JSON, row-major; they may come flat, or nested as their shape says. Refuses another number."""
    elements = sent.data or []
    if elements and isinstance(elements[0], list) and len(elements) == sent.shape[0]:
        for length in sent.shape[1:]:
            if not all(isinstance(row, list) and len(row) == length for row in elements):
                raise UploadRefused(
                    f"the data of {sent.name!r} is not nested as its shape {sent.shape} says; send it so, or flat",
                    code="wrong_data",
                )
            elements = list(chain.from_iterable(elements))
    if len(elements) != math.prod(sent.shape):
        raise UploadRefused(
            f"{sent.name!r} of the shape {sent.shape} has {math.prod(sent.shape)} elements; {len(elements)} were sent",
            code="wrong_data",
        )
    return elements


def _from_base64(text: Any, index: int) -> bytes:
    """JSON has no bytes, so an image in it is base64."""
    if not isinstance(text, str):
        raise UploadRefused(f"image {index} is not text; in JSON, send each image as base64", code="wrong_data")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UploadRefused(f"image {index} is not base64: {error}", code="invalid_base64") from error


def _wanted(request: InferRequest) -> Wanted:
    binary = request.parameters.binary_data_output
    if len(request.outputs) > 1 or any(one.name != OUTPUT for one in request.outputs):
        names = ", ".join(_quoted(one.name) for one in request.outputs[:4])
        raise UploadRefused(f"the outputs asked for are {names}; there is one, {OUTPUT!r}", code="unknown_output")
    output = request.outputs[0] if request.outputs else RequestOutput(name=OUTPUT)
    if output.parameters.shared_memory_region is not None:
        raise UploadRefused("shared memory is not taken; the answer carries the data", code="shared_memory")
    chosen = output.parameters.binary_data
    return Wanted(binary if chosen is None else chosen, output.parameters.classification)


def _quoted(name: str) -> str:
    return repr(name[:MAX_QUOTED])
