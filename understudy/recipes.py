"""Recipes: the frozen configuration of one training run, by name, with fields that may be replaced.

The numbers are those of Noisy Student Training (Xie et al. 2020, arXiv 1911.04252 v4) where a small
data set and a CPU allow them; where they do not, the reason stands beside the number. A recipe is a
function of the ``Turn`` that it is for: which generation, which student, how many labeled images. It
knows nothing else of the data, and the seed is the request's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from understudy.errors import RecipeRefused
from understudy.records import Preprocessing, Probability, Record

DEFAULT = "small"

#: Hard labels below this confidence cost accuracy, soft ones do not (the paper's figure of soft and
#: hard labels by confidence bin; its threshold of 0.3 belongs to soft labels).
MIN_HARD_THRESHOLD = 0.6
#: The paper's survival probability of 0.8 is a drop rate of 0.2. A rate above this is that number mistaken.
MAX_DROP_PATH_RATE = 0.5
#: The ends of the two scales of RandAugment: timm's clips at 10, the official one extrapolates to the paper's 27.
MAX_MAGNITUDE = {"increasing": 10.0, "official": 30.0}

Channels = tuple[Probability, Probability, Probability]
Level = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class Turn:
    """What a recipe is made for."""

    generation: int = 0
    student: str | None = None  #: asked for by name; None: the recipe's own choice
    num_labeled: int = 5000  #: images of the labeled set; the paper counts in passes over them


class Recipe(Record):
    """One training run but for its data and its seed."""

    name: str
    asked: dict[str, Any] = {}  #: the fields that were replaced: the next generation is asked the same

    # -- the student
    students: tuple[str, ...] = Field(min_length=1)  #: by generation; the last one repeats
    allow_smaller: bool = False  #: than the teacher; the paper's student is equal or larger (section 2)
    start: Literal["scratch", "teacher"] = "scratch"  #: fresh weights as in the paper, or grown from the teacher's
    dropout: float = Field(0.2, ge=0, lt=1)  #: before the classifier
    drop_path_rate: float = Field(0.2, ge=0, lt=1)  #: of the last block; linear from 0 (stochastic depth)
    batch_norm_momentum: float = Field(0.1, gt=0, le=1)  #: torch's meaning; 0.01 in the official code, for long runs
    frozen_blocks: int | None = Field(None, ge=0)  #: FixRes: stem and that many blocks stay as they are; None: none

    # -- what an image becomes
    size: int = Field(64, ge=8, le=1024)
    crop_fraction: float = Field(1.0, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)

    # -- how long, and in which proportions
    teacher_steps: int = Field(ge=1)  #: on labeled data alone
    student_steps: int = Field(ge=1)  #: on labeled and pseudo-labeled data
    labeled_batch: int = Field(32, ge=2)  #: labeled images a step; BatchNorm needs two
    unlabeled_ratio: int = Field(3, ge=1)  #: pseudo-labeled images for each labeled one (3 for B1-B7, section 3.2)
    accumulate: int = Field(1, ge=1)  #: parts that a step's batch is run in, one after the other, to save memory
    checkpoint_every: int = Field(200, ge=1)  #: steps
    evaluate_every: int = Field(
        200, ge=1
    )  #: steps between two looks at the average's accuracy; nothing is chosen by it

    # -- optimisation
    optimizer: Literal["adamw", "rmsprop"] = "adamw"  #: RMSProp as in the official code: decay and momentum 0.9
    schedule: Literal["cosine", "staircase"] = "cosine"  #: to zero; or times ``decay_rate`` every ``decay_steps``
    learning_rate: float = Field(3e-3, gt=0)
    decay_rate: float = Field(0.97, gt=0, le=1)
    decay_steps: int = Field(1000, ge=1)  #: counted from step 0, not from the end of the warm-up (official code)
    weight_decay: float = Field(0.05, ge=0)  #: on everything but biases and BatchNorm
    warmup_steps: int = Field(50, ge=0)
    max_gradient_norm: float = Field(10.0, gt=0)
    ema_decay: float = Field(0.995, ge=0, lt=1)  #: 0.9999 in the paper, whose runs are a hundred times longer
    label_smoothing: float = Field(0.1, ge=0, lt=1)  #: of labeled and hard targets, never of soft ones
    precision: Literal["auto", "fp32", "bf16"] = "auto"  #: auto: bf16 on a GPU, fp32 on a CPU
    compiled: bool = False  #: torch.compile; pays on a GPU in runs of more than some minutes

    # -- pseudo-labels (section 3.1, "data filtering and balancing")
    pseudo_labels: Literal["soft", "hard", "none"] = "soft"  #: none: on labeled images alone
    threshold: float = Field(0.3, ge=0, lt=1)  #: least confidence of the teacher
    thresholds: Literal["fixed", "precision", "adaptive"] = "fixed"  #: one for all; or a class's own, never below it
    min_precision: float = Field(0.9, gt=0, lt=1)  #: of each class's pseudo-labels, where ``thresholds`` is precision
    relabel: Literal["afresh", "same"] = "afresh"  #: select anew; or label the last generation's choice anew (official)
    per_class: int | None = Field(None, ge=1)  #: images of each class; None: in proportion to the labeled set
    max_copies: int = Field(4, ge=1)  #: of one image of a scarce class; the paper has no limit
    balance: Literal["exact", "histogram", "none"] = "exact"  #: the best of each class, the official code's 101 bins
    pseudo_weight: float = Field(1.0, gt=0)  #: of the pseudo-labeled images' mean loss beside the labeled one's

    # -- tripwires: a selection beyond them ends the generation with the reason
    min_kept_share: Probability = 0.01  #: of all pseudo-labels that is kept
    max_class_shift: Probability = 0.9  #: total variation between the candidates' classes and the labeled set's
    min_agreement: Probability = 0.3  #: of this teacher's labels and those of the one before, on the same images

    # -- input noise
    augment_ops: int = Field(2, ge=0)  #: RandAugment's n
    augment_scale: Literal["increasing", "official"] = "increasing"  #: timm's to 10, or the paper's that extrapolates
    augment_magnitude: float = Field(5.0, ge=0)  #: RandAugment's m, on that scale
    translate_fraction: float = Field(0.2, ge=0, le=0.5)  #: of the side, at 10 on the increasing scale
    fill: tuple[Level, Level, Level] = (128, 128, 128)  #: what rotations and shifts uncover
    min_crop_area: float = Field(0.35, gt=0, le=1)  #: of a random crop; 1: the same frame as when serving
    flip: bool = True
    erasing_probability: Probability = 0.25
    erasing_fraction: float = Field(0.3, ge=0, lt=1)  #: side of the erased square, of the input's side

    # -- after training
    calibrate: bool = True  #: fit a temperature on the holdout's calibration half, into the graph
    control: bool = False  #: train the same student on labels alone beside it: what pseudo-labels gain, as a number
    robustness_images: int = Field(0, ge=0)  #: of the holdout that are corrupted in 75 ways; 0: not measured
    variants: tuple[Literal["fp16", "int8"], ...] = ("fp16", "int8")  #: that the export makes beside fp32
    variant_tolerance: Probability = 0.005  #: accuracy on the holdout that a variant may lose and still be served

    # -- what a student may cost and still pass the gate; None: whatever it does
    max_latency_ratio: float | None = Field(None, gt=0)  #: its milliseconds for one image ÷ the champion's
    max_calibration_loss: float | None = Field(0.05, ge=0)  #: its calibration error less the champion's
    max_robustness_loss: float | None = Field(0.02, ge=0)  #: its mean error under corruption less the champion's

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the student's input when it serves."""
        return Preprocessing(
            size=self.size,
            crop_fraction=self.crop_fraction,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
        )

    def student(self, generation: int) -> str:
        """The architecture of a generation's student."""
        return self.students[min(generation, len(self.students) - 1)]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for is_wrong, message in (
            (
                self.pseudo_labels == "hard" and self.threshold < MIN_HARD_THRESHOLD,
                f"hard pseudo-labels with threshold={self.threshold} teach the student the teacher's mistakes; "
                f"raise threshold to at least {MIN_HARD_THRESHOLD} or set pseudo_labels to soft",
            ),
            (
                self.drop_path_rate > MAX_DROP_PATH_RATE,
                f"drop_path_rate={self.drop_path_rate} drops most of the network; it is a rate of dropping, not of "
                f"survival: for a survival of {self.drop_path_rate} set {1 - self.drop_path_rate:.2g}",
            ),
            (
                self.warmup_steps >= min(self.teacher_steps, self.student_steps),
                f"warmup_steps={self.warmup_steps} leaves nothing of teacher_steps={self.teacher_steps} or "
                f"student_steps={self.student_steps}; lower it or train longer",
            ),
            (
                len(set(self.variants)) != len(self.variants),
                f"variants={self.variants} names one of them twice; name each once",
            ),
            (
                self.augment_magnitude > MAX_MAGNITUDE[self.augment_scale],
                f"augment_magnitude={self.augment_magnitude} is beyond the end of the {self.augment_scale} scale, "
                f"{MAX_MAGNITUDE[self.augment_scale]:g}; lower it, or set augment_scale to official for the paper's m",
            ),
            (
                min(self.std) == 0,
                f"std={self.std} divides by zero; give the standard deviation of each channel on a scale of 0 to 1",
            ),
        ):
            if is_wrong:
                raise ValueError(message)
        return self


