import ast
import tarfile
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import trainer
from trainer.noise import Noise
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


#: Real photos, where they are: beside the repository.
PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "clothing-photos" / "labeled.tar"
SCALES = {"increasing": (0, 1, 2, 5, 9, 10), "official": (0, 1, 2, 3, 5, 10, 15, 20, 27, 30)}


@pytest.fixture(scope="session")
def photos():
    """A smooth picture, a dark one, a bright one and a small one, then real photos, at the size of an input."""
    smooth = picture((5, 5)).resize((64, 64), Image.Resampling.BICUBIC)
    found = [smooth, picture((64, 64), high=4), picture((64, 64), low=250), picture((9, 9))]
    if PHOTOS.exists():
        with tarfile.open(PHOTOS) as tar:
            some = [member for member in tar if member.name.endswith(".jpg")][::130]
            opened = (tar.extractfile(member) for member in some)
            found += [images.open_rgb(file.read()).resize((64, 64)) for file in opened if file is not None]
    return found


def operations(scale):
    return list(noise(augment_scale=scale).operations)


@pytest.mark.parametrize(("scale", "name"), [(scale, name) for scale in SCALES for name in operations(scale)])
def test_no_operation_fails_or_leaves_nothing_of_a_photo(photos, scale, name):
    """At every magnitude: Posterize with 0 bits, or a shift by more than the side, would."""
    for magnitude in SCALES[scale]:
        made = noise(augment_scale=scale, augment_magnitude=magnitude)
        for i, photo in enumerate(photos):
            changed = made.operate(name, photo, Random(i))
            assert (changed.size, changed.mode) == (photo.size, "RGB")
            assert any(low < high for low, high in changed.getextrema())


def change(scale, name, magnitude, photos):
    """Mean absolute change of the photos' pixels."""
    made = noise(augment_scale=scale, augment_magnitude=magnitude)
    pairs = ((np.asarray(made.operate(name, p, Random(7)), float), np.asarray(p, float)) for p in photos)
    return np.mean([np.abs(after - before).mean() for after, before in pairs])


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel", "Color", "Contrast",
                                  "Brightness", "Sharpness", "Solarize", "SolarizeAdd", "Posterize"])  # fmt: skip
def test_operations_grow_stronger_on_the_increasing_scale(photos, name):
    """Which is what its name says; at 0 none does anything but Posterize, which begins with 4 bits."""
    some = [photos[0], *photos[4:]]
    changes = [change("increasing", name, m, some) for m in (0, 2, 5, 10)]

    assert changes == sorted(changes)
    assert changes[-1] > changes[1]
    assert changes[0] == 0 or name == "Posterize"


def test_operations_of_the_official_scale_are_not_all_stronger_at_a_larger_magnitude(photos):
    """Solarize and Posterize end as nothing, the four enhancements are neutral at 5, the others grow."""
    some = [photos[0], *photos[4:]]

    def by_magnitude(name):
        return [change("official", name, m, some) for m in (5, 10, 15, 27)]

    for name in ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel", "SolarizeAdd", "Cutout"):
        assert by_magnitude(name)[0] < min(by_magnitude(name)[1:]), name  # a quarter turn may show more of the same
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        assert by_magnitude(name)[0] == 0
        assert by_magnitude(name) == sorted(by_magnitude(name)), name
    for name in ("Solarize", "Posterize"):
        assert by_magnitude(name) == sorted(by_magnitude(name), reverse=True), name
        assert by_magnitude(name)[-1] == 0


@settings(max_examples=50, deadline=None)
@given(magnitude=st.floats(0, 30), ops=st.integers(0, 4), high=st.sampled_from([3, 40, 256]), seed=st.text(max_size=5))
def test_the_official_scale_never_fails_and_never_blackens(magnitude, ops, high, seed):
    """Whatever is drawn after each other."""
    made = noise(augment_scale="official", augment_magnitude=magnitude, augment_ops=ops, erasing_fraction=0.9)

    pixels = made(picture(high=high), seed)

    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
    assert pixels.min() < pixels.max()


def test_an_object_before_an_empty_background_is_not_lost():
    """A crop beside it is taken back; so is a square over it."""
    white = Image.new("RGB", (200, 200), (255, 255, 255))
    white.paste((200, 0, 0), (0, 0, 12, 12))
    made = noise(augment_ops=0, min_crop_area=0.1, erasing_probability=1.0, erasing_fraction=0.9)

    assert all(made(white, str(i)).min() < 250 for i in range(50))


@pytest.mark.parametrize("scale", SCALES)
def test_noise_on_both_scales_is_a_function_of_its_seed(scale, photos):
    """Cutout's place and every sign too."""
    made = noise(augment_scale=scale, augment_ops=4, augment_magnitude=9)

    assert all(np.array_equal(made(photos[0], f"0/1/{i}"), made(photos[0], f"0/1/{i}")) for i in range(20))


def test_noise_reaches_nobody_but_the_student():
    """Only what makes a student's batches, and pictures of them, imports the noise.

    The teacher labels in another program, and calibration, evaluation and export go through ``images.load``.
    """
    root = Path(trainer.__file__).parents[1]
    importing = {
        path.relative_to(root).as_posix()
        for package in ("understudy", "service", "worker", "trainer")
        for path in (root / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and {"trainer.noise", "trainer.noise.Noise"} & {f"{node.module}.{alias.name}" for alias in node.names}
    }

    assert importing == {"trainer/data.py", "trainer/loading.py", "trainer/pictures.py"}


@pytest.mark.parametrize("magnitude", [1.0, 5.0, 9.0])
def test_every_operation_does_what_timms_does(photos, magnitude):
    """Pixel by pixel, with the same arguments."""
    from timm.data.auto_augment import NAME_TO_OP

    made = noise(augment_magnitude=magnitude)
    for name, draw in made.operations.items():
        for photo in photos[:1] + photos[4:]:
            arguments = draw(magnitude, photo.size, Random(3))
            geometry = {"fillcolor": made.recipe.fill, "resample": Image.Resampling.BICUBIC}
            moves = name.startswith(("Rotate", "Shear", "Translate"))
            expected = NAME_TO_OP[name](photo, *arguments, **(geometry if moves else {}))
            assert np.array_equal(made.operate(name, photo, Random(3)), expected), name


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
