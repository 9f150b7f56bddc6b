"""The fifteen corruptions of ImageNet-C in five severities, for square images of any size.

Constants are those of the benchmark's code (Hendrycks & Dietterich 2019, ImageNet-C/create_c), whose
images have 224 pixels a side: lengths are scaled with the side, so that a small image looks like a small
copy of a corrupted large one. Three differ, because what they were made with is not here or would not
rise with the severity: frost has no photographs of ice, glass displaces points where the original swaps
pixels, and elastic only wobbles, where the original's first two severities shift the whole image.

An image's corruption is a function of the image, the corruption and the severity alone. Legend: s is
the side; images are float32 (s, s, 3), 0 to 1; ``scale`` is pixels here to one of 224.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

from understudy.images import Pixels, recompressed

Image = npt.NDArray[Any]  # (s, s, 3) float32: scipy says nothing of what it gives
Layer = npt.NDArray[Any]  # (s, s) float32
Random = np.random.Generator

SEVERITIES = (1, 2, 3, 4, 5)
#: The side that the benchmark's lengths are for.
SIDE = 224
#: Points on a pixel's side that a disk is drawn with.
_FINE = 8
#: Rec. 601, as OpenCV turns colours to grey.
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
#: Of ice, where a photograph would say.
_ICE = np.array([0.82, 0.91, 1.0], dtype=np.float32)


def corrupt(pixels: Pixels, corruption: str, severity: int, seed: str) -> Pixels:
    """A model's input, corrupted: (s, s, 3) uint8 → the same.

    ``seed`` is the image's sha-256. Raises KeyError for a corruption that there is none of.
    """
    image = pixels.astype(np.float32) / 255.0
    return to_pixels(CORRUPTIONS[corruption](image, severity, generator(f"{seed}/{corruption}/{severity}")))


def generator(seed: str) -> Random:
    """Numbers by chance that are the same for the same text, on every machine."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16]))


def to_pixels(image: Image) -> Pixels:
    """(s, s, 3) float, clipped to 0 to 1 → uint8, rounded."""
    pixels: Pixels = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    return pixels


def scale_of(image: Image) -> float:
    """Pixels of this image to one of the benchmark's."""
    return float(image.shape[0] / SIDE)


# -- noise --------------------------------------------------------------------------------------------


def gaussian_noise(image: Image, severity: int, random: Random) -> Image:
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return image + random.normal(0.0, deviation, image.shape).astype(np.float32)


def shot_noise(image: Image, severity: int, random: Random) -> Image:
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return (random.poisson(image * photons) / photons).astype(np.float32)


def impulse_noise(image: Image, severity: int, random: Random) -> Image:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    salt = random.integers(0, 2, image.shape).astype(np.float32)
    return np.where(random.random(image.shape) < share, salt, image)


# -- blur ---------------------------------------------------------------------------------------------


def defocus_blur(image: Image, severity: int, random: Random) -> Image:
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    return filtered(image, disk(radius * scale_of(image), softness * scale_of(image)))


def glass_blur(image: Image, severity: int, random: Random) -> Image:
    sigma, reach, times = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    scale = scale_of(image)
    wander = sum(random.uniform(-reach * scale, reach * scale, (2, *image.shape[:2])) for _ in range(times))
    return _blurred(displaced(_blurred(image, sigma * scale), np.asarray(wander)), sigma * scale)


def motion_blur(image: Image, severity: int, random: Random) -> Image:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    scale = scale_of(image)
    return filtered(image, streak(radius * scale, sigma * scale, random.uniform(-45, 45)))


def zoom_blur(image: Image, severity: int, random: Random) -> Image:
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[severity - 1]
    factors = np.arange(1.0, end, step)
    return (image + sum(zoomed(image, factor) for factor in factors)) / np.float32(len(factors) + 1)


# -- weather ------------------------------------------------------------------------------------------


def snow(image: Image, severity: int, random: Random) -> Image:
    mean, deviation, flake, threshold, radius, sigma, keep = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]
    flakes = snowflakes(mean, deviation, flake, threshold, random)
    return snowed(image, blown(flakes, radius, sigma, random.uniform(-135, -45)), keep)


def frost(image: Image, severity: int, random: Random) -> Image:
    keep, strength = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    return keep * image + strength * ice(image.shape[0], random)[..., None] * _ICE