def tiny(turn: Turn) -> Recipe:
    """8 to 32 px, tens of labels, seconds on a CPU: digits, glyphs, icons.

    Chosen on scikit-learn's digits with 30 labels, four seeds: 86 % for the teacher, 94 % for its first
    student. There hard labels beat soft ones (93.4 against 90.5 %), because a teacher of 30
    smoothed labels is never sure of anything.
    """
    return Recipe(
        name="tiny",
        students=("efficientnet", "efficientnet", "efficientnet@width=1.5"),
        dropout=0.3,
        drop_path_rate=0.1,
        size=16,
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        teacher_steps=300,
        student_steps=400,
        checkpoint_every=100,
        learning_rate=5e-3,
        warmup_steps=30,
        ema_decay=0.99,
        pseudo_labels="hard",
        threshold=MIN_HARD_THRESHOLD,
        max_copies=3,
        translate_fraction=0.1,  # 1.6 px of 16; more pushes strokes out of the picture
        fill=(0, 0, 0),
        min_crop_area=1.0,  # a glyph cut in two is another glyph
        flip=False,  # so is its mirror image
        erasing_probability=0.5,
        variants=(),  # a graph of a millisecond has nothing to gain, and making them takes longer than training it
    )


def small(turn: Turn) -> Recipe:
    """32 to 128 px photos, hundreds to thousands of labels, minutes on a CPU."""
    return Recipe(
        name="small",
        students=("efficientnet@stages=4", "efficientnet@stages=4", "efficientnet@stages=4,width=1.5"),
        teacher_steps=800,
        student_steps=1000,  # 8 minutes on one core of 2026 at 64 px, 0.47 s a step
    )


