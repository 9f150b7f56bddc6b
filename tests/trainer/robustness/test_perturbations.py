import numpy as np
import pytest

from trainer.robustness import perturbations
from trainer.robustness.perturbations import PERTURBATIONS, film, flip_probability
from trainer.robustness.sample import sample


@pytest.mark.parametrize("perturbation", PERTURBATIONS)
def test_a_film_hardly_changes_from_frame_to_frame(perturbation, photos):
    """Neighbours are nearer than the ends, but under noise; the same image gives the same film."""
    frames = film(photos(64)[0], perturbation, "a")

    assert len(frames) == (41 if perturbation == "translate" else 31)
    assert all(frame.shape == (64, 64, 3) and frame.dtype == np.uint8 for frame in frames)
    assert all((one == other).all() for one, other in zip(frames, film(photos(64)[0], perturbation, "a"), strict=True))
    step, whole = (np.abs(frames[i].astype(float) - frames[0]).mean() for i in (1, 30))
    assert (step < 0.6 * whole) != (perturbation in perturbations.NOISES)


@pytest.mark.parametrize(
    ("perturbation", "frame"),
    [("brightness", 15), ("translate", 20), ("rotate", 15), ("tilt", 15), ("scale", 24), ("gaussian_noise", 0)],
)
def test_where_nothing_is_done_the_image_is_as_it_was(perturbation, frame, photos):
    """In the middle of a movement, and at a scale of 1."""
    pixels = photos(32)[0]

    assert np.abs(film(pixels, perturbation, "a")[frame].astype(int) - pixels).max() <= 1


def test_what_moves_goes_where_it_should():
    """A point wanders with the translation, and all the way round the middle with the rotation."""
    pixels = np.zeros((224, 224, 3), dtype=np.uint8)
    pixels[111, 161] = 255  # fifty pixels right of the middle

    moved = film(pixels, "translate", "a")[0][..., 0]
    turned = film(pixels, "rotate", "a")[0][..., 0]

    assert np.unravel_index(moved.argmax(), moved.shape) == (111, 141)  # 20 px to the left
    row, column = np.unravel_index(turned.argmax(), turned.shape)
    assert abs(np.hypot(row - 111.5, column - 111.5) - 50) < 1.5
    assert abs(abs(np.degrees(np.arctan2(row - 111.5, column - 111.5))) - 15) < 1.5


def test_flips_by_hand():
    """From frame to frame; under noise against the first."""
    answers = np.array([[0, 0, 1, 1], [2, 2, 2, 2]])

    assert flip_probability(answers, is_noise=False) == pytest.approx(1 / 6)
    assert flip_probability(answers, is_noise=True) == pytest.approx(2 / 6)
    assert flip_probability(np.array([[0, 1, 0, 1]]), is_noise=False) == 1.0


def test_a_model_of_colours_does_not_flip_when_its_picture_is_moved(local_store, holdout, load):
    """One colour stays one colour, wherever it goes; the progress is told."""
    shown = []

    found = perturbations.measure(load(), sample(local_store, holdout, 2), lambda *at: shown.append(at))

    assert tuple(found) == tuple(PERTURBATIONS)
    assert found["rotate"] == found["translate"] == found["tilt"] == 0.0
    assert shown == [(1, 2), (2, 2)]
