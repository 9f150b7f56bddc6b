"""Recipes: the frozen configuration of one training run, by name, with fields that may be replaced.

The numbers are those of Noisy Student Training (Xie et al. 2020, arXiv 1911.04252 v4) where a small
data set and a CPU allow them; where they do not, the reason stands beside the number. A recipe is a
function of the ``Turn`` that it is for: which generation, which student, how many labeled images. It
knows nothing else of the data, and the seed is the request's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from understudy import architectures
from understudy.architectures import SIZES, ScaledEfficientNet
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
Start = Literal["scratch", "pretrained", "teacher"]


@dataclass(frozen=True)
class Teacher:
    """What a recipe may go on from."""

    student: str  #: its architecture
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Turn:
    """What a recipe is made for."""

    generation: int = 0
    student: str | None = None  #: asked for by name; None: the recipe's own choice
    num_labeled: int = 5000  #: images of the labeled set; the paper counts in passes over them
    labeled_batch: int | None = None  #: asked for; None: the recipe's own. Passes become steps by it
    unlabeled_ratio: int | None = None  #: asked for; None: the recipe's own. The paper's weight of the loss follows it
    teacher: Teacher | None = None  #: None: a first teacher is trained

    def steps(self, epochs: float, labeled_batch: int) -> int:
        """Steps in that many passes over the labeled set; never none."""
        return max(1, round(epochs * self.num_labeled / labeled_batch))


class Recipe(Record):
    """One training run but for its data and its seed. The sentence under a field is what ``understudy recipes`` shows."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """The recipe that this one was made from."""
    asked: dict[str, Any] = {}
    """The fields that were replaced: the next generation is asked the same."""

    # -- the student
    students: tuple[str, ...] = Field(min_length=1)
    """Architectures by generation; the last one repeats."""
    allow_smaller: bool = False
    """Take a student smaller than its teacher; the paper's is equal or larger (section 2)."""
    start: Start = "scratch"
    """Fresh weights, or the uploaded ones if some are named (scratch); never fresh (pretrained); grown from the \
teacher's (teacher)."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of features that is dropped before the classifier."""
    drop_path_rate: float = Field(0.2, ge=0, lt=1)
    """Rate at which the last block is dropped, linear from 0 at the first (stochastic depth)."""
    batch_norm_momentum: float = Field(0.1, gt=0, le=1)
    """Of every BatchNorm, in torch's meaning; 0.01 in the official code, whose runs are long."""
    frozen_blocks: int | None = Field(None, ge=0)
    """FixRes: the stem and that many blocks stay as they are, all if there are fewer; null: everything learns."""

    # -- what an image becomes
    size: int = Field(64, ge=8, le=1024)
    """Side of the square input, in pixels."""
    crop_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the shorter side that the centre crop keeps when serving."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """How pictures are resized."""
    mean: Channels = (0.485, 0.456, 0.406)
    """Of each channel on a scale of 0 to 1, subtracted."""
    std: Channels = (0.229, 0.224, 0.225)
    """Standard deviation of each channel, divided by."""

    # -- how long, and in which proportions
    teacher_steps: int = Field(ge=1)
    """Steps on labeled data alone."""
    student_steps: int = Field(ge=1)
    """Steps on labeled and pseudo-labeled data together."""
    labeled_batch: int = Field(32, ge=2)
    """Labeled images in a step; BatchNorm needs two."""
    unlabeled_ratio: int = Field(3, ge=1)
    """Pseudo-labeled images in a step for each labeled one (3 for B1 to B7, section 3.2)."""
    accumulate: int = Field(1, ge=1)
    """Parts that a step's batch is run in, one after the other, to save memory."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between two checkpoints."""
    evaluate_every: int = Field(200, ge=1)
    """Steps between two looks at the average's accuracy; nothing is chosen by it."""

    # -- optimisation
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    """AdamW, or RMSProp as in the official code: decay and momentum 0.9."""
    schedule: Literal["cosine", "staircase"] = "cosine"
    """Learning rate: a cosine to zero, or times decay_rate every decay_steps."""
    learning_rate: float = Field(3e-3, gt=0)
    """The highest, after the warm-up."""
    decay_rate: float = Field(0.97, gt=0, le=1)
    """Factor of one step of the staircase."""
    decay_steps: int = Field(1000, ge=1)
    """Steps on one stair, counted from step 0, not from the end of the warm-up (official code)."""
    weight_decay: float = Field(0.05, ge=0)
    """On everything but biases and BatchNorm."""
    warmup_steps: int = Field(50, ge=0)
    """Steps in which the learning rate rises from zero."""
    max_gradient_norm: float = Field(10.0, gt=0)
    """A longer gradient is shortened to this."""
    ema_decay: float = Field(0.995, ge=0, lt=1)
    """Of the moving average that is exported; 0.9999 in the paper, whose runs are a hundred times longer."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Of labeled and hard targets, never of soft ones."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the forward pass; auto is bf16 on a GPU and fp32 on a CPU."""
    compiled: bool = False
    """Use torch.compile; pays on a GPU in runs of more than some minutes."""

    # -- pseudo-labels (section 3.1, "data filtering and balancing")
    pseudo_labels: Literal["soft", "hard", "none"] = "soft"
    """The teacher's distribution, its first choice, or none: on labeled images alone."""
    threshold: float = Field(0.3, ge=0, lt=1)
    """Least confidence of the teacher."""
    thresholds: Literal["fixed", "precision", "adaptive"] = "fixed"
    """One threshold for all; a class's own from it up (precision); or from it down (adaptive)."""
    min_precision: float = Field(0.9, gt=0, lt=1)
    """Of each class's pseudo-labels, where thresholds is precision."""
    relabel: Literal["afresh", "same"] = "afresh"
    """Select anew, or label the last generation's choice anew (official)."""
    per_class: int | None = Field(None, ge=1)
    """Images of each class; null: in proportion to the labeled set."""
    max_copies: int = Field(4, ge=1)
    """Of one image of a scarce class; the paper has no limit."""
    balance: Literal["exact", "histogram", "none"] = "exact"
    """Classes: the best of each, the official code's 101 bins, or as they come."""
    pseudo_weight: float = Field(1.0, gt=0)
    """Of the pseudo-labeled images' mean loss beside the labeled one's."""

    # -- tripwires: a selection beyond them ends the generation with the reason
    min_kept_share: Probability = 0.01
    """Tripwire: share of all pseudo-labels that must be over the threshold."""
    max_class_shift: Probability = 0.98
    """Tripwire: how far the candidates may be from the labeled set's classes, 1 being all of one class."""
    min_agreement: Probability = 0.3
    """Tripwire: of this teacher's labels with those of the one before, on the same images."""

    # -- input noise
    augment_ops: int = Field(2, ge=0)
    """RandAugment's n: operations on an image."""
    augment_scale: Literal["increasing", "official"] = "increasing"
    """Of the magnitude: timm's, which ends at 10, or the paper's, which extrapolates."""
    augment_magnitude: float = Field(5.0, ge=0)
    """RandAugment's m, on that scale."""
    translate_fraction: float = Field(0.2, ge=0, le=0.5)
    """Of the side, at 10 on the increasing scale."""
    fill: tuple[Level, Level, Level] = (128, 128, 128)
    """What rotations and shifts uncover."""
    min_crop_area: float = Field(0.35, gt=0, le=1)
    """Least area of a random crop; 1: the same frame as when serving."""
    flip: bool = True
    """Mirror half of the images."""
    erasing_probability: Probability = 0.25
    """How often a square is erased."""
    erasing_fraction: float = Field(0.3, ge=0, lt=1)
    """Side of the erased square, of the input's side."""

    # -- after training
    calibrate: bool = True
    """Fit a temperature on the holdout's calibration half, into the graph."""
    control: bool = False
    """Train the same student on labels alone beside it: what pseudo-labels gain, as a number."""
    robustness_images: int = Field(0, ge=0)
    """Images of the holdout that are corrupted in 75 ways; 0: not measured."""
    variants: tuple[Literal["fp16", "int8"], ...] = ("fp16", "int8")
    """Number formats that the export makes beside fp32."""
    variant_tolerance: Probability = 0.005
    """Accuracy on the holdout that a variant may lose and still be served."""

    # -- what a student may cost and still pass the gate; None: whatever it does
    max_latency_ratio: float | None = Field(None, gt=0)
    """Gate: its milliseconds for one image ÷ the champion's; null: any."""
    max_calibration_loss: float | None = Field(0.05, ge=0)
    """Gate: its calibration error less the champion's; null: any."""
    max_robustness_loss: float | None = Field(0.02, ge=0)
    """Gate: its mean error under corruption less the champion's; null: any."""

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
                self.frozen_blocks is not None and self.start == "scratch",
                f"frozen_blocks={self.frozen_blocks} would keep fresh weights as they are; set start to teacher or "
                f"pretrained, or frozen_blocks to null",
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


