"""RandAugment's magnitude: what each operation is told at magnitude m, on the two scales that go by that number.

``increasing`` is timm's: at 0 no operation that has an argument does anything, and each grows stronger up to 10. ``official`` is
the paper's (official code, randaugment.py): made for 0 to 10 and extrapolated to 27 for EfficientNet-B7 and L2;
solarize and posterize grow weaker with m, colour, contrast, brightness and sharpness are neutral at 5. It touches no picture.
"""

from collections.abc import Callable
from functools import partial
from random import Random

from understudy.recipes import Recipe

#: Where timm's scale ends, and what both scales divide by.
FULL = 10.0
#: Fewer bits leave a dark photo black, and Pillow 13 refuses 0 of them.
MIN_BITS = 2
#: Pixels for each unit of m that the official code shifts by and covers on each side of a point: for the 224 to 600 px
#: of ImageNet, and for the 32 px of SVHN (its task_info.py). Between 32 and 224 px they are interpolated.
TRANSLATE_PX, SMALL_TRANSLATE_PX = 10.0, 0.4
CUTOUT_PX, SMALL_CUTOUT_PX = 4.0, 0.4
LARGE_SIDE, SMALL_SIDE = 224, 32
#: No shift takes more of the side than B6's does at its m (240 of 528 px), no cutout more than half of it.
MAX_TRANSLATION = 240 / 528
MAX_CUTOUT = 0.25

Arguments = tuple[float, ...]
Size = tuple[int, int]  # width and height of the picture, in pixels
Draw = Callable[[float, Size, Random], Arguments]  # (magnitude, size, generator) → the operation's arguments


def operations(recipe: Recipe) -> dict[str, Draw]:
    """RandAugment's operations by timm's names, each with what draws its arguments on the recipe's scale.

    Increasing: timm's fifteen. Its shift is ``translate_fraction`` of the side at 10, because timm's own 0.45 takes
    small objects out of the picture. Official: the sixteen of the paper, with Cutout.
    """
    if recipe.augment_scale == "official":
        return dict(OFFICIAL)
    shift = partial(_signed, recipe.translate_fraction / FULL)
    return INCREASING | {"TranslateXRel": shift, "TranslateYRel": shift}


def _nothing(magnitude: float, size: Size, random: Random) -> Arguments:
    return ()


def _signed(each: float, magnitude: float, size: Size, random: Random) -> Arguments:
    return (random.choice((-1, 1)) * each * magnitude,)


# -- timm's increasing scale ----------------------------------------------------------------------


def _enhance_more(magnitude: float, size: Size, random: Random) -> Arguments:
    return (max(0.1, 1.0 + random.choice((-1, 1)) * 0.9 * magnitude / FULL),)


def _fewer_bits(magnitude: float, size: Size, random: Random) -> Arguments:
    return (max(MIN_BITS, 4 - int(4 * magnitude / FULL)),)


def _lower_threshold(magnitude: float, size: Size, random: Random) -> Arguments:
    return (256 - int(256 * magnitude / FULL),)


def _addend(magnitude: float, size: Size, random: Random) -> Arguments:
    return (int(110 * magnitude / FULL),)


INCREASING: dict[str, Draw] = {
    "AutoContrast": _nothing,
    "Equalize": _nothing,
    "Invert": _nothing,
    "Rotate": partial(_signed, 3.0),  # degrees
    "Posterize": _fewer_bits,
    "Solarize": _lower_threshold,
    "SolarizeAdd": _addend,
    "Color": _enhance_more,
    "Contrast": _enhance_more,
    "Brightness": _enhance_more,
    "Sharpness": _enhance_more,
    "ShearX": partial(_signed, 0.03),
    "ShearY": partial(_signed, 0.03),
}


# -- the official scale ---------------------------------------------------------------------------


def _enhance(magnitude: float, size: Size, random: Random) -> Arguments:
    return (0.18 * magnitude + 0.1,)


def _bits(magnitude: float, size: Size, random: Random) -> Arguments:
    """More than 8 bits change nothing; what the official code makes of them is its platform's affair."""
    return (min(8, max(MIN_BITS, int(4 * magnitude / FULL))),)


def _threshold(magnitude: float, size: Size, random: Random) -> Arguments:
    """256 and more change nothing; the same holds."""
    return (min(256, int(256 * magnitude / FULL)),)


def _shift(axis: int, magnitude: float, size: Size, random: Random) -> Arguments:
    """A share of the side, as timm's relative shifts take it."""
    side = size[axis]
    share = _pixels(TRANSLATE_PX, SMALL_TRANSLATE_PX, side) * magnitude / side
    return (random.choice((-1, 1)) * min(MAX_TRANSLATION, share),)


def _cutout(magnitude: float, size: Size, random: Random) -> Arguments:
    """Half of the covered square's side in pixels, and the point in its middle."""
    side = min(size)
    half = min(MAX_CUTOUT * side, _pixels(CUTOUT_PX, SMALL_CUTOUT_PX, side) * magnitude)
    return (half, random.randrange(size[0]), random.randrange(size[1]))


def _pixels(large: float, small: float, side: int) -> float:
    """Pixels for each unit of m at this side: exact wherever the official code has a number."""
    if side >= LARGE_SIDE:
        return large
    if side <= SMALL_SIDE:
        return small * side / SMALL_SIDE
    return small + (large - small) * (side - SMALL_SIDE) / (LARGE_SIDE - SMALL_SIDE)


OFFICIAL: dict[str, Draw] = {
    "AutoContrast": _nothing,
    "Equalize": _nothing,
    "Invert": _nothing,
    "Rotate": partial(_signed, 3.0),  # degrees
    "Posterize": _bits,
    "Solarize": _threshold,
    "Color": _enhance,
    "Contrast": _enhance,
    "Brightness": _enhance,
    "Sharpness": _enhance,
    "ShearX": partial(_signed, 0.03),
    "ShearY": partial(_signed, 0.03),
    "TranslateXRel": partial(_shift, 0),
    "TranslateYRel": partial(_shift, 1),
    "Cutout": _cutout,
    "SolarizeAdd": _addend,
}
