"""Input noise: what a student sees instead of an image (RandAugment, crop, flip, erasing).

The pixel operations are timm's; their arguments are drawn here, because timm draws them from the
process's global generators (threads would share them) and its Posterize fails or blackens images at
common strengths. The noise of an image is a function of the seed it is given, and of nothing else.
Noise belongs to training alone: labeling, evaluation and serving go through ``understudy.images``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import numpy as np
from timm.data.auto_augment import NAME_TO_OP

from understudy.images import RESAMPLING, Picture, Pixels, frame
from understudy.recipes import Recipe

#: Fewer bits leave a dark photo black, and Pillow 13 refuses 0 of them.
MIN_BITS = 2
#: The end of timm's magnitude scale (the official one extrapolates beyond it).
MAX_MAGNITUDE = 10.0
#: Width to height of a random crop, as in the official code.
ASPECT = (3 / 4, 4 / 3)

Draw = Callable[[float, Random], tuple[float, ...]]  # (strength 0..1, generator) → the operation's arguments


def _nothing(strength: float, random: Random) -> tuple[float, ...]:
    return ()


def _signed(reach: float, strength: float, random: Random) -> tuple[float, ...]:
    return (random.choice((-1, 1)) * reach * strength,)


def _enhance(strength: float, random: Random) -> tuple[float, ...]:
    return (max(0.1, 1.0 + random.choice((-1, 1)) * 0.9 * strength),)


def _bits(strength: float, random: Random) -> tuple[float, ...]:
    return (max(MIN_BITS, 4 - int(4 * strength)),)


def _threshold(strength: float, random: Random) -> tuple[float, ...]:
    return (256 - int(256 * strength),)


def _addend(strength: float, random: Random) -> tuple[float, ...]:
    return (int(110 * strength),)


#: RandAugment's operations on timm's "increasing" scale: at strength 0 none of them with an argument
#: does anything. Cutout, the sixteenth of the paper's, is ``erasing``.
OPERATIONS: dict[str, Draw] = {
    "AutoContrast": _nothing,
    "Equalize": _nothing,
    "Invert": _nothing,
    "Rotate": partial(_signed, 30.0),  # degrees
    "Posterize": _bits,
    "Solarize": _threshold,
    "SolarizeAdd": _addend,
    "Color": _enhance,
    "Contrast": _enhance,
    "Brightness": _enhance,
    "Sharpness": _enhance,
    "ShearX": partial(_signed, 0.3),
    "ShearY": partial(_signed, 0.3),
}
#: Their reach is the recipe's: timm's own 0.45 of the side takes small objects out of the picture.
TRANSLATIONS = ("TranslateXRel", "TranslateYRel")
#: These uncover pixels, so they are told what to fill them with and how to interpolate.
GEOMETRIC = ("Rotate", "ShearX", "ShearY", *TRANSLATIONS)


@dataclass(frozen=True)
class Noise:
    """The input noise of one recipe: a picture's working copy and a seed → (size, size, 3) uint8."""

    recipe: Recipe

    def __call__(self, picture: Picture, seed: str) -> Pixels:
        random = Random(seed)
        pixels = np.array(self.rand_augment(self.crop(picture, random), random))  # (size, size, 3) uint8, a copy
        self.erase(pixels, random)
        is_mirrored = self.recipe.flip and random.random() < 0.5
        return pixels[:, ::-1] if is_mirrored else pixels

    def working_copy(self, picture: Picture) -> Picture:
        """The picture as small as it may be kept in memory: the smallest crop still has ``size`` pixels a side."""
        if self.recipe.min_crop_area == 1.0:
            return frame(picture, self.recipe.preprocessing)
        scale = self.recipe.size / math.sqrt(self.recipe.min_crop_area * ASPECT[0]) / min(picture.size)
        if scale >= 1.0:
            return picture
        width, height = (max(1, round(side * scale)) for side in picture.size)
        return picture.resize((width, height), RESAMPLING[self.recipe.interpolation])

    def crop(self, picture: Picture, random: Random) -> Picture:
        """A random part of the picture; with ``min_crop_area`` 1 all of it, framed as when serving."""
        if self.recipe.min_crop_area == 1.0:
            return picture
        area = random.uniform(self.recipe.min_crop_area, 1.0) * picture.width * picture.height
        aspect = math.exp(random.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        width = min(math.sqrt(area * aspect), picture.width)
        height = min(math.sqrt(area / aspect), picture.height)
        left = random.uniform(0, picture.width - width)
        top = random.uniform(0, picture.height - height)
        side = self.recipe.size
        box = (left, top, left + width, top + height)
        return picture.resize((side, side), RESAMPLING[self.recipe.interpolation], box=box)

    def rand_augment(self, picture: Picture, random: Random) -> Picture:
        """n operations drawn with replacement, each always applied (the paper's; timm's default is one in two)."""
        for _ in range(self.recipe.augment_ops):
            name = random.choice((*OPERATIONS, *TRANSLATIONS))
            changed = self.operate(name, picture, random)
            if not _is_blank(changed):  # a picture with nothing in it is not noise but a wrong label
                picture = changed
        return picture

    def operate(self, name: str, picture: Picture, random: Random) -> Picture:
        """One operation of RandAugment at the recipe's magnitude."""
        draw = OPERATIONS.get(name) or partial(_signed, self.recipe.translate_fraction)
        arguments = draw(self.recipe.augment_magnitude / MAX_MAGNITUDE, random)
        geometry: dict[str, Any] = {}
        if name in GEOMETRIC:
            geometry = {"fillcolor": self.recipe.fill, "resample": RESAMPLING[self.recipe.interpolation]}
        operation: Any = NAME_TO_OP[name]
        changed: Picture = operation(picture, *arguments, **geometry)
        return changed

    def erase(self, pixels: Pixels, random: Random) -> None:
        """Cover a square with the mean colour, in place: normalisation turns it into zeros (Cutout)."""
        if random.random() >= self.recipe.erasing_probability:
            return
        side = max(1, round(self.recipe.size * self.recipe.erasing_fraction))
        row, column = (random.randrange(self.recipe.size) - side // 2 for _ in range(2))
        covered = pixels[max(0, row) : row + side, max(0, column) : column + side]
        covered[:] = [round(255 * channel) for channel in self.recipe.mean]


def _is_blank(picture: Picture) -> bool:
    return all(low == high for low, high in picture.getextrema())  # type: ignore[misc]
