"""What is told over HTTP of reviews: what a person says of pseudo-labels, in which order to look, and how right they are."""

import enum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from understudy.records import (
    ClassProbability,
    Interval,
    Probability,
    Record,
    Sha256,
    Timestamp,
    VersionId,
    WholeNumber,
)

#: Decisions that are taken, and undone, in one request: all of them or none.
MAX_REVIEWS = 1000

#: As long as the catalog's column; and PostgreSQL's text knows no NUL.
ClassName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")]


class Verdict(enum.StrEnum):
    ACCEPT = "accept"  #: the teacher's class is right
    CORRECT = "correct"  #: it is another class, which the person names
    REJECT = "reject"  #: it is none of the classes, or of no use: nothing learns from it


class ReviewOrder(enum.StrEnum):
    """By what it is ranked which image to look at next."""

    UNCERTAIN = "uncertain"  #: the label hardly leads the second class
    DISAGREEMENT = "disagreement"  #: the teacher before saw another class
    AUDIT = "audit"  #: a uniform sample of what a selection would take, whose labels are not told


class Decision(Record):
    """What a person says of one image."""

    sha256: Sha256
    verdict: Verdict
    class_name: ClassName | None = Field(
        None,
        description="what it is: needed to correct; of an accepted label, the class that was shown: if the teacher says "
        "another by now, it is refused (409 `label_changed`)",
        examples=["t-shirt"],
    )
    is_new_class: bool = Field(
        False, description="the class is none that the labeled set has, and that is meant; such an image trains nothing"
    )
    teacher: VersionId | None = Field(None, description="whose label was seen; null: the champion's")
    is_audit: bool = Field(False, description="it was seen in the audit queue, so without its label")
    audit_threshold: Probability | None = Field(
        None, description="the least confidence that this queue was asked for; null: its default"
    )
    split: Literal["labeled", "holdout"] = Field(
        "labeled",
        description="holdout is refused (409 `may_have_trained`): a model may have learned from the image. Those of "
        "which none did are taken as a file `holdout` of `POST /labeled`",
    )

    @model_validator(mode="after")
    def _name_what_is_meant(self) -> Self:
        if self.verdict == Verdict.CORRECT and self.class_name is None:
            raise ValueError("class_name is missing: to correct a label is to say which class it is")
        if self.verdict == Verdict.REJECT and self.class_name is not None:
            raise ValueError("class_name has no meaning where the verdict is reject; correct names another class")
        if self.verdict == Verdict.ACCEPT and self.is_audit:
            raise ValueError("an audit is blind: say the class with verdict correct, or reject; it is compared then")
        if self.audit_threshold is not None and not self.is_audit:
            raise ValueError("audit_threshold has a meaning only where is_audit is true")
        return self


class ReviewRequest(Record):
    """Decisions that are taken together."""

    reviews: tuple[Decision, ...] = Field(
        min_length=1,
        max_length=MAX_REVIEWS,
        description="one an image at most",
        examples=[
            [{"sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "verdict": "accept"}]
        ],
    )


class ReviewUndo(Record):
    """Reviews that are to count no more."""

    ids: tuple[Annotated[WholeNumber, Field(ge=1, lt=2**31)], ...] = Field(
        min_length=1, max_length=MAX_REVIEWS, description="as POST /reviews gave them", examples=[[17, 18]]
    )


class Review(Record):
    """What a person said of a pseudo-label, and of which. The newest of an image that is not undone counts."""

    id: int
    sha256: Sha256
    verdict: Verdict
    class_name: str | None  #: what the image is; None: rejected
    is_new_class: bool = False  #: the labeled set lacks that class, so nothing is trained on the image
    teacher: str  #: whose pseudo-label it was
    label: str  #: what it said
    confidence: Probability
    is_audit: bool  #: decided without seeing the label
    audit_threshold: Probability | None = None  #: what the audit's sample was drawn from: confidences from here on
    actor: str
    at: Timestamp
    undone_at: Timestamp | None = None


class QueueItem(Record):
    """An image to be reviewed, and what its teacher says; of an audit, nothing that could sway the person."""

    sha256: Sha256
    bucket: str
    teacher: str
    label: str | None  #: None here and below: an audit is blind
    confidence: Probability | None
    margin: float | None
    classes: tuple[ClassProbability, ...]  #: the most probable first
    previous_teacher: str | None = None
    previous_label: str | None = None


class ReviewQueue(Record):
    """Some images to be reviewed, what helps most first."""

    items: tuple[QueueItem, ...]
    next: str | None = Field(None, description="give it as `cursor` to get the next part; null: this is the end")
    by: ReviewOrder
    teacher: str
    audit_threshold: Probability | None = Field(
        None, description="least confidence of what an audit is drawn from: send it with each decision; null: no audit"
    )


class AuditedClass(Record):
    """How right the pseudo-labels of one class are, or of all."""

    num_audited: int
    num_right: int
    precision: Probability | None  #: None: nothing was audited
    interval: Interval | None  #: Clopper and Pearson's, which is exact


class Audit(Record):
    """How right a teacher's pseudo-labels are, by a blind and uniform sample of them."""

    teacher: str
    threshold: Probability  #: of the labels that are at least so confident
    num_audited: int
    num_right: int
    num_rejected: int  #: of those that are wrong, the images that are of no class
    precision: Probability | None
    interval: Interval | None
    per_class: dict[str, AuditedClass]  #: by the teacher's label