def fog(image: Image, severity: int, random: Random) -> Image:
    strength, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity - 1]
    brightest = float(image.max())
    # The original's wobble is a product of two factors that both decay.
    hazed = image + strength * clouds(image.shape[0], decay**2, random)[..., None]
    return hazed * np.float32(brightest / (brightest + strength))


def brightness(image: Image, severity: int, random: Random) -> Image:
    return brightened(image, (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1])


# -- digital ------------------------------------------------------------------------------------------


def contrast(image: Image, severity: int, random: Random) -> Image:
    keep = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    mean = image.mean(axis=(0, 1), keepdims=True)
    return np.asarray((image - mean) * np.float32(keep) + mean)


def elastic(image: Image, severity: int, random: Random) -> Image:
    wobble, stretch = ((0.6, 2), (0.9, 4), (1.3, 6), (1.8, 8), (2.5, 10))[severity - 1]  # pixels of 224
    scale, side = scale_of(image), image.shape[0]
    rough = ndimage.gaussian_filter(random.normal(size=(2, side, side)), (0, 2.44 * scale, 2.44 * scale))
    local = rough / max(float(rough.std()), 1e-6) * wobble * scale
    corner = random.uniform(-stretch, stretch, (2, 2)) * scale / (side / 3)  # as if a third of the side were pulled
    from_centre = np.indices((side, side)) - (side - 1) / 2
    return displaced(image, local + np.tensordot(corner, from_centre, axes=1))


def pixelate(image: Image, severity: int, random: Random) -> Image:
    side = image.shape[0]
    num_blocks = max(1, int(side * (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]))
    blocks = _reduced(image, num_blocks)
    nearest = (2 * np.arange(side) + 1) * num_blocks // (2 * side)
    return np.asarray(blocks[nearest][:, nearest])


def jpeg(image: Image, severity: int, random: Random) -> Image:
    quality = (25, 18, 15, 10, 7)[severity - 1]
    return recompressed(to_pixels(image), quality).astype(np.float32) / 255.0


CORRUPTIONS: dict[str, Callable[[Image, int, Random], Image]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic": elastic,
    "pixelate": pixelate,
    "jpeg": jpeg,
}


# -- what they are made of ----------------------------------------------------------------------------


def filtered(image: Image, kernel: npt.NDArray[np.float64]) -> Image:
    """An image under a kernel of odd sides, its edges mirrored."""
    reach = kernel.shape[0] // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    blurred: Image = signal.fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)).astype(np.float32)
    return blurred


def disk(radius: float, softness: float) -> npt.NDArray[np.float64]:
    """A kernel that spreads a point over a disk of so many pixels, softened at its edge."""
    reach = math.ceil(radius + 3 * softness)
    side = 2 * reach + 1
    fine = (np.arange(side * _FINE) + 0.5) / _FINE - reach - 0.5
    inside = (fine[:, None] ** 2 + fine**2 <= radius**2).astype(np.float64)
    whole = ndimage.gaussian_filter(inside.reshape(side, _FINE, side, _FINE).mean(axis=(1, 3)), softness)
    return np.asarray(whole / whole.sum())


