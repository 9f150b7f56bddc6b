"""Calibration: one temperature for a student's logits, fitted on one half of the holdout (Guo et al. 2017).

A temperature changes how sure a model is and never which class it names, so accuracy may still be compared on the
whole holdout; what is said of its confidence is measured on the other half. Arithmetic: ``evaluate`` reads the images.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from understudy.records import Record
from understudy.thresholds import Answers

#: On fewer images the few that are wrong decide. Simulated with five classes and 80 % right, the logarithm of what is
#: fitted has a standard deviation of 0.15 with 50 images, 0.06 with 500.
MIN_IMAGES = 50
#: Beyond these a model is broken rather than badly calibrated.
LEAST, MOST = 0.1, 10.0
#: The fit counts so much of an image more, of which no class is known. Without it a student that is right on every
#: image of the half would be made as sure as ``LEAST`` allows, and pay for it with its first mistake. A whole image
#: would make students of 50 images too unsure (the logarithm by 0.14 in the same simulation).
PRIOR_IMAGES = 0.25

Logits = npt.NDArray[np.float32]  # (N, C)
Indexes = npt.NDArray[np.int64]  # (N,)
Rights = npt.NDArray[np.bool_]  # (N,)
#: The expected calibration error, of the confidences (N,) float32 and whether each was right (N,).
ErrorOf = Callable[[npt.NDArray[np.float32], Rights], float]


class Calibration(Record):
    """A student's temperature, and what it does to the images that it was fitted on."""

    temperature: float = 1.0
    reason: str | None = None  #: why it is 1; None: it was fitted
    num_images: int = 0  #: of the calibration half
    num_unknown: int = 0  #: of these of classes that the student does not have: they are in no figure here
    negative_log_likelihood: tuple[float, float] | None = None  #: at a temperature of 1, and at this one
    calibration_error: tuple[float, float] | None = None  #: the same


def is_calibration(sha256: str) -> bool:
    """Whether an image of the holdout is of the half that temperatures are fitted on: its last bit says so, for ever."""
    return int(sha256[-1], 16) % 2 == 0


def calibrated(logits: Logits, truth: Indexes, *, is_wanted: bool, error_of: ErrorOf) -> Calibration:
    """Fit a temperature to the answers of a half, or say why it stays 1.

    ``logits`` is (N, C) float32; ``truth`` is (N,), C or more for a class that the student does not have.
    """
    is_known = truth < logits.shape[1]
    known, right = logits[is_known], truth[is_known]
    reason = None
    if not is_wanted:
        reason = "the recipe has calibrate off"
    elif len(right) < MIN_IMAGES:
        reason = (
            f"the calibration half of the holdout has {len(right)} images of the student's classes, and "
            f"{MIN_IMAGES} are needed; send more labeled images"
        )
    found = Calibration(
        temperature=1.0 if reason else fitted(known, right),
        reason=reason,
        num_images=len(truth),
        num_unknown=int((~is_known).sum()),
    )
    if not len(right):
        return found
    at = (1.0, found.temperature)
    told = [softmax(known, temperature) for temperature in at]
    named_rightly = known.argmax(axis=1) == right
    return found.model_copy(
        update={
            "negative_log_likelihood": tuple(likelihood(known, right, temperature) for temperature in at),
            "calibration_error": tuple(error_of(one.max(axis=1), named_rightly) for one in told),
        }
    )


def answers(logits: Logits, truth: Indexes, temperature: float) -> Answers:
    """What the student says of each image of the half once its temperature is in the graph."""
    if not len(logits):
        return Answers()
    predicted = logits.argmax(axis=1)
    return Answers(
        predicted=tuple(int(label) for label in predicted),
        confidence=tuple(float(p) for p in softmax(logits, temperature).max(axis=1)),
        is_right=tuple(bool(right) for right in predicted == truth),
    )


def fitted(logits: Logits, truth: Indexes) -> float:
    """The temperature at which the true classes are most likely, between ``LEAST`` and ``MOST``."""
    cost = partial(_cost, logits.astype(np.float64), truth)
    found = minimize_scalar(cost, bounds=(math.log(LEAST), math.log(MOST)), method="bounded", options={"xatol": 1e-6})
    return float(math.exp(found.x))


def _cost(logits: npt.NDArray[np.float64], truth: Indexes, log_temperature: float) -> float:
    scaled = logits / math.exp(log_temperature)
    normalisers = _log_sum_exp(scaled)
    of_truth = normalisers - scaled[np.arange(len(truth)), truth]
    of_nothing = normalisers - scaled.mean(axis=1)  # the cross-entropy to a target that is every class alike
    return float(of_truth.sum() + PRIOR_IMAGES * of_nothing.mean())


def likelihood(logits: Logits, truth: Indexes, temperature: float) -> float:
    """The mean of -log p(true class) at a temperature."""
    scaled = logits.astype(np.float64) / temperature
    return float((_log_sum_exp(scaled) - scaled[np.arange(len(truth)), truth]).mean())


def softmax(logits: Logits, temperature: float) -> npt.NDArray[np.float32]:
    """Probabilities at a temperature: (N, C) → (N, C) float32."""
    scaled = logits.astype(np.float64) / temperature
    probabilities: npt.NDArray[np.float32] = np.exp(scaled - _log_sum_exp(scaled)[:, None]).astype(np.float32)
    return probabilities


def _log_sum_exp(scaled: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    most = scaled.max(axis=1)
    total: npt.NDArray[np.float64] = most + np.log(np.exp(scaled - most[:, None]).sum(axis=1))
    return total
