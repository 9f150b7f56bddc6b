"""Thresholds: how sure a teacher must be of an image before a student is taught its label, class by class.

From what the answers on the calibration half of the holdout prove, or from shares of confident labels. What a
selection does and a preview promises is the same; ``quota`` says how many of what is over a threshold are taken.
"""

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from understudy import labels
from understudy.labels import Session
from understudy.recipes import MIN_HARD_THRESHOLD
from understudy.records import Record
from understudy.store import Store, generation_key

#: A precision counts as reached when its lower bound of this one-sided confidence is. With it, 15 right answers of
#: 15 prove a precision of 0.9, and two of two nothing.
CONFIDENCE = 0.9
#: Where the file of answers stands among a generation's.
ANSWERS = "answers.json"
#: The largest class of the labeled set over the smallest: from here on adaptive thresholds deserve a warning.
SKEWED = 3.0

_OVER_OWN = """(
    SELECT labels.* FROM labels JOIN thresholds USING (label) WHERE labels.confidence >= least_confidence
) AS labels"""

Confidences = npt.NDArray[np.float64]  # (N,)
Rights = npt.NDArray[np.bool_]  # (N,)


class Wanted(Protocol):
    """What a recipe, or who asks for a preview, says of thresholds."""

    @property
    def threshold(self) -> float: ...
    @property
    def thresholds(self) -> str: ...
    @property
    def min_precision(self) -> float: ...
    @property
    def pseudo_labels(self) -> str: ...


class Answers(Record):
    """What a model said of the images of the holdout's calibration half, one entry an image."""

    predicted: tuple[int, ...] = ()  #: the most probable class, an index into the model's classes
    confidence: tuple[float, ...] = ()  #: its probability, as the exported artifact gives it
    is_right: tuple[bool, ...] = ()


def answers_of(store: Store, generation: int) -> Answers:
    """The answers of the model that a generation made; no entries if it was made before answers were kept."""
    try:
        return Answers.model_validate_json(store.get(generation_key(generation, ANSWERS)))
    except FileNotFoundError:
        return Answers()


def of_classes(
    wanted: Wanted, num_classes: int, answers: Answers, num_confident: Callable[[], Mapping[int, int]]
) -> dict[int, float]:
    """The least confidence of each class; classes of which no label may be trusted are left out.

    ``num_confident`` is asked only where it is needed: labels of each class that are over ``wanted.threshold``.
    """
    if wanted.thresholds == "precision":
        found = by_precision(answers, num_classes, wanted.min_precision, wanted.threshold)
        return {label: least for label, least in found.items() if least is not None}
    if wanted.thresholds == "adaptive":
        floor = MIN_HARD_THRESHOLD if wanted.pseudo_labels == "hard" else 0.0
        return adaptive(num_confident(), num_classes, wanted.threshold, floor)
    return dict.fromkeys(range(num_classes), wanted.threshold)


def source(session: Session, least: Mapping[int, float], num_classes: int) -> tuple[str, float]:
    """Where SQL finds, under the name ``labels``, those that are confident enough; and the least of the thresholds.

    A query asks for ``confidence >=`` that one besides, which is pushed down into the files.
    """
    lowest = min(least.values(), default=1.0)
    if len(least) == num_classes and set(least.values()) == {lowest}:
        return "labels", lowest
    columns: dict[str, list[Any]] = {"label": list(least), "least_confidence": list(least.values())}
    session.give("thresholds", labels.table(columns, label="int32", least_confidence="float64"))
    return _OVER_OWN, lowest


def least_answers(min_precision: float) -> int:
    """Right answers, with no wrong one among them, that it takes to prove a precision."""
    return math.ceil(min_precision / (1 - min_precision) * _Z**2)


def by_precision(answers: Answers, num_classes: int, min_precision: float, floor: float) -> dict[int, float | None]:
    """The least confidence of each class at which its labels are proved to be so precise; never less than ``floor``.

    A class with too few answers to prove anything has the threshold that all classes together prove. None: no label
    of the class may be trusted, because its answers prove the contrary, or because nothing proves anything.
    """
    predicted = np.array(answers.predicted, dtype=np.int64)  # (N,)
    confidence = np.array(answers.confidence, dtype=np.float64)  # (N,)
    is_right = np.array(answers.is_right, dtype=np.bool_)  # (N,)
    pooled = least_confidence(confidence, is_right, min_precision, floor)
    found: dict[int, float | None] = {}
    for label in range(num_classes):
        mine = predicted == label
        own = least_confidence(confidence[mine], is_right[mine], min_precision, floor)
        if own is None and pooled is not None:
            above = mine & (confidence >= pooled)
            own = None if _is_disproved(int(is_right[above].sum()), int(above.sum()), min_precision) else pooled
        found[label] = own
    return found


def least_confidence(confidence: Confidences, is_right: Rights, min_precision: float, floor: float) -> float | None:
    """The least confidence from which on the answers are proved to be right so often. None: there is no such.

    Both arrays are (N,). Of answers that are equally sure, all count or none.
    """
    order = np.argsort(-confidence, kind="stable")
    order = order[confidence[order] >= floor]
    if not len(order):
        return None
    sure, num = confidence[order], np.arange(1, len(order) + 1)
    is_last = np.append(sure[1:] < sure[:-1], True)  # of those that are equally sure
    proved = np.flatnonzero(is_last & (_wilson(np.cumsum(is_right[order]), num, -_Z) >= min_precision))
    if not len(proved):
        return None
    return floor if proved[-1] == len(order) - 1 else float(sure[proved[-1]])


def adaptive(num_confident: Mapping[int, int], num_classes: int, threshold: float, floor: float) -> dict[int, float]:
    """FlexMatch's thresholds: τ·β/(2−β), β being a class's confident labels over those of the class that has most.

    ``num_confident`` counts labels of at least ``threshold``, which is τ. The less a class has, the lower is its
    threshold, down to ``floor`` (Zhang et al. 2021, with the convex mapping; without the warm-up of a model that is
    still learning).
    """
    most = max(num_confident.values(), default=0)
    shares = {label: num_confident.get(label, 0) / most if most else 1.0 for label in range(num_classes)}
    return {label: max(min(floor, threshold), threshold * share / (2 - share)) for label, share in shares.items()}


def skew_in_words(labeled_counts: Mapping[str, int]) -> str | None:
    """The warning that adaptive thresholds deserve on this labeled set. None: its classes are about as large."""
    counts = {name: num for name, num in labeled_counts.items() if num}
    if not counts or max(counts.values()) < SKEWED * min(counts.values()):
        return None
    largest, smallest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    return (
        f"adaptive thresholds pull towards classes of equal size, but {largest!r} has {counts[largest]} labeled images "
        f"and {smallest!r} {counts[smallest]}; if that is how the classes really are, set thresholds to fixed or precision"
    )


#: Standard deviations of a one-sided bound.
_Z = NormalDist().inv_cdf(CONFIDENCE)


def _wilson(num_right: npt.NDArray[np.int64], num: npt.NDArray[np.int64], z: float) -> npt.NDArray[np.float64]:
    """One bound of the Wilson score interval of a proportion: the lower for a negative ``z``."""
    share = num_right / num
    middle, spread = share + z**2 / (2 * num), z * np.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    bound: npt.NDArray[np.float64] = (middle + spread) / (1 + z**2 / num)
    return bound


def _is_disproved(num_right: int, num: int, min_precision: float) -> bool:
    return num > 0 and bool(_wilson(np.array([num_right]), np.array([num]), _Z)[0] < min_precision)