#: What may be replaced.
FIELDS = set(Recipe.model_fields) - {"name", "asked"}

RECIPES: dict[str, Callable[[Turn], Recipe]] = {"tiny": tiny, "small": small}


def recipe(name: str, overrides: dict[str, Any], turn: Turn | None = None) -> Recipe:
    """The recipe of that name for a turn, with some fields replaced. Raises RecipeRefused."""
    if name not in RECIPES:
        raise RecipeRefused(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return replaced(RECIPES[name](turn or Turn()), overrides)


def again(document: dict[str, Any], overrides: dict[str, Any], turn: Turn | None = None) -> Recipe:
    """The recipe of an earlier card for the next turn, asked what that was asked, and ``overrides``.

    One of a name that is gone is taken as it stands; so are fields that are. Raises RecipeRefused.
    """
    asked = {key: value for key, value in document.get("asked", {}).items() if key in Recipe.model_fields}
    if "asked" in document and document.get("name") in RECIPES:
        return recipe(document["name"], asked | overrides, turn)
    fields = {name: value for name, value in document.items() if name in Recipe.model_fields}
    try:
        return replaced(Recipe.model_validate(fields), overrides)
    except ValidationError as error:
        raise RecipeRefused(f"the recipe of the generation before cannot be used again ({error}); name one") from error


def replaced(base: Recipe, overrides: dict[str, Any]) -> Recipe:
    """A recipe with some fields replaced. Raises RecipeRefused naming each bad field and its value."""
    if "name" in overrides:
        raise RecipeRefused("name is not a field to replace; ask for another recipe instead")
    unknown = sorted(set(overrides) - FIELDS)
    if unknown:
        fields = ", ".join(sorted(FIELDS))
        raise RecipeRefused(f"recipe {base.name!r} has no field {', '.join(unknown)}; its fields are {fields}")
    try:
        return Recipe.model_validate(base.model_dump() | overrides | {"asked": base.asked | overrides})
    except ValidationError as error:
        raise RecipeRefused(f"recipe {base.name!r}: {'; '.join(map(_fault, error.errors()))}") from error


def _fault(error: Any) -> str:
    if not error["loc"]:  # a rule between fields says all by itself
        return str(error["msg"]).removeprefix("Value error, ")
    return f"{'.'.join(map(str, error['loc']))}={error['input']!r}: {error['msg']}"