#: The paper's chain (table 7): the second L2 learns from the first, the third with twice the pseudo-labels.
PAPER_STUDENTS = ("efficientnet@b7", "efficientnet@l2", "efficientnet@l2", "efficientnet@l2")
LAST_ITERATION = 3
PAPER_BATCH = 2048  # section 3.1; 512 and 1024 did as well


def paper(turn: Turn) -> Recipe:
    """ImageNet scale, on many GPUs: Noisy Student as published (B7, then L2 three times), any EfficientNet by name.

    Numbers without a source beside them are those of the official code (noisystudent main.py, utils.py).
    """
    student = turn.student or PAPER_STUDENTS[min(turn.generation, LAST_ITERATION)]
    net = architectures.scaled(student)
    if net is None:
        raise RecipeRefused(
            f"recipe 'paper' trains EfficientNets, and student {student!r} is none: choose efficientnet@b0 to @b8, @l0 "
            f"to @l2 or @phi=…, or the recipe small or finetune"
        )
    batch = turn.labeled_batch or PAPER_BATCH
    size = 32 if net.small else net.size  # the official code's SVHN
    is_last = turn.generation >= LAST_ITERATION and net.width == SIZES["l2"].width
    ratio = turn.unlabeled_ratio or net.unlabeled_ratio * (2 if is_last else 1)
    steps, epoch = turn.steps(net.epochs, batch), turn.steps(1, batch)
    return Recipe(
        name="paper",
        students=PAPER_STUDENTS,
        dropout=net.dropout,
        batch_norm_momentum=0.01,
        size=size,
        crop_fraction=1.0 if net.small else size / (size + 32),
        teacher_steps=steps,
        student_steps=steps,
        labeled_batch=batch,
        unlabeled_ratio=ratio,
        checkpoint_every=epoch,
        evaluate_every=epoch,
        optimizer="rmsprop",
        schedule="staircase",
        learning_rate=0.016 * batch / 256,
        decay_steps=turn.steps(2.4 if net.epochs == 350 else 4.8, batch),  # section 3.1
        weight_decay=1e-5,
        warmup_steps=min(turn.steps(5, batch), steps - 1),
        max_gradient_norm=1e6,  # the official code shortens none
        ema_decay=0.9999,
        relabel="same",  # selected once, labeled anew by each teacher
        max_copies=100,  # the official code would write one image 130,000 times
        pseudo_weight=ratio,  # unlabel_ratio times the mean; Algorithm 1 has the two means alike
        augment_ops=2 if net.magnitude else 0,
        augment_scale="official",
        augment_magnitude=net.magnitude,
        translate_fraction=4 / 32 if net.small else min(0.5, 100 / size),  # pixels, not a share, in the official code
        min_crop_area=0.08,
        erasing_probability=0.0,  # cutout is one of RandAugment's operations there
    )


