"""A temperature that is known is found again; where none can be found there is a reason."""

import math

import numpy as np
import pytest
import torch

from trainer import calibration, evaluate, export, model
from understudy import recipes

NUM_CLASSES = 5


def drawn(num, temperature, seed=0, spread=4.0):
    """Logits, and classes as likely as the logits at that temperature say."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, (num, NUM_CLASSES)).astype(np.float32)
    chances = calibration.softmax(logits, temperature).astype(np.float64).cumsum(axis=1)
    truth = (random.random((num, 1)) > chances / chances[:, -1:]).sum(axis=1)
    return logits, truth.astype(np.int64)


def calibrated(logits, truth, *, is_wanted=True):
    return calibration.calibrated(logits, truth, is_wanted=is_wanted, error_of=evaluate.calibration_error)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found_again(temperature):
    """Of a student that is too sure, and of one that is not sure enough; both figures get better."""
    told = calibrated(*drawn(20_000, temperature))

    assert told.temperature == pytest.approx(temperature, rel=0.03)
    assert told.reason is None
    before, after = told.negative_log_likelihood
    assert after <= before + 1e-6
    if temperature != 1.0:
        assert told.calibration_error[1] < 0.015 < told.calibration_error[0]


def test_the_figures_by_hand():
    """Two classes, logits 0 and log 3: a confidence of 0.75, and of 0.9 at half the temperature."""
    logits = np.array([[0, math.log(3)]] * 4, dtype=np.float32)
    truth = np.array([1, 1, 1, 0])

    assert calibration.softmax(logits, 0.5)[0] == pytest.approx([0.1, 0.9])
    assert calibration.likelihood(logits, truth, 0.5) == pytest.approx(-(3 * math.log(0.9) + math.log(0.1)) / 4)
    assert calibration.fitted(np.repeat(logits, 500, axis=0), np.tile(truth, 500)) == pytest.approx(1, abs=0.01)


def test_a_student_that_is_always_right_is_not_made_infinitely_sure():
    """A part of an image, of no class, keeps it from the least temperature that is allowed."""
    logits, truth = drawn(200, 1.0)
    truth = logits.argmax(axis=1)

    assert calibration.LEAST * 1.5 < calibrated(logits, truth).temperature < 1


def test_a_broken_student_stays_within_limits():
    """The most probable class is never right: nothing is certain, and the temperature ends at its limit."""
    logits, _ = drawn(200, 1.0)

    assert calibrated(logits, logits.argmin(axis=1)).temperature == pytest.approx(calibration.MOST, rel=1e-3)


def test_without_enough_images_it_is_one_and_says_why():
    """Images of classes that the student does not have do not count."""
    logits, truth = drawn(calibration.MIN_IMAGES, 2.0)
    truth[0] = NUM_CLASSES

    told = calibrated(logits, truth)

    assert (told.temperature, told.num_images, told.num_unknown) == (1.0, calibration.MIN_IMAGES, 1)
    assert "49 images of the student's classes, and 50 are needed" in told.reason
    assert told.negative_log_likelihood[0] == told.negative_log_likelihood[1]
    empty = calibrated(logits[:0], truth[:0])
    assert (empty.temperature, empty.calibration_error) == (1.0, None)
    assert calibration.answers(logits[:0], truth[:0], 1.0).is_right == ()


def test_a_recipe_may_leave_it_out():
    """The figures are told all the same."""
    told = calibrated(*drawn(200, 2.0), is_wanted=False)

    assert (told.temperature, told.reason) == (1.0, "the recipe has calibrate off")
    assert told.calibration_error is not None


def test_answers_are_what_the_graph_will_say():
    """The most probable class, how probable it is at the temperature, and whether it was right."""
    logits = np.array([[0, math.log(3)], [math.log(3), 0]], dtype=np.float32)

    told = calibration.answers(logits, np.array([1, 2]), 0.5)

    assert (told.predicted, told.is_right) == ((1, 0), (True, False))
    assert told.confidence == pytest.approx((0.9, 0.9))


def test_half_of_all_images_calibrates():
    """By the last bit of the sha-256, so that an image never changes sides."""
    assert [calibration.is_calibration("0" * 63 + digit) for digit in "0123456789abcdef"] == [True, False] * 8


def test_the_graph_has_the_temperature_of_the_logits():
    """Probabilities at a temperature are the softmax of what ``logits`` gives, over it; without any noise."""
    torch.manual_seed(0)
    preprocessing = recipes.recipe("tiny", {}).preprocessing
    student = model.build("efficientnet", NUM_CLASSES, dropout=0.5, drop_path_rate=0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    served = export.served(student, preprocessing, 0.3)

    logits = export.logits(served, pixels, torch.device("cpu"))

    assert export.predict(served, pixels) == pytest.approx(calibration.softmax(logits, 0.3), abs=1e-6)
