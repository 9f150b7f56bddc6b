from random import Random

import pytest

from trainer.magnitudes import MAX_CUTOUT, MAX_TRANSLATION, MIN_BITS, operations
from understudy import recipes

#: The official code's arguments at three magnitudes, at 600 px (EfficientNet-B7's input); signs left out.
OFFICIAL = {
    "Rotate": (15, 30, 81),
    "ShearX": (0.15, 0.3, 0.81),
    "ShearY": (0.15, 0.3, 0.81),
    "TranslateXRel": (50 / 600, 100 / 600, 270 / 600),
    "TranslateYRel": (50 / 600, 100 / 600, 270 / 600),
    "Color": (1.0, 1.9, 4.96),
    "Contrast": (1.0, 1.9, 4.96),
    "Brightness": (1.0, 1.9, 4.96),
    "Sharpness": (1.0, 1.9, 4.96),
    "SolarizeAdd": (55, 110, 297),
    "Solarize": (128, 256, 256),
    "Posterize": (2, 4, 8),
    "Cutout": (20, 40, 108),
}
#: timm's, on its increasing scale, whose end is 10; at 0 none of them does anything (posterize takes 4 bits, not 8).
INCREASING = {
    "Rotate": (0, 15, 30),
    "ShearX": (0, 0.15, 0.3),
    "TranslateXRel": (0, 0.1, 0.2),
    "Color": (0, 0.45, 0.9),  # away from 1, to either side
    "SolarizeAdd": (0, 55, 110),
    "Solarize": (256, 128, 0),
    "Posterize": (4, 2, MIN_BITS),
}


def argument(scale: str, name: str, magnitude: float, size: tuple[int, int] = (600, 600), seed: int = 0) -> float:
    drawn = operations(recipes.recipe("small", {"augment_scale": scale}))[name](magnitude, size, Random(seed))
    return drawn[0]


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_scale_is_the_papers(name):
    """At 5 (SVHN's), 10 and 27 (B7's and L2's): extrapolated, not clipped."""
    assert [abs(argument("official", name, m)) for m in (5, 10, 27)] == pytest.approx(OFFICIAL[name])


@pytest.mark.parametrize("name", INCREASING)
def test_the_increasing_scale_is_timms(name):
    """At 0, 5 and 10."""
    drawn = [abs(argument("increasing", name, m)) for m in (0, 5, 10)]
    if name == "Color":
        drawn = [abs(value - 1.0) for value in drawn]

    assert drawn == pytest.approx(INCREASING[name])


def test_the_official_scale_has_the_sixteen_operations_of_the_paper():
    """And timm's fifteen are all but Cutout."""
    official, increasing = (
        operations(recipes.recipe("small", {"augment_scale": s})) for s in ("official", "increasing")
    )

    assert len(official) == 16
    assert set(official) - set(increasing) == {"Cutout"}
    assert set(increasing) < set(official)


def test_shifts_go_both_ways_and_enhancements_of_the_official_scale_one():
    """The official code negates what has a sign, and only that."""
    signs = {name: {argument("official", name, 7, seed=s) > 0 for s in range(20)} for name in OFFICIAL}

    both = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}
    assert {name for name, seen in signs.items() if seen == {True, False}} == both


@pytest.mark.parametrize(
    ("side", "magnitude", "pixels"),
    [(600, 27, 270), (528, 24, 240), (456, 18, 180), (380, 15, 150), (300, 12, 120), (260, 6, 60), (32, 5, 2)],
)
def test_shifts_are_the_official_pixels_at_every_size_of_the_official_code(side, magnitude, pixels):
    """B7 to B2 with the magnitudes of its scripts (train.sh), and SVHN."""
    assert abs(argument("official", "TranslateXRel", magnitude, (side, side))) * side == pytest.approx(pixels)


@pytest.mark.parametrize(("name", "most"), [("TranslateXRel", MAX_TRANSLATION), ("Cutout", MAX_CUTOUT)])
def test_between_the_official_sizes_pixels_grow_with_the_side_and_never_take_the_whole_picture(name, most):
    """At 64 px 2 px for each unit of m: official constants at 32 and 224 px with a line between them."""
    sides = (8, 32, 64, 128, 223, 224, 300, 600)
    drawn = [abs(argument("official", name, 1, (side, side))) for side in sides]
    pixels = [d * s if name != "Cutout" else d for d, s in zip(drawn, sides, strict=True)]

    assert pixels == sorted(pixels)
    assert pixels[2] == pytest.approx({"TranslateXRel": 2.0, "Cutout": 1.0}[name])
    for side in sides:
        share = abs(argument("official", name, 30, (side, side))) / (side if name == "Cutout" else 1)
        assert share <= most