#: Passes over the labeled set, and the fewest and the most steps that they may be.
FINETUNE_EPOCHS, MIN_FINETUNE_STEPS, MAX_FINETUNE_STEPS = 20, 200, 10_000


def finetune(turn: Turn) -> Recipe:
    """Pretrained weights of a model of timm, hundreds of labels and more: short, at a low learning rate."""
    net = architectures.scaled(turn.student or "efficientnet_b0")
    size = net.size if net else architectures.BASE_SIZE
    batch = turn.labeled_batch or 32
    steps = min(max(turn.steps(FINETUNE_EPOCHS, batch), MIN_FINETUNE_STEPS), MAX_FINETUNE_STEPS)
    return Recipe(
        name="finetune",
        students=("efficientnet_b0",),
        start="pretrained",  # the student has the teacher's start, not the teacher's weights
        dropout=_dropout(net),
        size=size,
        crop_fraction=size / (size + 32),
        teacher_steps=steps,
        student_steps=steps,
        labeled_batch=batch,
        learning_rate=3e-4,  # a tenth of small's: what was learned before shall stay
        warmup_steps=steps // 10,
    )


#: The paper's length (section 3.1), and the fewest steps, for small sets.
FIXRES_EPOCHS, MIN_FIXRES_STEPS = 1.5, 100
#: Of an EfficientNet that is not of the paper's family; of those it is a third. The paper froze "shallow layers" and
#: does not say how many. On digits at 16 px two of five at a rate of 0.003 were right on 80 % of the holdout, all
#: five on 63 %.
SHALLOW_BLOCKS = 2


