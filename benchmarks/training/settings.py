"""How each set is trained. Chosen on parts of the labeled sets (see README.md), never on a test."""

from dataclasses import dataclass
from typing import Any

#: In every run: a test stands in as the holdout, so nothing is fitted to it, and nobody looks at it while training.
ALWAYS: dict[str, Any] = {"calibrate": False, "evaluate_every": 1_000_000, "variants": []}
#: Without noise: neither of the input nor of the model (paper, section 4.1 and Table 6).
NO_NOISE: dict[str, Any] = {
    "augment_ops": 0,
    "min_crop_area": 1.0,
    "flip": False,
    "erasing_probability": 0.0,
    "dropout": 0.0,
    "drop_path_rate": 0.0,
}


@dataclass(frozen=True)
class Setting:
    """One set's recipe, what is replaced in it, and what its students alone have besides."""

    recipe: str
    overrides: dict[str, Any]
    students: tuple[str, ...]  #: by generation: the teacher's, the first student's, the second's
    of_students: dict[str, Any]
    seeds: tuple[int, ...]

    def fields(self, generation: int) -> dict[str, Any]:
        """What is replaced in the recipe for a generation."""
        return ALWAYS | self.overrides | (self.of_students if generation else {})


@dataclass(frozen=True)
class Ablation:
    """A first student with something taken away."""

    name: str
    overrides: dict[str, Any]


def ablations(setting: Setting) -> list[Ablation]:
    """What the students of a set are tried without; labels are the other kind of what the set uses."""
    labels = {"pseudo_labels": "hard", "threshold": HARD_THRESHOLD}
    if setting.of_students.get("pseudo_labels", "hard" if setting.recipe == "tiny" else "soft") == "hard":
        labels = {"pseudo_labels": "soft", "threshold": SOFT_THRESHOLD}
    return [
        Ablation("no noise", NO_NOISE),
        Ablation(f"{labels['pseudo_labels']} labels", labels),
        Ablation("no balance", {"balance": "none"}),
    ]


#: The paper's; and one at which a teacher of few labels is right most of the time.
SOFT_THRESHOLD, HARD_THRESHOLD = 0.3, 0.85

_GREY: dict[str, Any] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bilinear",
    "fill": [0, 0, 0],
}

SETTINGS: dict[str, Setting] = {
    "digits": Setting(
        recipe="tiny",
        overrides={},
        students=("efficientnet", "efficientnet", "efficientnet@width=1.5"),
        of_students={},
        seeds=(0, 1, 2, 3, 4, 5),
    ),
    "fashion-mnist": Setting(
        recipe="small",
        overrides=_GREY
        | {
            "size": 28,
            "min_crop_area": 1.0,
            "translate_fraction": 0.15,
            "erasing_probability": 0.5,
            "learning_rate": 5e-3,
            "ema_decay": 0.99,
            "dropout": 0.3,
            "drop_path_rate": 0.1,
            "teacher_steps": 1000,
            "student_steps": 700,
            "unlabeled_ratio": 4,
        },
        students=("efficientnet@width=1.5", "efficientnet@width=1.5", "efficientnet@width=1.5"),
        of_students={},
        seeds=(0, 1, 2),
    ),
    "clothing-photos": Setting(
        recipe="small",
        overrides={
            "size": 40,
            "interpolation": "bilinear",
            "augment_ops": 1,
            "min_crop_area": 0.5,
            "learning_rate": 5e-3,
            "ema_decay": 0.99,
            "drop_path_rate": 0.1,
            "teacher_steps": 1200,
            "student_steps": 1000,
            "unlabeled_ratio": 4,
        },
        students=("efficientnet@stages=4", "efficientnet@stages=4", "efficientnet@stages=4"),
        of_students={"labeled_batch": 16},  # more steps of fewer images: the same time, and a better student
        seeds=(0, 1, 2),
    ),
}

#: To see that it works.
QUICK: dict[str, Any] = {
    "teacher_steps": 20,
    "student_steps": 20,
    "warmup_steps": 5,
    "checkpoint_every": 20,
    "labeled_batch": 8,
    "unlabeled_ratio": 1,
    "ema_decay": 0.9,
    "threshold": 0.0,
    "pseudo_labels": "soft",
    "min_kept_share": 0.0,  # two teachers of twenty steps agree on nothing
    "max_class_shift": 1.0,
    "min_agreement": 0.0,
}
