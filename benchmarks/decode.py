"""How fast an image becomes a model's input, against the plain way with Pillow: ``python benchmarks/decode.py``.

The plain way opens, decodes all, turns, converts, resizes all and cuts. Both take turns, round by round, so that
what else the machine does hits both; the medians and their ratios are what counts. Results: benchmarks/decode.md.
"""

import argparse
import io
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from understudy import images
from understudy.records import Preprocessing

#: EfficientNet-B0's, as timm evaluates it.
PREPROCESSING = Preprocessing(size=224, crop_fraction=0.875, interpolation="bicubic")
THREADS = (1, 2)

Load = Callable[[bytes, Preprocessing], images.Pixels]


def plain(data: bytes, preprocessing: Preprocessing) -> images.Pixels:
    """The same by Pillow alone, in the order in which a training script would write it."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    size, shorter = preprocessing.size, math.floor(preprocessing.size / preprocessing.crop_fraction)
    width, height = (shorter * side // min(image.size) for side in image.size)
    image = image.resize((width, height), images.RESAMPLING[preprocessing.interpolation])
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def photo(width: int, height: int, image_format: str, orientation: int = 1) -> bytes:
    """A photo of any size, tiled from scikit-learn's two, so that every part of it is as sharp as a photo can be."""
    parts = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    whole = Image.new("RGB", (width, height))
    for i, (left, top) in enumerate((x, y) for y in range(0, height, 427) for x in range(0, width, 640)):
        whole.paste(parts[i % 2], (left, top))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    whole.save(file, image_format, quality=90, exif=exif)
    return file.getvalue()


def rate(load: Load, data: bytes, pool: ThreadPoolExecutor, count: int) -> float:
    """Images a second."""
    began = time.perf_counter()
    list(pool.map(lambda _: load(data, PREPROCESSING), range(count)))
    return count / (time.perf_counter() - began)


def measure(data: bytes, rounds: int, seconds: float) -> list[list[float]]:
    """Median rates, one and two threads, of the plain way and of ours: [[plain, ours], [plain, ours]]."""
    loads: Sequence[Load] = (plain, images.load)
    taken: list[list[list[float]]] = [[[] for _ in loads] for _ in THREADS]
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        counts = [max(4, round(seconds * rate(load, data, one, 2))) for load in loads]
        for _ in range(rounds):
            for of_threads, pool in zip(taken, (one, two), strict=True):
                for rates, load, count in zip(of_threads, loads, counts, strict=True):
                    rates.append(rate(load, data, pool, count))
    return [[statistics.median(rates) for rates in of_threads] for of_threads in taken]


def processor() -> str:
    """Its name where Linux says it."""
    cpuinfo = Path("/proc/cpuinfo")
    named = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return named[0].split(":")[1].strip() if named else platform.processor()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured; the median counts")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long one measurement takes, about")
    asked = parser.parse_args()
    photos = {
        "JPEG 500 × 375": photo(500, 375, "JPEG"),
        "JPEG 4000 × 3000": photo(4000, 3000, "JPEG"),
        "JPEG 4000 × 3000, to be turned": photo(4000, 3000, "JPEG", orientation=6),
        "PNG 500 × 375": photo(500, 375, "PNG"),
        "PNG 4000 × 3000": photo(4000, 3000, "PNG"),
    }
    table = Table(title=f"images/s at {PREPROCESSING.size} px; medians of {asked.rounds}")
    for heading in ("photo", "plain, 1 thread", "ours", "ratio", "plain, 2 threads", "ours", "ratio", "ours 2 : 1"):
        table.add_column(heading, justify="left" if heading == "photo" else "right")
    for name, data in photos.items():
        (plain_1, ours_1), (plain_2, ours_2) = measure(data, asked.rounds, asked.seconds)
        rates = (plain_1, ours_1, ours_1 / plain_1, plain_2, ours_2, ours_2 / plain_2, ours_2 / ours_1)
        table.add_row(name, *(f"{r:.2f}" if i in (2, 5, 6) else f"{r:.1f}" for i, r in enumerate(rates)))
    console = Console(width=120)
    console.print(
        f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}; Pillow {PIL.__version__}"
    )
    console.print(table)


if __name__ == "__main__":
    main()
