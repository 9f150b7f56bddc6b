import numpy as np
import pytest

from trainer.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from understudy import images
from understudy.records import Preprocessing

SIZE = 64


def level_distance(corrupted, clean):
    """The mean difference of a pixel."""
    return float(np.abs(corrupted.astype(float) - clean).mean())


def pattern_distance(corrupted, clean):
    """How much of the picture's own ups and downs is gone: what is added is not counted."""
    return 1 - float(np.cov(corrupted.ravel(), clean.ravel())[0, 1] / clean.var())


def edge_distance(corrupted, clean):
    """How little the differences between neighbours are like the picture's, under clouds that have their own: 0 to 1."""
    neighbours = [
        np.concatenate([np.diff(pixels.astype(float), axis=axis).ravel() for axis in (0, 1)])
        for pixels in (corrupted, clean)
    ]
    return 1 - float(np.corrcoef(*neighbours)[0, 1])


#: Weather that brightens an image, not always the more the worse.
DISTANCES = {"snow": pattern_distance, "frost": edge_distance, "fog": edge_distance}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corruption_gets_worse_with_its_severity(corruption, photos):
    """On average over real photos, each severity is farther from the clean image than the one before."""
    distance = DISTANCES.get(corruption, level_distance)

    means = [
        np.mean(
            [distance(corrupt(pixels, corruption, severity, str(i)), pixels) for i, pixels in enumerate(photos(SIZE))]
        )
        for severity in SEVERITIES
    ]

    assert means[0] > 0
    assert (np.diff(means) > 0).all(), means


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corruption_is_a_function_of_image_name_and_severity(corruption, photos):
    """The same twice; where chance is in it, another image is corrupted otherwise."""
    pixels = photos(SIZE)[0]
    without_chance = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg"}

    first, again, other = (corrupt(pixels, corruption, 3, seed) for seed in ("a", "a", "b"))

    assert (first == again).all()
    assert (first == other).all() == (corruption in without_chance)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("size", [8, 33, 240])
def test_any_size_and_any_picture(corruption, size):
    """The shape stays; black, white and noise are taken too."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    for pixels in (noise, np.zeros_like(noise), np.full_like(noise, 255)):
        corrupted = corrupt(pixels, corruption, 5, "x")

        assert (corrupted.shape, corrupted.dtype) == (pixels.shape, np.uint8)


@pytest.mark.parametrize("corruption", ["defocus_blur", "zoom_blur", "contrast", "brightness"])
def test_a_small_image_is_corrupted_as_a_large_one(corruption, photos):
    """Lengths are scaled: to corrupt and then to shrink is nearly to shrink and then to corrupt."""
    small = Preprocessing(size=80)
    for pixels in photos(160)[:4]:
        one = images.prepare(corrupt(pixels, corruption, 4, "x"), small)
        other = corrupt(images.prepare(pixels, small), corruption, 4, "x")

        assert level_distance(one, other) < 0.1 * level_distance(one, images.prepare(pixels, small)) + 1.5


def test_the_noises_are_as_strong_as_they_say():
    """On mid-grey: a deviation of 0.08, 1/60 of a photon's share, and 3 % of all values."""
    grey = np.full((128, 128, 3), 128, dtype=np.uint8)

    gaussian, shot, impulse = (
        corrupt(grey, name, 1, "x").astype(float) / 255 for name in ("gaussian_noise", "shot_noise", "impulse_noise")
    )

    assert gaussian.std() == pytest.approx(0.08, rel=0.02)
    assert shot.std() == pytest.approx(np.sqrt(128 / 255 / 60), rel=0.02)
    assert np.isin(impulse, (0.0, 1.0)).mean() == pytest.approx(0.03, rel=0.1)


def test_contrast_and_brightness_by_hand():
    """Contrast keeps 40 % of what differs from the mean; brightness adds a tenth to the largest channel."""
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = (100, 50, 0)

    assert corrupt(pixels, "contrast", 1, "x")[0, 0].tolist() == [70, 35, 0]  # 50 ± 0.4 × 50
    assert corrupt(pixels, "brightness", 1, "x")[0, 0].tolist() == [126, 63, 0]  # 100 + 25.5, the hue stays
    assert corrupt(pixels, "brightness", 1, "x")[7, 7].tolist() == [26, 26, 26]
