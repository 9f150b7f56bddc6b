"""What is told of pseudo-labels over HTTP: one of them, counts of all, what a selection made of
them, and what one would."""

import enum
from typing import Any, Literal

from pydantic import Field

from understudy.recipes import Recipe
from understudy.records import Probability, Record, Sha256, VersionId
from understudy.review_records import Review
from understudy.tripwires import Tripwires

#: Bins of confidence in the facets, each 0.05 wide; the last has 1.0 too.
NUM_FACET_BINS = 20


class LabelSort(enum.StrEnum):
    CONFIDENCE = "confidence"  #: of the most probable class
    MARGIN = "margin"  #: by which the most probable class leads the second
    CHANGED = "changed"  #: whether the last teacher said another class, then confidence


class LabelOrder(enum.StrEnum):
    DESC = "desc"  #: the largest first
    ASC = "asc"  #: the smallest first


class ClassProbability(Record):
    """A class and what a teacher gives it."""

    label: str
    probability: Probability


class PseudoLabel(Record):
    """What one teacher says of one image."""

    sha256: Sha256
    bucket: str
    teacher: str
    label: str
    confidence: Probability
    margin: float  #: probability of the label less that of the second class
    classes: tuple[ClassProbability, ...]  #: the most probable first; the others share what is missing to 1
    previous_teacher: str | None = None  #: who labeled the image's shard before; None: nobody
    previous_label: str | None = None
    is_changed: bool | None = None  #: whether the two labels differ; None: there is only one
    review: Review | None = None  #: what a person says of the image, by whatever teacher; None: nothing that counts


class ClassFacet(Record):
    """The images that a teacher gives one class."""

    label: str
    num_images: int
    by_confidence: tuple[int, ...]  #: images in each bin of 0.05, from 0 to 1
    num_changed: int | None = None  #: of those whose label the last teacher saw otherwise; None: not asked


class LabelFacets(Record):
    """All pseudo-labels of one teacher, in numbers."""

    teacher: str
    num_images: int
    num_label_sets: int
    by_class: tuple[ClassFacet, ...]
    by_bucket: dict[str, int]
    by_teacher: dict[str, int]  #: images that each teacher has labeled, in the same buckets
    num_changed: int | None = None
    num_compared: int | None = None  #: images that the last teacher has labeled too


def _default(field: str) -> Any:
    """As recipes have it."""
    return Recipe.model_fields[field].default


class PreviewRequest(Record):
    """What was asked: what a selection would keep, with these fields of a recipe."""

    threshold: float = Field(0.3, ge=0, lt=1, allow_inf_nan=False, description="least confidence of the teacher")
    per_class: int | None = Field(
        None, ge=1, le=10**9, description="images of each class; null: in proportion to the labeled set"
    )
    max_copies: int = Field(4, ge=1, le=10**6, description="of one image of a scarce class")
    thresholds: Literal["fixed", "precision", "adaptive"] = Field(
        "fixed", description="one threshold for all classes, or one of each class's own"
    )
    min_precision: float = Field(0.9, gt=0, lt=1, allow_inf_nan=False, description="where thresholds is precision")
    pseudo_labels: Literal["soft", "hard"] = Field("soft", description="adaptive thresholds go lower for soft ones")
    balance: Literal["exact", "none"] = Field("exact", description="none: all over the threshold, once each")
    min_kept_share: Probability = Field(_default("min_kept_share"), description="a tripwire")
    max_class_shift: Probability = Field(_default("max_class_shift"), description="a tripwire")
    min_agreement: Probability = Field(_default("min_agreement"), description="a tripwire")
    teacher: VersionId | None = Field(None, description="null: the champion")


class ClassPreview(Record):
    """What a selection would make of one class."""

    available: int  #: images over the threshold
    target: int  #: images wanted
    kept: int  #: different images
    rows: int  #: with their copies
    threshold: float | None  #: the least confidence of what is kept, to 0.001 or finer; None: nothing is kept
    precision: Probability | None  #: share of the kept whose label is expected to be right
    candidates_from: float | None = None  #: the class's threshold; None: no label of the class may be trusted


class ClassYield(Record):
    """What the filter and the balance made of one class."""

    available: int  #: images over the threshold
    target: int  #: images wanted
    kept: int  #: different images
    rows: int  #: with their copies
    threshold: float | None = None  #: least confidence of a candidate; None: no label of the class is trusted, or asked


class Selection(Record):
    """What was selected, in numbers; the rows are in the Parquet file that its sha-256 names."""

    classes: tuple[str, ...]  #: the teacher's, which the rows' labels index
    threshold: float
    thresholds: str = "fixed"  #: what the classes' own thresholds are by; "former": the choice was labeled anew
    balance: str = "exact"
    max_copies: int
    num_labels: int = 0  #: pseudo-labels of any confidence
    num_candidates: int  #: images over the threshold
    num_kept: int  #: different images
    num_rows: int  #: with their copies
    per_class: dict[str, ClassYield]
    starved: tuple[str, ...]  #: classes that copies could not fill
    empty: tuple[str, ...]  #: classes without any image over the threshold
    rows_sha256: Sha256
    relabeled: int | None = None  #: the generation whose choice was labeled anew; None: the choice is of this one
    num_gone: int = 0  #: images of that choice that are no longer there, or labeled by a human by now
    num_answers: int = 0  #: of the calibration half that the thresholds were learned from
    tripwires: Tripwires | None = None
    warnings: tuple[str, ...] = ()


class SelectionPreview(Record):
    """What a selection would keep, and how right it may be expected to be."""

    teacher: str
    threshold: float
    max_copies: int
    num_candidates: int
    num_kept: int
    num_rows: int
    per_class: dict[str, ClassPreview]
    starved: tuple[str, ...]  #: classes that copies could not fill
    empty: tuple[str, ...]  #: classes without any image over the threshold
    precision: Probability | None  #: None: the teacher's card has no reliability, or nothing is kept
    num_holdout: int  #: images that the precision was estimated from; few of them make it rough
    num_answers: int = 0  #: of the holdout's calibration half that thresholds by precision were learned from
    tripwires: Tripwires | None = None  #: the figures that would end a generation if they were beyond a limit
    collapses: tuple[str, ...] = ()  #: a sentence for each figure that is
    warnings: tuple[str, ...] = ()
