import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.noise import OPERATIONS, TRANSLATIONS, Noise
from understudy import images, recipes

RNG = np.random.default_rng(0)


def picture(size=(24, 20), low=0, high=256):
    return Image.fromarray(RNG.integers(low, high, (size[1], size[0], 3), dtype=np.uint8))


def noise(**overrides):
    return Noise(recipes.recipe("small", {"size": 16} | overrides))


@settings(max_examples=200, deadline=None)
@given(
    magnitude=st.floats(0, 10),
    ops=st.integers(0, 4),
    high=st.sampled_from([3, 40, 256]),
    seed=st.text(max_size=5),
    translate=st.floats(0, 0.5),
)
def test_noise_never_fails_and_never_blackens(magnitude, ops, high, seed, translate):
    """At no magnitude is an image lost, not even a dark one: timm's Posterize fails or gives black (section 1.5)."""
    made = noise(augment_magnitude=magnitude, augment_ops=ops, translate_fraction=translate, erasing_probability=0.0)

    pixels = made(picture(high=high), seed)

    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
    assert pixels.min() < pixels.max()


@pytest.mark.parametrize("name", [*OPERATIONS, *TRANSLATIONS])
def test_every_operation_works_at_both_ends_of_the_scale(name):
    """Each of them is timm's, called with arguments of ours."""
    from random import Random

    for magnitude in (0.0, 10.0):
        changed = noise(augment_magnitude=magnitude).operate(name, picture(), Random(1))
        assert (changed.size, changed.mode) == ((24, 20), "RGB")


def test_noise_is_a_function_of_its_seed():
    """The same seed gives the same noise, another seed another."""
    made, image = noise(), picture()

    assert np.array_equal(made(image, "0/1/2"), made(image, "0/1/2"))
    assert len({made(image, f"0/1/{i}").tobytes() for i in range(20)}) > 15


def test_noise_leaves_the_picture_and_the_global_generators_alone():
    """Threads share both."""
    import random

    image, made = picture(), noise(erasing_probability=1.0)
    before, state = np.array(image), random.getstate()

    for i in range(20):
        made(image, str(i))

    assert np.array_equal(np.array(image), before)
    assert random.getstate() == state


def test_without_noise_a_student_sees_what_is_served():
    """With all noise off the geometry is that of ``images.prepare``: no train/serve skew."""
    silent = {"augment_ops": 0, "flip": False, "erasing_probability": 0.0, "min_crop_area": 1.0}
    for size, crop_fraction in (((24, 20), 0.875), ((16, 16), 0.875), ((8, 8), 1.0), ((300, 50), 0.9)):
        made = noise(**silent, crop_fraction=crop_fraction)
        image = picture(size)
        assert np.array_equal(made(made.working_copy(image), "x"), images.prepare(image, made.recipe.preprocessing))


def test_a_working_copy_is_small_but_no_crop_of_it_is_enlarged():
    """Photos are kept at the size that the smallest crop needs."""
    made = noise(min_crop_area=0.25)

    assert min(made.working_copy(picture((400, 300))).size) >= 16 / 0.5
    assert made.working_copy(picture((400, 300))).size[0] < 100
    assert made.working_copy(picture((24, 20))).size == (24, 20)


def test_a_flip_mirrors_half_of_the_images():
    """And a recipe without it none."""
    silent = {"augment_ops": 0, "erasing_probability": 0.0, "min_crop_area": 1.0}
    image = picture((16, 16))
    plain = np.array(image)

    flips = [np.array_equal(noise(**silent)(image, str(i)), plain[:, ::-1]) for i in range(100)]
    assert 30 < sum(flips) < 70
    assert all(np.array_equal(noise(**silent, flip=False)(image, str(i)), plain) for i in range(20))


def test_erasing_covers_a_square_with_the_mean():
    """What is erased is zero after normalisation."""
    made = noise(
        augment_ops=0,
        min_crop_area=1.0,
        flip=False,
        erasing_probability=1.0,
        erasing_fraction=0.5,
        mean=(0.5, 0.5, 0.5),
    )
    white = Image.new("RGB", (16, 16), (255, 255, 255))

    pixels = made(white, "1")

    assert set(np.unique(pixels)) == {128, 255}
    assert (pixels == 128).all(axis=2).sum() <= 64