def streak(radius: float, sigma: float, degrees: float) -> npt.NDArray[np.float64]:
    """A kernel that drags a point along a line, 2 × ``radius`` pixels long, fading as half a bell curve."""
    reach = math.ceil(2 * radius) + 1
    along = np.arange(0.0, 2 * radius, 0.25)
    weight = np.exp(-(along**2) / (2 * sigma**2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    row, column = (along * turn(math.radians(degrees)) + reach for turn in (math.sin, math.cos))
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            share = (1 - np.abs(row - top - down)) * (1 - np.abs(column - left - right))
            np.add.at(kernel, (top + down, left + right), weight * share)
    return np.asarray(kernel / kernel.sum())


def zoomed(image: Image, factor: float) -> Image:
    """The middle of an image, enlarged to its size; a factor below 1 leaves black around it."""
    middle = (image.shape[0] - 1) / 2
    at = middle + (np.arange(image.shape[0]) - middle) / factor
    share = np.clip(1 - np.abs(at[:, None] - np.arange(image.shape[0])), 0, None).astype(np.float32)  # (s, s)
    rows = np.tensordot(share, image, axes=1)
    return np.ascontiguousarray(np.tensordot(share, rows, axes=((1,), (1,))).transpose(1, 0, 2))


def displaced(image: Image, by: npt.NDArray[np.float64]) -> Image:
    """Each pixel from elsewhere: ``by`` is (2, s, s), rows and columns in pixels."""
    at = np.indices(image.shape[:2]) + by
    return np.stack(
        [ndimage.map_coordinates(image[..., c], at, order=1, mode="mirror") for c in range(3)], axis=2
    ).astype(np.float32)


def brightened(image: Image, by: float) -> Image:
    """More of HSV's value, at the same hue and saturation; black becomes grey."""
    value = image.max(axis=2, keepdims=True)
    wanted = np.clip(value + np.float32(by), 0.0, 1.0)
    return np.asarray(np.where(value > 0, image * (wanted / np.maximum(value, 1e-6)), wanted))


def snowflakes(mean: float, deviation: float, flake: float, threshold: float, random: Random) -> Layer:
    """White spots some pixels wide on black, as they lie on an image of 224 × 224."""
    cells = math.ceil(SIDE / flake)
    layer = _stretched(random.normal(mean, deviation, (cells, cells)), SIDE)
    return np.where(layer < threshold, 0.0, np.clip(layer, 0.0, 1.0)).astype(np.float32)


def blown(flakes: Layer, radius: float, sigma: float, degrees: float) -> Layer:
    """The same in the wind."""
    return filtered(flakes[..., None], streak(radius, sigma, degrees))[..., 0]


def snowed(image: Image, falling: Layer, keep: float) -> Image:
    """An image, paler, with what falls in front of it, and the same turned round."""
    pale = np.maximum(image, (image @ _GREY)[..., None] * 1.5 + 0.5)
    layer = _sized(falling, image.shape[0])
    return np.asarray(keep * image + (1 - keep) * pale + (layer + layer[::-1, ::-1])[..., None])


def clouds(side: int, decay: float, random: Random) -> Layer:
    """Noise of every size, each half as wide as the one before and so many times weaker: (s, s), 0 to 1."""
    total = np.zeros((side, side))
    for octave in range(max(1, math.ceil(math.log2(side)))):
        cells = 2 ** (octave + 1) + 1
        total += _stretched(random.uniform(-1, 1, (cells, cells)), side) / decay**octave
    total -= total.min()
    return (total / max(float(total.max()), 1e-6)).astype(np.float32)


def ice(side: int, random: Random) -> Layer:
    """Crystals: the ridges between clouds, on a hoary ground; (s, s), 0 to 1."""
    ridges = 1 - np.abs(2 * clouds(side, 1.6, random) - 1)
    needles = 1 - np.abs(2 * clouds(side, 1.3, random) - 1)
    return np.asarray((0.2 + 0.5 * ridges**2 + 0.3 * needles**4).astype(np.float32))


def _blurred(image: Image, sigma: float) -> Image:
    blurred: Image = ndimage.gaussian_filter(image, (sigma, sigma, 0))
    return blurred


def _sized(layer: Layer, side: int) -> Layer:
    """A layer of 224 × 224 for an image of another size."""
    return _reduced(layer, side) if side < layer.shape[0] else _stretched(layer, side).astype(np.float32)


def _reduced(values: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
    """(n, n, …) → (side, side, …), each the mean of the area that it covers."""
    edges = np.linspace(0, values.shape[0], side + 1)
    starts = np.arange(values.shape[0])
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    share = (np.clip(overlap, 0, None) * side / values.shape[0]).astype(np.float32)  # (side, n), rows sum to 1
    return np.asarray(np.einsum("ai,bj,ij...->ab...", share, share, values, optimize=True))


def _stretched(grid: npt.NDArray[np.floating], side: int) -> npt.NDArray[np.float64]:
    """(n, n) → (side, side), linear between the points, of which the outer ones are at the edges."""
    at = np.linspace(0, grid.shape[0] - 1, side)
    low = np.minimum(at.astype(int), max(grid.shape[0] - 2, 0))
    share = (at - low)[:, None]
    rows = grid[low] * (1 - share) + grid[np.minimum(low + 1, grid.shape[0] - 1)] * share
    columns = rows[:, low] * (1 - share.T) + rows[:, np.minimum(low + 1, grid.shape[0] - 1)] * share.T
    return np.asarray(columns, dtype=np.float64)
