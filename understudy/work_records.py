"""What is being worked on, as frozen documents: who holds which work, and how far each shard's labeling is."""

from typing import Annotated

from pydantic import Field

from understudy.records import Prediction, Problem, Record, Timestamp


class Holding(Record):
    """Work that a program has claimed and not ended: a job, or the label set of one shard."""

    kind: str = Field(description="`label`, or the kind of the job", examples=["label"])
    id: str = Field(description="of the job, or of the label set")
    bucket: str | None = None
    version: str | None = Field(None, description="the teacher, of a label set")
    shard: int | None = Field(None, description="of a label set")
    step: str | None = Field(None, description="of a job: what it is doing now")
    owner: str | None = Field(None, description="the program: host, boot, container, process and when that began")
    attempt: int = Field(description="rises with every claim")
    opened_at: Timestamp = Field(description="when the work was asked for")
    seen_at: Timestamp = Field(description="the holder's last sign of life")
    lease_until: Timestamp | None = Field(None, description="until then nobody else may take it")
    is_stalled: bool = Field(description="the lease has lapsed: its holder has died or hangs, and another may take it")


class LabelFault(Record):
    """A label set that could not be made. It is tried again by itself after a while."""

    shard: int
    bucket: str | None
    version: str
    attempt: int
    num_images: int
    problem: Problem | None
    failed_at: Timestamp


class ShardStrip(Record):
    """The shards of one bucket, a letter each, in the order in which they were sealed."""

    bucket: str
    first: int = Field(description="id of the first of these shards")
    states: Annotated[str, Field(pattern="^[wrdf]+$")] = Field(
        description="w: waits, r: is being labeled, d: done, f: failed", examples=["dddrww"]
    )


class ShardMap(Record):
    """Where the labeling of the unlabeled shards stands by one teacher: the counts of all, and a part of the map."""

    version: str | None = Field(description="the teacher; null: no model has been promoted, and every shard waits")
    num_waiting: int
    num_running: int
    num_done: int
    num_failed: int
    strips: tuple[ShardStrip, ...]
    next: str | None = Field(None, description="give it as `cursor` to get the next part; null: this is the end")

    @property
    def num_shards(self) -> int:
        return self.num_waiting + self.num_running + self.num_done + self.num_failed


class Tried(Record):
    """What one version says of one image, whether it serves or not."""

    model: str
    prediction: Prediction
    load_ms: float = Field(description="that it took to load and verify the version")
    answer_ms: float = Field(description="that it took to decode the image and ask")
