"""Input noise: what a student sees instead of an image (RandAugment, crop, flip, erasing).

Pixel by pixel the operations do what timm's do. They stand here, and their arguments in ``magnitudes``, because timm
draws from the process's global generators (threads would share them), clips the paper's magnitudes, fails or blackens
images by Posterize at common strengths, and doubles the start of a data worker process, which needs no models.
The noise of an image is a function of the seed it is given, and of nothing else.
Noise belongs to training alone: labeling, calibration, evaluation and serving go through ``understudy.images``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from trainer import magnitudes
from trainer.magnitudes import Draw
from understudy.images import RESAMPLING, Picture, Pixels, frame
from understudy.recipes import Recipe

#: Width to height of a random crop, as in the official code.
ASPECT = (3 / 4, 4 / 3)
#: SolarizeAdd brightens what is darker than this.
DARK = 128


@dataclass(frozen=True)
class Noise:
    """The input noise of one recipe: a picture's working copy and a seed → (size, size, 3) uint8."""

    recipe: Recipe

    def __call__(self, picture: Picture, seed: str) -> Pixels:
        random = Random(seed)
        cropped = self.crop(picture, random)
        if _is_blank(cropped):  # a corner of the background
            cropped = self._whole(picture)
        pixels = np.array(self.rand_augment(cropped, random))  # (size, size, 3) uint8, a copy
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
        return self._whole(picture, box=(left, top, left + width, top + height))

    def _whole(self, picture: Picture, box: tuple[float, float, float, float] | None = None) -> Picture:
        side = self.recipe.size
        return picture.resize((side, side), RESAMPLING[self.recipe.interpolation], box=box)

    @cached_property
    def operations(self) -> dict[str, Draw]:
        """RandAugment's operations on the recipe's scale."""
        return magnitudes.operations(self.recipe)

    def rand_augment(self, picture: Picture, random: Random) -> Picture:
        """n operations drawn with replacement, each always applied (official code; timm's default is one in two)."""
        for _ in range(self.recipe.augment_ops):
            picture = self.operate(random.choice(list(self.operations)), picture, random)
        return picture

    def operate(self, name: str, picture: Picture, random: Random) -> Picture:
        """One operation of RandAugment at the recipe's magnitude; the picture as it was if that leaves nothing of it."""
        arguments = self.operations[name](self.recipe.augment_magnitude, picture.size, random)
        changed = self._changed(name, picture, arguments)
        return picture if _is_blank(changed) else changed  # with nothing in it, it would be not noise but a wrong label

    def _changed(self, name: str, picture: Picture, arguments: magnitudes.Arguments) -> Picture:
        if name == "Cutout":
            return _covered(picture, *arguments, fill=self.recipe.fill)
        if name in POINTWISE:
            return POINTWISE[name](picture, *arguments)
        resample = RESAMPLING[self.recipe.interpolation]
        if name == "Rotate":
            return picture.rotate(arguments[0], resample, fillcolor=self.recipe.fill)
        matrix = AFFINE[name](arguments[0], *picture.size)
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample, fillcolor=self.recipe.fill)

    def erase(self, pixels: Pixels, random: Random) -> None:
        """Cover a square with the mean colour, in place: normalisation turns it into zeros (Cutout)."""
        if random.random() >= self.recipe.erasing_probability:
            return
        side = max(1, round(self.recipe.size * self.recipe.erasing_fraction))
        row, column = (random.randrange(self.recipe.size) - side // 2 for _ in range(2))
        covered = pixels[max(0, row) : row + side, max(0, column) : column + side]
        before = covered.copy()
        covered[:] = [round(255 * channel) for channel in self.recipe.mean]
        if (pixels == pixels[0, 0]).all():  # all that there was to see lay in the square
            covered[:] = before


def _solarize_add(picture: Picture, addend: float) -> Picture:
    table = [min(255, level + int(addend)) if level < DARK else level for level in range(256)]
    return picture.point(table * 3)


#: Operations in which no pixel moves: (picture, its argument) → picture.
POINTWISE: dict[str, Callable[..., Picture]] = {
    "AutoContrast": ImageOps.autocontrast,
    "Equalize": ImageOps.equalize,
    "Invert": ImageOps.invert,
    "Posterize": ImageOps.posterize,
    "Solarize": ImageOps.solarize,
    "SolarizeAdd": _solarize_add,
    "Color": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "Contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "Brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "Sharpness": lambda picture, factor: ImageEnhance.Sharpness(picture).enhance(factor),
}
#: (argument, width, height) → which point of the picture each point (x, y) of the new one shows: ax + by + c, dx + ey + f.
AFFINE: dict[str, Callable[[float, int, int], tuple[float, ...]]] = {
    "ShearX": lambda slope, width, height: (1, slope, 0, 0, 1, 0),
    "ShearY": lambda slope, width, height: (1, 0, 0, slope, 1, 0),
    "TranslateXRel": lambda share, width, height: (1, 0, share * width, 0, 1, 0),
    "TranslateYRel": lambda share, width, height: (1, 0, 0, 0, 1, share * height),
}


def _covered(picture: Picture, half: float, column: float, row: float, *, fill: tuple[int, int, int]) -> Picture:
    """The picture without a square: ``half`` pixels to each side of a point, cut off where the picture ends."""
    box = (round(column - half), round(row - half), round(column + half), round(row + half))
    left, top, right, bottom = (max(0, edge) for edge in box)
    changed = picture.copy()
    changed.paste(fill, (left, top, min(right, picture.width), min(bottom, picture.height)))
    return changed


def _is_blank(picture: Picture) -> bool:
    return all(low == high for low, high in picture.getextrema())  # type: ignore[misc]
