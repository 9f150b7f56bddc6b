"""Frozen documents that cross a process border, as JSON in the store, in the catalog and over HTTP.

A record says what was true when it was written; changing one means making another.
"""

import enum
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

#: A bucket's name is part of object keys and URLs: lower case, so that no file system confuses two.
BUCKET_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
#: The ids of jobs and versions are of this form, whatever they name; a database need not be asked for others.
NAME_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z._-]{0,99}$"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
#: A version, and a reason, as they are asked for: PostgreSQL's text knows no NUL.
VersionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Reason = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00]+$")]


def _from_iso(value: Any) -> Any:
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else value


def _to_iso(value: float) -> str:
    return datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


#: Seconds since 1970 by the catalog's clock; in JSON an ISO 8601 time in UTC.
Timestamp = Annotated[
    float,
    BeforeValidator(_from_iso),
    PlainSerializer(_to_iso, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


def _as_number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError("not a number")
    return value


#: An integer as JSON has them: 2 and 2.0, and neither "2" nor true.
WholeNumber = Annotated[int, BeforeValidator(_as_number)]


#: What is free in a document nests no deeper: recipes do not, and serializers give up at some hundred levels.
MAX_DEPTH = 32


class Record(BaseModel):
    """The base of every document: frozen, and strict about fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """The document as UTF-8 JSON, indented, for people to read too."""
        return self.model_dump_json(indent=1).encode()


class Problem(Record):
    """Why something ended badly: a stable code for programs, a sentence for people."""

    code: str
    detail: str


# -- jobs ---------------------------------------------------------------------------------------


class JobKind(enum.StrEnum):
    INGEST = "ingest"  #: unpack an upload into a bucket's shards
    SYNC = "sync"  #: list a remote source, and open jobs that fetch what is new
    FETCH = "fetch"  #: fetch new objects of a remote source, and unpack them into a bucket's shards
    LABELED = "labeled"  #: take human-labeled images, freeze the holdout, open generation 0
    EXPORT = "export"  #: write pseudo-labels, and their images, as files to download
    GENERATION = "generation"  #: one turn of the loop, done by the trainer


class JobState(enum.StrEnum):
    RECEIVING = "receiving"  #: its upload is still arriving
    QUEUED = "queued"  #: waits for a program to claim it
    RUNNING = "running"  #: claimed; the claim lapses with its lease
    SUCCEEDED = "succeeded"  #: done, with its result
    FAILED = "failed"  #: ended, with its problem

    @property
    def is_ended(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED)


class Upload(Record):
    """One file that a client sent, kept in the store until its job has ended."""

    key: str
    name: str  #: as the client called it: data, never a path
    num_bytes: int
    split: Literal["unlabeled", "labeled", "holdout"] = "unlabeled"
    part_bytes: int | None = None  #: of each part but the last, where it lies in parts; None: it is one object
    is_fetched: bool = False  #: by a worker from a remote source; if it cannot be opened, it is one bad entry
    problem: Problem | None = None  #: why it could not be fetched; then there is nothing under its key

    @property
    def num_parts(self) -> int:
        return 1 if self.part_bytes is None else -(-self.num_bytes // self.part_bytes)


class UploadRequest(Record):
    """An upload in parts that is to begin."""

    bucket: str = Field(pattern=BUCKET_PATTERN, description="where the images go; made if new", examples=["phone"])
    name: str = Field(
        min_length=1, max_length=1000, pattern=r"^[^\x00]+$", description="of the archive", examples=["photos.zip"]
    )
    num_bytes: WholeNumber = Field(ge=1, le=2**50, description="of the whole archive", examples=[5_000_000_000])


class UploadState(Record):
    """How far an upload in parts is. Its id is its job's."""

    id: str
    state: "JobState"
    bucket: str
    name: str
    num_bytes: int
    part_bytes: int  #: of each part but the last
    num_parts: int
    missing: tuple[int, ...]  #: numbers of the parts that have not arrived


class UploadPart(Record):
    """A part that has arrived."""

    number: int
    num_bytes: int
    sha256: Sha256


class Metrics(Record):
    """One line of a training run's history."""

    step: int = Field(description="steps done")
    loss: float = Field(description="what is minimised: `labeled_loss` and the weighted `pseudo_loss`")
    labeled_loss: float
    pseudo_loss: float | None = Field(None, description="null without pseudo-labels")
    learning_rate: float
    gradient_norm: float
    images_per_second: float = Field(description="since the figures before; waiting for batches is in it")
    seconds: float = Field(0.0, description="of training until here")


class Validation(Record):
    """The accuracy of the averaged student at a step, for show: no step is chosen by it, and nothing stops by it."""

    step: int = Field(description="steps done")
    accuracy: Probability = Field(description="of the averaged, un-noised student, not yet exported")
    num_images: int = Field(description="images of the holdout's calibration half that it was asked for")
    seconds: float = Field(description="that it took; it is no part of the training time")


class History(Record):
    """The curves of a training run, as far as it is."""

    num_steps: int = Field(description="of the whole run")
    lines: tuple[Metrics, ...] = Field((), description="about 200, whatever the length of the run")
    validations: tuple[Validation, ...] = ()


class TrainingProgress(Record):
    """The newest figures of a training run: as they are while it goes on, as they were at its end afterwards."""

    step: int = Field(description="steps done")
    num_steps: int = Field(description="of the whole run")
    loss: float
    labeled_loss: float
    pseudo_loss: float | None = Field(None, description="null without pseudo-labels")
    learning_rate: float
    images_per_second: float | None = Field(
        None, description="over the last 10 s, validations left out; null at the start"
    )
    eta_s: float | None = Field(None, description="seconds until the last step, at that speed; null at the start")
    ema_accuracy: Probability | None = Field(None, description="of the last validation; nothing is chosen by it")
    ema_step: int | None = Field(None, description="the step of the last validation")
    ema_images: int | None = Field(None, description="images of the holdout's calibration half that were looked at")


class Job(Record):
    """A long action with state, progress, result and problem."""

    id: str
    kind: JobKind
    state: JobState
    bucket: str | None = None
    params: dict[str, Any] = {}
    step: str | None = None  #: what it is doing now, in words
    done: int = 0  #: units of ``step`` that are done
    total: int | None = None  #: units of ``step`` in all; None while unknown
    metrics: TrainingProgress | None = Field(None, description="of a generation whose training has begun")
    result: dict[str, Any] | None = None
    problem: Problem | None = None
    attempt: int = 0  #: rises with every claim; a write is good only under the newest
    created_at: Timestamp
    updated_at: Timestamp


# -- remote sources -----------------------------------------------------------------------------


class SourceRequest(Record):
    """What was asked: to take what lies at a URL, now and whenever it is synced again."""

    bucket: str = Field(pattern=BUCKET_PATTERN, description="where the images go; made if new")
    url: str = Field(
        min_length=1,
        max_length=2000,
        description="`s3://bucket/prefix`, `gs://bucket/prefix`, or `https://host/file` (one archive or image); "
        "credentials are in the workers' environment, never in here",
        examples=["s3://holiday-photos/2026/"],
    )


class ObjectCounts(Record):
    """What became of the objects of a source that were ever listed."""

    num_taken: int  #: in a receipt
    num_underway: int  #: a job has them, and has not ended
    num_failed: int  #: their job failed; the next sync takes them again


class RemoteSource(Record):
    """A remote source of a bucket."""

    id: str
    bucket: str
    url: str
    job: str | None = None  #: its newest sync
    objects: ObjectCounts | None = None  #: None in lists: it is counted when one source is asked for
    created_at: Timestamp


# -- images and shards --------------------------------------------------------------------------


class Outcome(enum.StrEnum):
    """What became of one entry of an upload."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  #: the same bytes are there already
    HOLDOUT_LEAK = "holdout-leak"  #: an exact or near copy is in the holdout, which never trains
    QUARANTINED = "quarantined"  #: cannot be used; the reason says why
    ATTACHED = "attached"  #: a file that belongs to an image beside it (its class, caption or metadata): not kept


class ReceiptEntry(Record):
    """One line of a receipt."""

    index: int  #: position in the upload, from 0
    name: str
    outcome: Outcome
    reason: str | None = None  #: a code, for what was quarantined
    detail: str | None = None  #: a sentence for people
    sha256: str | None = None
    copy_of: str | None = None  #: the first copy of a duplicate or a leak, as job/index
    resembles: str | None = None  #: sha256 of the image that this one is a near copy of


class ShardMember(Record):
    """One image of a shard, and where its bytes lie in the tar."""

    sha256: Sha256
    name: str  #: its name in the upload: data, never a path
    offset: int  #: of the image's first byte in the tar
    num_bytes: int
    width: int  #: pixels, before any EXIF turn
    height: int
    format: str  #: JPEG, PNG, ...
    class_name: str | None = None  #: what a human called it; None when unlabeled


class ShardManifest(Record):
    """What a shard holds; written after its tar, so its presence means the tar is whole."""

    key: str  #: of the tar
    sha256: Sha256  #: of the tar
    num_bytes: int
    split: Literal["unlabeled", "labeled", "holdout"]
    bucket: str | None
    members: tuple[ShardMember, ...]


class Shard(Record):
    """A sealed shard as the catalog knows it."""

    id: int
    key: str
    split: Literal["unlabeled", "labeled", "holdout"]
    bucket: str | None
    num_images: int
    num_bytes: int


class LabelTask(Record):
    """One label set to be made, or made: the pseudo-labels of one shard by one teacher."""

    id: int
    shard: Shard
    version: str
    attempt: int
    key: str | None = None
    num_rows: int | None = None


class LabelProgress(Record):
    """How far one teacher's labeling is."""

    version: str
    num_shards: int
    num_done: int
    num_failed: int
    num_images: int  #: in all the shards
    num_images_done: int


class BucketSummary(Record):
    """A bucket as ``GET /buckets`` shows it."""

    name: str
    created_at: Timestamp
    num_images: int
    num_shards: int
    num_bytes: int
    num_images_labeled: int  #: by the champion


class Recall(Record):
    """What deleting a bucket removed, or would remove, and which models it concerns."""

    bucket: str
    dry_run: bool  #: nothing was removed
    num_images: int
    num_shards: int
    num_bytes: int  #: of the shards
    num_label_sets: int
    num_jobs: int  #: that had not ended, and end failed with ``bucket_deleted``
    num_reviews: int = 0  #: what people said of its images; the undone ones too
    models: tuple[str, ...]  #: versions trained on the bucket's pseudo-labels, or on images of it that people reviewed
    descendants: tuple[str, ...]  #: versions taught by those, and so on


# -- exports ------------------------------------------------------------------------------------


class ExportFormat(enum.StrEnum):
    PARQUET = "parquet"  #: the pseudo-labels alone, as tables
    WEBDATASET = "webdataset"  #: tars of images, each with its pseudo-label as JSON beside it
    IMAGEFOLDER = "imagefolder"  #: tars of one folder a class
    HUGGINGFACE = "huggingface"  #: tars of images with metadata.csv, the `imagefolder` layout of `datasets`


class ExportRequest(Record):
    """Which pseudo-labels to export, and how."""

    format: ExportFormat = Field(ExportFormat.PARQUET, examples=["imagefolder"])
    bucket: str | None = Field(None, pattern=BUCKET_PATTERN, description="only of this bucket; null: of all")
    classes: tuple[Annotated[str, Field(min_length=1, max_length=255)], ...] = Field(
        (), max_length=10_000, description="only of these classes, by name; empty: of all", examples=[["t-shirt"]]
    )
    min_confidence: Probability = Field(0.0, description="only those at least so confident", examples=[0.9])
    teacher: VersionId | None = Field(
        None, description="whose pseudo-labels; null: the champion's, or the generation's"
    )
    generation: Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(_as_number)] | None = Field(
        None, description="only what this generation selected to train on; null: all that was labeled"
    )


class ExportFile(Record):
    """One file of an export."""

    name: str
    num_bytes: int
    sha256: Sha256
    num_rows: int  #: pseudo-labels in it


# -- models -------------------------------------------------------------------------------------


class Preprocessing(Record):
    """How an image becomes a model's input; what is evaluated is what is served.

    The image is resized so that its shorter side is ``floor(size / crop_fraction)``, then the central
    ``size`` × ``size`` is cut out (timm's ``crop_pct``, "center" mode). Normalisation with ``mean``
    and ``std`` (per channel, on a 0..1 scale) is inside the exported graph.
    """

    size: int = Field(ge=1, le=4096)
    crop_fraction: float = Field(1.0, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Probe(Record):
    """Known outputs for a known input: proves on every load that the file still is the model.

    ``probabilities`` belong to :func:`understudy.engine.probe_pixels`, computed by torch at export.
    """

    num_images: int
    probabilities: tuple[tuple[float, ...], ...]
    tolerance: float  #: largest absolute difference of a probability


class Interval(Record):
    """A two-sided interval of a proportion, or of a difference of two."""

    low: float
    high: float
    confidence: float = 0.95


class ReliabilityBin(Record):
    """How often a model is right when it is so sure: images of the holdout by the confidence of the answer."""

    low: float
    high: float
    num_images: int
    num_correct: int


class Latency(Record):
    """How long a model takes for one image on the machine that evaluated it, from pixels to probabilities."""

    provider: str
    threads: int  #: of one call, on a CPU
    num_runs: int
    median_ms: float
    p95_ms: float


class Confusion(Record):
    """How many images of one class a model took for another."""

    truth: str
    answer: str
    num_images: int


class Evaluation(Record):
    """One model on the holdout, through the exported artifact."""

    version: str
    num_images: int
    num_correct: int
    accuracy: float
    interval: Interval  #: Wilson score interval of the accuracy
    per_class: dict[str, float]  #: recall of each class
    calibration_error: float  #: expected calibration error, 15 equal-width bins (Guo et al. 2017)
    negative_log_likelihood: float
    images_per_second: float
    variant: str = "fp32"  #: the number format that was measured; labeling and the gate use fp32
    reliability: tuple[ReliabilityBin, ...] = ()  #: the 15 bins; empty: measured before there were any
    num_reliability_images: int | None = None  #: behind calibration and likelihood: not those of the calibration half
    top5_accuracy: float | None = None  #: the true class is among the five most probable, or all if there are fewer
    precision: dict[str, float] = {}  #: of each class: share of the images so called that are of it; 0: none is
    confusions: tuple[Confusion, ...] = ()  #: the most frequent mistakes; the evaluation's file has all
    latency: Latency | None = None  #: None: measured before there was any

    @property
    def latency_ms(self) -> float | None:
        """Median of one image through the engine. None: not measured."""
        return None if self.latency is None else self.latency.median_ms


class EvaluationSummary(Record):
    """One model on the holdout in short: nothing that grows with the classes."""

    version: str
    num_images: int
    num_correct: int
    accuracy: float
    interval: Interval
    calibration_error: float
    images_per_second: float


class Robustness(Record):
    """One model's error under corruption, on a sample of the holdout (Hendrycks & Dietterich 2019).

    Two are comparable where ``sample`` is the same. A model is judged in fp32, through the exported artifact.
    """

    version: str
    sample: Sha256  #: of the images' ids
    num_images: int
    clean_error: float  #: share of wrong answers to the same images as they are
    errors: dict[str, tuple[float, ...]]  #: by corruption: share of wrong answers at severity 1, 2, …

    @property
    def mean_errors(self) -> dict[str, float]:
        """The mean over the severities, by corruption."""
        return {name: sum(by_severity) / len(by_severity) for name, by_severity in self.errors.items()}

    @property
    def mean_error(self) -> float:
        """The mean over corruptions and severities: nobody's error divides it, unlike in mCE."""
        return sum(self.mean_errors.values()) / len(self.errors)

    @property
    def summary(self) -> "RobustnessSummary":
        """What the card keeps."""
        return RobustnessSummary(
            num_images=self.num_images,
            clean_error=self.clean_error,
            mean_error=self.mean_error,
            by_corruption=self.mean_errors,
        )


class RobustnessSummary(Record):
    """Robustness in short: the error under each corruption, over all severities."""

    num_images: int
    clean_error: float
    mean_error: float
    by_corruption: dict[str, float]


class Gain(Record):
    """One model against another on the same images: the paired counts and what they prove."""

    both_right: int
    only_challenger_right: int
    only_champion_right: int
    both_wrong: int
    difference: float  #: accuracy of the challenger less that of the champion
    p_value: float  #: one-sided exact McNemar test
    interval: Interval | None = None  #: of the difference, bootstrapped; None: judged before there was one


class ClassGain(Record):
    """The same on the holdout images of one class, and whether a loss of recall is proved."""

    name: str
    num_images: int
    only_challenger_right: int
    only_champion_right: int
    difference: float  #: recall of the challenger less that of the champion
    p_value: float  #: one-sided exact McNemar test of a loss
    limit: float  #: what Holm's method held the p-value to
    is_worse: bool


class Guess(Record):
    """What a first teacher is held to: always answering the most frequent class."""

    class_name: str
    num_images: int  #: of that class, in the holdout
    p_value: float  #: one-sided exact binomial test of the first teacher against that share


class Budget(Record):
    """What a challenger may cost: a figure of both models, and the recipe's limit."""

    name: Literal["calibration", "latency", "robustness"]
    challenger: float | None  #: None: not measured
    champion: float | None
    limit: float | None  #: of the difference, for latency of the ratio; None: whatever it is


class PastLook(Record):
    """An earlier comparison on the same holdout."""

    generation: int
    champion: str | None  #: whom it was with; None: a first teacher
    alpha: float
    promoted: bool


class Look(Record):
    """Which look at a holdout a comparison was, and so which error rate it was held to (``trainer.looks``)."""

    number: int = Field(ge=1)  #: among the looks at the same holdout
    carried: float  #: alpha of the look before, if that promoted
    alpha: float  #: this look's own share of the error rate, and what was carried
    holdout: dict[str, int]  #: images of each shard
    fresh_at: int  #: a holdout that grows to so many images is a new one, and its looks begin anew
    before: tuple[PastLook, ...] = ()


class Rule(Record):
    """One condition of the gate."""

    name: str
    passed: bool | None  #: None: not judged, the sentence says why
    value: float | None  #: None: not measured
    limit: float | None  #: None: there is none
    sentence: str


class GateReport(Record):
    """The verdict on a challenger and every number behind it: enough to judge again."""

    generation: int
    challenger: Evaluation
    champion: Evaluation | None  #: None for the first teacher
    gain: Gain | None  #: None for the first teacher
    alpha: float  #: the error rate that the test was held to
    class_floor: float  #: no class may lose more recall than this, proved
    verdict: Literal["promote", "refuse"]
    rule: str  #: which rule decided
    reasons: tuple[str, ...]  #: in words
    rules: tuple[Rule, ...] = ()  #: every condition; empty: judged before they were kept
    look: Look | None = None  #: None: judged when looks were not counted
    guess: Guess | None = None  #: of the first teacher
    classes: tuple[ClassGain, ...] = ()
    budgets: tuple[Budget, ...] = ()
    power: float | None = None  #: the chance that a true gain of 2 points would have been proved
    images_needed: int | None = None  #: to prove a gain such as was seen; None: it is proved, or none would
    control: Evaluation | None = None  #: the same student trained on labels alone; None: none was trained
    control_gain: Gain | None = None  #: the challenger against that control: what pseudo-labels were worth

    @property
    def is_proved(self) -> bool:
        return self.verdict == "promote"


class GateSummary(Record):
    """The verdict on a challenger in short, as lists show it: `GET /generations/{n}` has the whole report."""

    challenger: EvaluationSummary
    champion: EvaluationSummary | None = None  #: None for the first teacher
    gain: Gain | None = None  #: None for the first teacher
    alpha: float
    verdict: Literal["promote", "refuse"]
    rule: str  #: which rule decided
    reasons: tuple[str, ...]  #: in words
    power: float | None = None
    images_needed: int | None = None
    control: EvaluationSummary | None = None  #: None: no control was trained
    control_gain: Gain | None = None

    @property
    def is_proved(self) -> bool:
        return self.verdict == "promote"


class Variant(Record):
    """A model in another number format, for one kind of provider: a second file of the same version.

    It is judged by itself, on the same holdout through the same engine. A variant with a reason is not
    served and has no file; one without may be served where it is measured faster.
    """

    name: Literal["fp16", "int8"]
    provider: Literal["cuda", "cpu"]  #: what it is made for
    artifact_key: str | None = None  #: None: there is nothing to serve
    artifact_sha256: Sha256 | None = None
    artifact_bytes: int | None = None
    probe: Probe | None = None
    evaluation: Evaluation | None = None
    evaluated_on: str | None = None  #: the provider that it was evaluated on
    accuracy_difference: float | None = None  #: its accuracy on the holdout less that of the version itself
    agreement: float | None = None  #: share of the holdout's images to which both give the same class
    tolerance: float = Field(ge=0, le=1)  #: the recipe's: more accuracy than this it may not lose
    reason: str | None = None  #: why it is not served, in words

    @property
    def is_eligible(self) -> bool:
        return self.reason is None and self.artifact_key is not None


class ModelCard(Record):
    """The JSON beside an artifact: all that a program needs to serve it, and where it came from."""

    version: str
    generation: int
    student: str  #: the architecture, as ``trainer.model`` reads it
    num_parameters: int
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float  #: calibration inside the graph: probabilities = softmax(logits / temperature)
    artifact_key: str
    artifact_sha256: Sha256
    artifact_bytes: int
    weights_key: str
    probe: Probe
    recipe: dict[str, Any]
    teacher: str | None  #: the version that labeled; None for the first teacher
    data: dict[str, Any]  #: what it was trained on: counts and keys
    training: dict[str, Any]  #: seconds, steps, final loss
    evaluation: Evaluation
    software: dict[str, str]  #: library versions
    variants: tuple[Variant, ...] = ()  #: other number formats of the same version
    control: Evaluation | None = None  #: the same student trained on labels alone; None: none was trained
    control_gain: Gain | None = None  #: this version against that control, on the holdout
    robustness: RobustnessSummary | None = None  #: None: the recipe asked for no such measurement

    def variant(self, name: str) -> Variant | None:
        """The variant of that name, whether it may be served or not."""
        return next((variant for variant in self.variants if variant.name == name), None)

    @model_validator(mode="after")
    def _name_each_class_once(self) -> Self:
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise ValueError(f"classes must be two or more, each named once; got {self.classes}")
        return self


class VersionState(enum.StrEnum):
    CHALLENGER = "challenger"  #: registered, not judged yet
    PROMOTED = "promoted"  #: is or was the champion
    REFUSED = "refused"  #: the gate did not find it proved


class ModelVersion(Record):
    """One registered model."""

    id: str
    generation: int
    state: VersionState
    student: str
    created_at: Timestamp
    is_champion: bool
    card: ModelCard


class ModelFile(Record):
    """One file of a model version."""

    name: str
    num_bytes: int
    sha256: Sha256 | None  #: None: the model is from before this was written down


class Championship(Record):
    """One entry of the champion's history; the newest names the champion."""

    sequence: int
    version: str
    at: Timestamp
    reason: str
    actor: str


class Override(Record):
    """What was asked: to promote what the gate refused."""

    reason: Reason = Field(description="why; it is kept in the history")


class Rollback(Record):
    """What was asked: a former champion is to serve again."""

    version: VersionId | None = Field(None, description="null: the one that the champion took over from")
    reason: Reason = Field(description="why; it is kept in the history")


# -- deployments --------------------------------------------------------------------------------


class DeploymentKind(enum.StrEnum):
    SHADOW = "shadow"  #: the challenger's answers are compared with the champion's, and never sent
    CANARY = "canary"  #: a share of the requests is answered by the challenger


class DeploymentState(enum.StrEnum):
    ACTIVE = "active"  #: every service process gives the challenger its share
    WITHDRAWN = "withdrawn"  #: ended by itself: the challenger could not be loaded, or was worse by its limits
    ENDED = "ended"  #: ended by a person, or because a model was promoted


class Limits(Record):
    """By what a challenger is worse. Defaults catch what is broken, not what is a little slower or disagrees at times."""

    min_images: int = Field(
        200,
        ge=1,
        le=10**9,
        description="judge after so many images, or before if that many good ones could not mend it",
    )
    max_error_rate_increase: float = Field(
        0.01, ge=0, le=1, allow_inf_nan=False, description="share of failed requests beyond the champion's; 1: any"
    )
    max_latency_ratio: float = Field(
        2.0, gt=0, le=1e6, allow_inf_nan=False, description="mean latency of a canary, as a multiple of the champion's"
    )
    min_agreement: float = Field(
        0.5, ge=0, le=1, allow_inf_nan=False, description="share of compared images that both call the same; 0: any"
    )


class DeploymentRequest(Record):
    """What was asked: to let a challenger see live traffic."""

    version: VersionId
    kind: DeploymentKind
    share: float = Field(gt=0, le=1, allow_inf_nan=False, description="of the requests, drawn by chance")
    limits: Limits = Limits()


class DeploymentEnd(Record):
    """What was asked: to take a challenger off live traffic."""

    reason: Reason


class Counts(Record):
    """What both models did during a deployment, in all service processes together.

    A champion's requests are those that it answered; a canary's those that it was asked, answered or not.
    A shadow is asked one image at a time.
    """

    champion_requests: int = 0
    champion_images: int = 0
    champion_errors: int = 0  #: requests that failed by the model's fault: not by an image's, nor by being late
    champion_seconds: float = 0.0  #: from asking to the answer, summed over requests
    challenger_requests: int = 0
    challenger_images: int = 0
    challenger_errors: int = 0
    challenger_seconds: float = 0.0
    compared_images: int = 0  #: images that both were asked
    agreed_images: int = 0  #: of these, the images that both called the same
    skipped_images: int = 0  #: images that were to be compared when there was no room for that


class Deployment(Record):
    """A challenger on live traffic: what was asked, how it stands, and what was counted."""

    id: str
    version: str
    champion: str  #: whom it is compared with; another champion ends it
    kind: DeploymentKind
    share: float
    limits: Limits
    state: DeploymentState
    reason: str | None = None  #: why it ended
    opened_by: str
    ended_by: str | None = None  #: None: it is active, or was withdrawn by itself
    created_at: Timestamp
    ended_at: Timestamp | None = None
    counts: Counts = Counts()
    agreement: float | None = None  #: of the compared images; None: there are none
    champion_latency_ms: float | None = None  #: mean of its requests; None: there are none
    challenger_latency_ms: float | None = None


# -- generations --------------------------------------------------------------------------------


class GenerationState(enum.StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PROMOTED = "promoted"
    REFUSED = "refused"
    FAILED = "failed"

    @property
    def is_ended(self) -> bool:
        return self in (GenerationState.PROMOTED, GenerationState.REFUSED, GenerationState.FAILED)


def _depth(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return 1 + max(map(_depth, children), default=-1)


def _storable(fields: dict[str, Any]) -> dict[str, Any]:
    """Refuse what Python takes for JSON and a database does not: NaN, half a surrogate pair, endless depth."""
    try:
        json.dumps(fields, allow_nan=False, ensure_ascii=False).encode()
        if (depth := _depth(fields)) > MAX_DEPTH:
            raise ValueError(f"{depth} levels deep; at most {MAX_DEPTH} are taken")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a JSON object that can be kept: {error}") from error
    return fields


class GenerationRequest(Record):
    """What was asked of a generation."""

    student: str | None = None  #: architecture; None: the recipe's own choice
    recipe: str | None = None  #: name; None: as the generation before, or the default
    overrides: Annotated[dict[str, Any], AfterValidator(_storable)] = {}  #: recipe fields to replace
    seed: WholeNumber = Field(0, ge=0, lt=2**31)
    weights: Sha256 | None = None  #: of an uploaded safetensors file to start from


class Generation(Record):
    """One turn of the loop, as the catalog knows it."""

    number: int
    state: GenerationState
    request: GenerationRequest
    teacher: str | None
    version: str | None = None  #: the student, once registered
    job: Job
    report: GateReport | None = None
    created_at: Timestamp
    ended_at: Timestamp | None = None


class GenerationSummary(Record):
    """One turn of the loop, as lists show it: the same without what grows with the classes."""

    number: int
    state: GenerationState
    request: GenerationRequest
    teacher: str | None
    version: str | None = None
    job: Job
    report: GateSummary | None = None
    created_at: Timestamp
    ended_at: Timestamp | None = None


# -- the loop -----------------------------------------------------------------------------------


class LoopPause(Record):
    """A pause that is asked for."""

    reason: Reason


class LoopNext(enum.StrEnum):
    """What starts next by itself."""

    RESUME = "resume"  #: the loop is paused: nothing new starts until somebody resumes it
    GENERATION = "generation"  #: the generation that is under way goes on, or the next opens by itself
    LABELS = "labels"  #: the champion labels the shards that wait for it
    LABELED_SET = "labeled_set"  #: nothing: no human-labeled images have arrived yet
    PERSON = "person"  #: nothing: everything is labeled, and somebody may open a generation


class LoopTurn(Record):
    """The generation that is under way."""

    number: int
    state: GenerationState
    step: str | None  #: None: no trainer has begun
    done: int
    total: int | None


class LabelCounts(Record):
    """The champion's label sets, one a shard; the four sum to the number of shards. Zero without a champion."""

    num_wanted: int = 0
    num_running: int = 0
    num_done: int = 0
    num_failed: int = 0


class LoopState(Record):
    """Where the loop stands: what runs, what waits, and what starts next."""

    paused: bool
    by: str | None = None
    since: Timestamp | None = None
    reason: str | None = None
    champion: str | None
    generation: LoopTurn | None
    labels: LabelCounts
    num_images: int  #: unlabeled images that were accepted, in all buckets
    num_pseudo_labels: int  #: of them, those that the champion has labeled
    generate_after: int  #: newly labeled images after which the next generation opens by itself; 0: never
    num_new_images: int  #: images that were sealed since the last generation was opened and the champion has labeled
    next: LoopNext
    why: str  #: one sentence for people


# -- webhooks -----------------------------------------------------------------------------------


class WebhookEvent(enum.StrEnum):
    INGEST_FINISHED = "ingest.finished"  #: an upload, a labeled set or a fetch has ended, well or not
    LABELS_READY = "labels.ready"  #: the champion has labeled every shard that it could
    GENERATION_FINISHED = "generation.finished"  #: promoted, refused or failed
    GATE_PASSED = "gate.passed"  #: a challenger is proved better
    GATE_REFUSED = "gate.refused"  #: it is not
    MODEL_SWAPPED = "model.swapped"  #: the champion has moved: by the gate, or by a person against its verdict
    MODEL_ROLLED_BACK = "model.rolled_back"  #: the champion has moved back
    ALARM = "alarm"  #: somebody should look; ``cause`` says at what


#: What is sent on demand, to whatever webhook.
PING = "ping"


class WebhookRequest(Record):
    """Who shall be told of what."""

    url: str = Field(
        min_length=1,
        max_length=2000,
        description="http or https; may carry a token",
        examples=["https://example.com/hook"],
    )
    events: tuple[WebhookEvent, ...] = Field(
        tuple(WebhookEvent), min_length=1, max_length=100, description="default: every event"
    )
    description: str = Field("", max_length=200, pattern=r"^[^\x00]*$", description="for people")


class Webhook(Record):
    """Who is told of what. Its secret is shown once and never again."""

    id: str
    url: str
    events: tuple[WebhookEvent, ...]
    description: str
    created_by: str
    created_at: Timestamp


class NewWebhook(Webhook):
    """The same with its secret, which nobody is shown again."""

    secret: str = Field(description="of the form `whsec_...`; give it to `understudy.webhooks.verify`")


class Event(Record):
    """The body of a delivery: what has happened, to what, when."""

    id: str  #: the same at every attempt, as in the header ``webhook-id``
    type: str  #: a WebhookEvent, or ping
    timestamp: Timestamp
    subject: str  #: the id of the job, version, generation, deployment or shard
    data: dict[str, Any]


class DeliveryAttempt(Record):
    """One request to a webhook."""

    at: Timestamp
    status: int | None  #: None: there was no answer
    ms: int  #: it took
    answer: str  #: how it begins
    problem: str | None  #: None: it was taken, with 2xx


class Delivery(Record):
    """One event for one webhook."""

    id: int
    webhook: str
    event_id: str
    event: str
    subject: str
    state: JobState = Field(description="queued, running, succeeded (answered with 2xx) or failed (given up)")
    num_attempts: int
    next_at: Timestamp | None = Field(description="when it is tried (again); null: it has ended, or is due now")
    created_at: Timestamp
    body: str = Field(description="the JSON that is sent, byte for byte")
    attempts: tuple[DeliveryAttempt, ...] = Field(description="the last twenty, the newest last")


# -- keys ---------------------------------------------------------------------------------------


class KeyScope(enum.StrEnum):
    CLASSIFY = "classify"  #: ask the model
    INGEST = "ingest"  #: send unlabeled images
    ADMIN = "admin"  #: everything: what the other two may, and every other change


class ApiKey(Record):
    """What is known of an API key: everything but its secret."""

    id: str
    name: str
    scopes: tuple[KeyScope, ...]
    rate_limit: float | None = None  #: requests a second; 0: none, None: the service's default
    created_at: Timestamp
    revoked_at: Timestamp | None = None


# -- answers ------------------------------------------------------------------------------------


class ClassProbability(Record):
    """One class and how probable the model finds it."""

    label: str
    probability: Probability


class Prediction(Record):
    """What a model says of one image: its classes, the most probable first, or why it could not say."""

    name: str | None = None  #: the file's name, if it had one
    label: str | None = None  #: the most probable class
    probability: Probability | None = None
    classes: tuple[ClassProbability, ...] = ()
    problem: Problem | None = None


class Classified(Record):
    """The answer of ``POST /classify``: one prediction an image, in the order sent."""

    model: str  #: the version that gave every one of these answers
    predictions: tuple[Prediction, ...]
