"""Pictures of figures: readable PNG files, whatever is missing of the figures."""

import io

import numpy as np
import pytest
from PIL import Image

from trainer import plots
from understudy.records import History, Metrics, Validation

LINES = tuple(
    Metrics(
        step=step,
        loss=3.0 / step,
        labeled_loss=2.0 / step,
        pseudo_loss=1.0 / step,
        learning_rate=0.01 * step,
        gradient_norm=1.5,
        images_per_second=100.0,
    )
    for step in range(1, 50)
)
VALIDATIONS = (
    Validation(step=20, accuracy=0.5, num_images=10, seconds=0.1),
    Validation(step=40, accuracy=0.7, num_images=10, seconds=0.1),
)


def drawn(history):
    picture = Image.open(io.BytesIO(plots.curves(history, "generation 3")))
    assert picture.format == "PNG"
    return np.asarray(picture.convert("RGB"), dtype=np.int64)  # (H, W, 3)


def num_coloured(pixels):
    """Pixels that are no grey: lines of curves."""
    return int(((pixels.max(axis=2) - pixels.min(axis=2)) > 40).sum())


def test_the_curves_are_in_the_picture():
    """Four panels' worth of colour, of a size for a screen."""
    pixels = drawn(History(num_steps=50, lines=LINES, validations=VALIDATIONS))

    assert pixels.shape == (650, 1000, 3)
    upper, lower = pixels[:325], pixels[325:]
    assert all(num_coloured(half[:, side]) > 300 for half in (upper, lower) for side in (slice(500), slice(500, None)))


@pytest.mark.parametrize("lines", [(), tuple(line.model_copy(update={"pseudo_loss": None}) for line in LINES[:1])])
def test_figures_that_are_not_there_are_not_drawn(lines):
    """A run that was stopped at once, and a first teacher without a validation, have a picture too."""
    pixels = drawn(History(num_steps=50, lines=lines, validations=()))

    assert num_coloured(pixels) < num_coloured(drawn(History(num_steps=50, lines=LINES, validations=VALIDATIONS)))


def test_the_same_figures_make_the_same_bytes():
    """Nothing of the moment is in the file."""
    history = History(num_steps=50, lines=LINES, validations=VALIDATIONS)

    assert plots.curves(history, "a") == plots.curves(history, "a")
