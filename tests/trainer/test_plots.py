import numpy as np
import pytest

from trainer import plots
from trainer.evaluate import reliability
from understudy import images
from understudy.records import Robustness
from understudy.testing import tiny_evaluation


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
