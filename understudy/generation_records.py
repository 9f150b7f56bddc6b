"""What is told of a generation beside its verdict: its plan, and two versions' answers to the same holdout images."""

import enum
from typing import Any

from pydantic import ConfigDict, Field

from understudy.records import Probability, Record, Robustness, Sha256


class GenerationPlan(Record):
    """What a generation was frozen to before its first step: what of it concerns people.

    The recipe is a document, as on a card: one that another release wrote is shown as it was.
    """

    model_config = ConfigDict(extra="ignore")

    generation: int
    recipe: dict[str, Any] = Field(description="every field of the recipe, as it was resolved for this generation")
    student: str = Field(description="architecture", examples=["efficientnet@width=1.5"])
    num_parameters: int
    classes: tuple[str, ...]
    teacher: str | None = Field(None, description="null: a first teacher, on labeled images alone")
    seed: int = 0
    labeled_counts: dict[str, int] = Field(description="labeled images of each class")


class PairOutcome(enum.StrEnum):
    """Which of two versions is right about an image."""

    WON = "won"  #: the challenger alone
    LOST = "lost"  #: the champion alone
    BOTH_RIGHT = "both-right"
    BOTH_WRONG = "both-wrong"


class ComparedClass(Record):
    """The holdout images of one class, by which of two versions is right."""

    name: str
    num_images: int
    won: int
    lost: int


class ComparedConfusion(Record):
    """How many images of one class each of two versions takes for another."""

    truth: str
    answer: str
    challenger: int
    champion: int


class Comparison(Record):
    """Two versions on the same holdout images, counted; the gate's tests of it are in its report."""

    challenger: str
    champion: str
    num_images: int
    won: int  #: the challenger alone is right
    lost: int  #: the champion alone is right
    both_right: int
    both_wrong: int
    classes: tuple[ComparedClass, ...]
    confusions: tuple[ComparedConfusion, ...]  #: the mistakes whose numbers differ most, at most 200
    challenger_robustness: Robustness | None = None  #: None: not measured beside the other
    champion_robustness: Robustness | None = None


class ComparedImage(Record):
    """A holdout image, and what two versions say of it."""

    sha256: Sha256
    truth: str
    challenger: str  #: its answer
    challenger_confidence: Probability | None = None  #: None: measured before it was kept
    champion: str
    champion_confidence: Probability | None = None
    outcome: PairOutcome
