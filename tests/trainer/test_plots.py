"""Pictures of figures: readable PNG files, whatever is missing of the figures."""

import io

import numpy as np
import pytest
from PIL import Image

from trainer import plots
from trainer.evaluate import reliability
from understudy import images
from understudy.records import History, Metrics, Robustness, Validation
from understudy.testing import tiny_evaluation

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


def test_a_reliability_diagram_shows_what_it_was_given():
    """A picture; another one for another table; an empty one too."""
    confidence = np.linspace(0.3, 1.0, 50, dtype=np.float32)
    plain = tiny_evaluation("g0000-abcdef", ("a", "b"))
    filled = plain.model_copy(update={"reliability": reliability(confidence, confidence > 0.5)})

    drawn = [plots.reliability_diagram(one) for one in (plain, filled, filled)]

    assert images.decode(drawn[0]).shape == images.decode(drawn[1]).shape
    assert drawn[0] != drawn[1] == drawn[2]


@pytest.mark.parametrize("num_classes", [2, 30, 300])
def test_a_confusion_matrix_of_any_size(num_classes):
    """With counts, with names, with neither; the picture stays a picture that can be looked at."""
    names = [f"class {i}" for i in range(num_classes)]

    drawn = plots.confusion_plot(np.eye(num_classes, dtype=np.int64), names, names, "g0000-abcdef")

    assert max(images.decode(drawn).shape) <= 1700


def test_names_of_classes_are_no_formulas():
    """Dollars, letters that no font has, no images of a class, and more answers than classes."""
    names = ["$\\frac{1}{", "服装 👕", "a" * 300]

    drawn = plots.confusion_plot(np.array([[1, 2, 0, 0], [0, 0, 0, 0], [3, 0, 0, 1]]), names, [*names, "z"], "v")

    assert images.decode(drawn).shape[2] == 3


def test_a_heat_map_of_robustness():
    """A row for each corruption."""
    few = Robustness(
        version="v", sample="0" * 64, num_images=3, clean_error=0.1, errors={"fog": (0.1, 0.2, 0.3, 0.4, 0.5)}
    )
    many = few.model_copy(update={"errors": {f"{i}": few.errors["fog"] for i in range(15)}})

    one, other = (images.decode(plots.robustness_heat_map(each)) for each in (few, many))

    assert one.shape[0] < other.shape[0]
    assert one.shape[1] == other.shape[1]
