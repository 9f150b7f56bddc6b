"""Short films of an image that hardly changes, and how often a model changes its mind (in the manner of ImageNet-P).

Ten perturbations with the constants of the benchmark's code (Hendrycks & Dietterich 2019, ImageNet-P/create_p),
lengths scaled with the side as for the corruptions. Two things differ: an image is moved after it was cut to
the model's input, not before, so what comes in at an edge is its mirror image; and nothing is compressed as a video.

The probability of a flip is the share of frames whose answer is not that of the frame before; under noise, where
no frame follows from the one before, not that of the first frame. A model that is wrong all the time flips never.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy import ndimage

from trainer.evaluate import BATCH
from trainer.robustness.corruptions import (
    Image,
    Random,
    blown,
    brightened,
    filtered,
    generator,
    scale_of,
    snowed,
    snowflakes,
    streak,
    to_pixels,
    zoomed,
)
from trainer.robustness.measures import Answers, Show
from trainer.robustness.sample import Sample
from understudy import images
from understudy.engine import Engine, predict_all
from understudy.images import Pixels

#: Frames of a film, the first included; of ``translate`` there are more.
NUM_FRAMES, NUM_TRANSLATE_FRAMES = 31, 41
#: Under these every frame is compared with the first.
NOISES = ("gaussian_noise", "shot_noise")

Frames = Iterator[Image]


def film(pixels: Pixels, perturbation: str, seed: str) -> list[Pixels]:
    """The frames of one film of a model's input, (s, s, 3) uint8; ``seed`` is the image's sha-256."""
    image = pixels.astype(np.float32) / 255.0
    frames = PERTURBATIONS[perturbation](image, generator(f"{seed}/{perturbation}"))
    return [to_pixels(frame) for frame in frames]


def gaussian_noise(image: Image, random: Random) -> Frames:
    yield image
    for _ in range(NUM_FRAMES - 1):
        yield image + random.normal(0.0, 0.03, image.shape).astype(np.float32)


def shot_noise(image: Image, random: Random) -> Frames:
    yield image
    for _ in range(NUM_FRAMES - 1):
        yield (random.poisson(image * 300) / 300).astype(np.float32)


def motion_blur(image: Image, random: Random) -> Frames:
    scale = scale_of(image)
    for i in range(NUM_FRAMES):
        yield filtered(image, streak(10 * scale, 3 * scale, 4.0 * (i - 30)))


def zoom_blur(image: Image, random: Random) -> Frames:
    total = np.zeros_like(image)
    for i in range(NUM_FRAMES):
        total += zoomed(image, 1 + 0.004 * i)
        yield total / np.float32(i + 1)


def snow(image: Image, random: Random) -> Frames:
    flakes = snowflakes(0.05, 0.3, 3, 0.5, random)
    for i in range(NUM_FRAMES):
        yield snowed(image, blown(flakes, 14, 4, 4.0 * i - 150), 0.85)


def brightness(image: Image, random: Random) -> Frames:
    for i in range(NUM_FRAMES):
        yield brightened(image, 0.02 * (i - 15))


def translate(image: Image, random: Random) -> Frames:
    for i in range(NUM_TRANSLATE_FRAMES):
        yield _seen(image, np.array([[1, 0, 0], [0, 1, (20 - i) * scale_of(image)], [0, 0, 1]]))


def rotate(image: Image, random: Random) -> Frames:
    for i in range(NUM_FRAMES):
        angle = math.radians(i - 15)
        cos, sin = math.cos(angle), math.sin(angle)
        yield _seen(image, np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]))


def tilt(image: Image, random: Random) -> Frames:
    """The picture as a plate, turned about both its axes; the eye is a diagonal away."""
    far = math.hypot(*image.shape[:2])
    for i in range(NUM_FRAMES):
        angle = math.radians(i - 15)
        cos, sin = math.cos(angle), math.sin(angle)
        # Row and column of the plate to where they are seen; the third row is how far away they are.
        seen = np.array([[cos, -(sin**2), 0], [0, cos, 0], [sin / far, sin * cos / far, 1]])
        yield _seen(image, np.linalg.inv(seen))


def scale(image: Image, random: Random) -> Frames:
    for i in range(NUM_FRAMES):
        yield zoomed(image, 0.4 + 0.025 * i)


PERTURBATIONS: dict[str, Callable[[Image, Random], Frames]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "brightness": brightness,
    "translate": translate,
    "rotate": rotate,
    "tilt": tilt,
    "scale": scale,
}


def _seen(image: Image, back: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Image:
    """An image through a projection: ``back`` is 3 × 3, from what is seen to the image, about its middle."""
    middle = (image.shape[0] - 1) / 2
    rows, columns = np.indices(image.shape[:2]) - middle
    row, column, depth = np.tensordot(back, np.stack([rows, columns, np.ones_like(rows)]), axes=1)
    at = np.stack([row / depth, column / depth]) + middle
    channels = [ndimage.map_coordinates(image[..., c], at, order=1, mode="mirror") for c in range(3)]
    return np.stack(channels, axis=2).astype(np.float32)


# -- flips --------------------------------------------------------------------------------------------


def flip_probability(answers: Answers, *, is_noise: bool) -> float:
    """How often an answer flips: (films, frames) int → 0 to 1."""
    before = answers[:, :1] if is_noise else answers[:, :-1]
    return float((answers[:, 1:] != before).mean())


def measure(engine: Engine, sample: Sample, show: Show) -> dict[str, float]:
    """The probability of a flip under each perturbation; ``show`` is told (images done, images in all)."""
    answers: dict[str, list[list[int]]] = {name: [] for name in PERTURBATIONS}
    for done, (photo, data) in enumerate(sample, 1):
        pixels = images.load(data, engine.card.preprocessing)
        for name in PERTURBATIONS:
            rows = predict_all(engine, film(pixels, name, photo.sha256), batch=BATCH)
            answers[name].append([int(row.argmax()) for row in rows])
        show(done, len(sample))
    return {name: flip_probability(np.array(every), is_noise=name in NOISES) for name, every in answers.items()}
