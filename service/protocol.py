"""The objects of the Open Inference Protocol v2 over REST, as it spells them. Nothing here knows HTTP or NumPy."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from service.problems import ProblemDetails

#: The one model that there is. Its versions are ours: ``g0003-8f2c1a``.
MODEL = "understudy"
#: As Triton calls a model that ONNX Runtime runs.
PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("binary_tensor_data", "classification")

#: The protocol lets a client send fields that we do not know, but no field of another type: a number is no string.
_SENT = ConfigDict(strict=True, extra="ignore")
#: The protocol's int64, of which it never wants a negative one.
Count = Annotated[int, Field(ge=0, lt=2**63)]


class ProtocolProblem(ProblemDetails):
    """A problem under /v2: the protocol's clients read ``error``, others the rest."""

    error: str = Field(description="the same as `detail`", examples=["there is no model 'resnet'"])


class ServerMetadata(BaseModel):
    """What this server is and what it can do beyond the protocol."""

    name: str = Field(examples=["understudy"])
    version: str = Field(examples=["0.1.0"])
    extensions: list[str] = Field(examples=[list(EXTENSIONS)])


class Live(BaseModel):
    """The process lives."""

    live: bool


class Ready(BaseModel):
    """Requests can be answered. The protocol's text has ``live`` in this answer, its servers have ``ready``: both."""

    live: bool
    ready: bool


class ModelReady(BaseModel):
    """The model can be asked."""

    name: str = Field(examples=[MODEL])
    ready: bool


class TensorMetadata(BaseModel):
    """One input or output."""

    name: str = Field(examples=["pixels"])
    datatype: str = Field(examples=["UINT8"])
    shape: list[int] = Field(description="-1: any number", examples=[[-1, 224, 224, 3]])


class ModelMetadata(BaseModel):
    """The model. Its inputs are alternatives: a request has exactly one of them."""

    name: str = Field(examples=[MODEL])
    versions: list[str] = Field(description="what may be asked for by version", examples=[["g0003-8f2c1a"]])
    platform: str = Field(examples=[PLATFORM])
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexRequest(BaseModel):
    """Which entries of the repository to list."""

    model_config = _SENT

    ready: bool = Field(False, description="only versions that can be asked")


class IndexEntry(BaseModel):
    """One version, as this process knows it."""

    name: str = Field(examples=[MODEL])
    version: str | None = Field(None, examples=["g0003-8f2c1a"])
    state: str = Field(description="READY or UNAVAILABLE", examples=["READY"])
    reason: str = Field(description="why, if it is not ready", examples=[""])


class InputParameters(BaseModel):
    """How an input's data is sent."""

    model_config = _SENT

    binary_data_size: Count | None = Field(
        None, description="bytes of this tensor after the JSON; then `data` is left out"
    )
    shared_memory_region: Any = Field(None, description="not taken")


class OutputParameters(BaseModel):
    """How an output shall be answered."""

    model_config = _SENT

    binary_data: bool | None = Field(None, description="after the JSON, as bytes; overrides `binary_data_output`")
    classification: Count = Field(0, description="answer the best so many classes as text: 0.91:2:label")
    shared_memory_region: Any = Field(None, description="not taken")


class RequestParameters(BaseModel):
    """What holds for the whole request. Others that the protocol's servers know are ignored."""

    model_config = _SENT

    binary_data_output: bool = Field(False, description="answer all outputs as bytes after the JSON")


class RequestInput(BaseModel):
    """One tensor that is sent."""

    model_config = _SENT

    name: str = Field(description="pixels or image")
    shape: list[Count]
    datatype: str = Field(description="UINT8 for pixels, BYTES for image")
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(
        None, description="row-major, flat or nested: 0 to 255 for pixels, each image as base64 for image"
    )


class RequestOutput(BaseModel):
    """One tensor that is wanted."""

    model_config = _SENT

    name: str = Field(description="probabilities")
    parameters: OutputParameters = OutputParameters()


class InferRequest(BaseModel):
    """The JSON of a request: all of it, or what the binary tensors follow."""

    model_config = _SENT

    id: str | None = Field(None, description="answered as it is")
    parameters: RequestParameters = RequestParameters()
    inputs: list[RequestInput] = Field(min_length=1)
    outputs: list[RequestOutput] = Field([], description="empty: all of them")


class ResponseOutput(BaseModel):
    """One tensor of the answer."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = Field(None, description="`binary_data_size`, if the data follows the JSON")
    data: list[float] | list[str] | None = Field(None, description="row-major and flat")


class InferResponse(BaseModel):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]