def fixres(turn: Turn) -> Recipe:
    """A last stage, after any recipe: the champion at a higher resolution, on unaugmented labeled images.

    Touvron et al. 2019 (arXiv 1906.06423), as in section 3.1: training crops make things look larger than they are
    when serving, and a higher resolution with a fitted head makes up for it.
    """
    if turn.teacher is None:
        raise RecipeRefused("recipe 'fixres' goes on from a champion, and there is none yet; train one first")
    before, student = turn.teacher.preprocessing, turn.student or turn.teacher.student
    net = architectures.scaled(student)
    batch = turn.labeled_batch or 32
    steps = max(turn.steps(FIXRES_EPOCHS, batch), MIN_FIXRES_STEPS)
    return Recipe(
        name="fixres",
        students=(student,),
        start="teacher",
        frozen_blocks=net.num_shallow_blocks if net else SHALLOW_BLOCKS,
        dropout=_dropout(net),
        drop_path_rate=0.0,
        size=net.fixres_size if net and net.size == before.size else architectures.enlarged(before.size),
        crop_fraction=before.crop_fraction,
        interpolation=before.interpolation,
        mean=before.mean,
        std=before.std,
        teacher_steps=steps,
        student_steps=steps,
        labeled_batch=batch,
        learning_rate=1e-3,
        warmup_steps=5,
        ema_decay=0.9,
        pseudo_labels="none",
        augment_ops=0,
        min_crop_area=1.0,
        flip=False,
        erasing_probability=0.0,
    )


def _dropout(net: ScaledEfficientNet | None) -> float:
    return net.dropout if net else 0.2


#: What may be replaced.
FIELDS = set(Recipe.model_fields) - {"name", "asked"}

RECIPES: dict[str, Callable[[Turn], Recipe]] = {
    "tiny": tiny,
    "small": small,
    "finetune": finetune,
    "paper": paper,
    "fixres": fixres,
}
#: After these a generation names its recipe anew: twice in a row they would do something else than once.
LAST_STAGES = {"fixres"}


def recipe(name: str, overrides: dict[str, Any], turn: Turn | None = None) -> Recipe:
    """The recipe of that name for a turn, with some fields replaced. Raises RecipeRefused."""
    if name not in RECIPES:
        raise RecipeRefused(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return replaced(RECIPES[name](_informed(turn or Turn(), overrides)), overrides)


def _informed(turn: Turn, overrides: dict[str, Any]) -> Turn:
    """The turn with what its request replaces and other fields follow from."""
    batch, students = overrides.get("labeled_batch"), overrides.get("students")
    ratio = overrides.get("unlabeled_ratio")
    if isinstance(ratio, int) and ratio >= 1:
        turn = replace(turn, unlabeled_ratio=ratio)
    if isinstance(batch, int) and batch >= 2:
        turn = replace(turn, labeled_batch=batch)
    if turn.student is None and isinstance(students, list | tuple) and students:
        chosen = students[min(turn.generation, len(students) - 1)]
        turn = replace(turn, student=chosen if isinstance(chosen, str) else None)
    return turn


def again(document: dict[str, Any], overrides: dict[str, Any], turn: Turn | None = None) -> Recipe:
    """The recipe of an earlier card for the next turn, asked what that was asked, and ``overrides``.

    One of a name that is gone is taken as it stands; so are fields that are. Raises RecipeRefused.
    """
    if document.get("name") in LAST_STAGES:
        raise RecipeRefused(
            f"the generation before had recipe {document['name']!r}, a last stage; name the recipe to go on with"
        )
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
