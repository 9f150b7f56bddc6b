import io

import numpy as np
import pytest
from PIL import Image

from understudy import fingerprints, images
from understudy.errors import ImageRefused
from understudy.fingerprints import Fingerprints


def photo(seed: int) -> Image.Image:
    random, layers = np.random.default_rng(seed), np.zeros((96, 128, 3))
    for side in (3, 6, 12, 24, 48):  # coarse shapes strong and fine ones weak, as in photographs
        noise = Image.fromarray(random.integers(0, 256, size=(side, side, 3), dtype=np.uint8))
        layers += np.asarray(noise.resize((128, 96), Image.Resampling.BICUBIC)) / side**0.5
    return Image.fromarray((layers * 255 / layers.max()).astype(np.uint8))


def saved(image: Image.Image, image_format: str = "PNG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **how)
    return buffer.getvalue()


def of(image: Image.Image, image_format: str = "PNG", **how) -> bytes:
    return images.examine(saved(image, image_format, **how)).fingerprint


@pytest.mark.parametrize("seed", range(5))
def test_a_picture_saved_again_is_the_same_picture(seed):
    """In another format, at another quality or size; not in other colours, and not turned."""
    image = photo(seed)
    known = of(image)
    for copy in (of(image, "JPEG", quality=40), of(image, "WEBP", quality=60), of(image.resize((64, 48)))):
        away = fingerprints.distance(known, copy)
        assert away is not None
        assert Fingerprints([("it", known)]).nearest("copy", copy) == fingerprints.Match("it", away)
    red, green, blue = image.split()
    assert fingerprints.distance(known, of(image.transpose(Image.Transpose.ROTATE_90))) is None
    assert fingerprints.distance(known, of(Image.merge("RGB", (red, green, blue.point(lambda v: v // 3))))) is None


def test_different_pictures_are_told_apart():
    """Of sixty, no two are taken for copies."""
    known = Fingerprints((str(seed), of(photo(seed))) for seed in range(60))
    assert [seed for seed in range(60) if known.nearest(str(seed), of(photo(seed)))] == []


def test_a_turned_photo_is_the_photo_that_is_seen():
    """The camera's orientation counts, as it does for the model."""
    exif = Image.Exif()
    exif[274] = 6
    image = photo(1)
    stored = of(image.transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert fingerprints.distance(of(image), stored) is not None


def test_what_has_no_structure_resembles_nothing():
    """A blank page is no copy of another, nor is an icon of one."""
    assert of(Image.new("RGB", (100, 100), (200, 10, 10))) == of(photo(0).resize((15, 40))) == b""
    nothing = Fingerprints([("blank", b"")])
    assert nothing.nearest("other", b"") is None


def test_an_animation_counts_by_its_first_frame():
    """And says so."""
    frames = [photo(n) for n in range(3)]
    moving = images.examine(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert moving.is_animated
    assert fingerprints.distance(moving.fingerprint, of(frames[0], "GIF")) == 0
    assert not images.examine(saved(frames[0], "GIF")).is_animated


@pytest.mark.parametrize(
    ("image", "image_format", "code"),
    [(Image.new("RGB", (3, 9)), "PNG", "too_small"), (Image.new("LAB", (30, 30)), "TIFF", "unsupported_mode")],
)
def test_what_a_bucket_does_not_take_has_its_own_code(image, image_format, code):
    """So that whoever sent it knows what to change."""
    with pytest.raises(ImageRefused) as refused:
        images.examine(saved(image, image_format))
    assert refused.value.code == code
