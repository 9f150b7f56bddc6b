"""The bodies that exist only over HTTP. What programs share lies in ``understudy.records``."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from understudy.records import WholeNumber

T = TypeVar("T")


def _mend_plus(text: Any) -> Any:
    """In a query, the plus of an offset that nobody escaped arrives as a space."""
    return re.sub(r"^(.{11}\S+) (\d\d:?\d\d)$", r"\1+\2", text) if isinstance(text, str) else text


def _say_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


#: A time in a query: ISO 8601, UTC where it does not say.
Moment = Annotated[datetime, BeforeValidator(_mend_plus), AfterValidator(_say_utc)]


class ClassifyBody(BaseModel):
    """Images as base64, for clients that speak only JSON."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(
        min_length=1,
        description="each an encoded image (JPEG, PNG, ...) in base64",
        json_schema_extra={"items": {"type": "string", "format": "byte"}},
    )
    top_k: WholeNumber | None = Field(
        None, ge=1, le=1000, description="how many classes to answer; overrides the query"
    )


class Page(BaseModel, Generic[T]):
    """Part of a list."""

    items: list[T]
    next: str | None = Field(None, description="give it as `cursor` to get the next part; null: this is the end")


class Health(BaseModel):
    """Whether the process lives."""

    status: str = Field(examples=["ok"])


class Readiness(BaseModel):
    """Whether requests to /classify can be answered, by which model, and what is in the way if not."""

    ready: bool
    stopping: bool = Field(False, description="SIGTERM has come: what was accepted is being finished")
    model: str | None = Field(None, description="the version that serves", examples=["g0003-8f2c1a"])
    provider: str | None = Field(None, description="what it runs on", examples=["cpu"])
    variant: str | None = Field(None, description="its number format: fp32, fp16 or int8", examples=["fp32"])
    fallback: str | None = Field(None, description="why it is not on the GPU that this machine has")
    refused: dict[str, str] = Field({}, description="champions that could not be loaded, and why")


class Weights(BaseModel):
    """Pretrained weights as stored."""

    sha256: str = Field(description="give it as `weights` to POST /labeled or POST /generations")
    num_bytes: int
