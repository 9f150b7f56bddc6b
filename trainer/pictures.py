"""Contact sheets of what a student sees: of one run's first batch, and of every operation at several magnitudes.

``python -m trainer.pictures FOLDER --scale official --out noise.jpg`` makes the second kind of your own images.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainer.data import Batches
from trainer.noise import Noise
from understudy import images, recipes
from understudy.images import Picture, Pixels

#: Smaller pictures are enlarged to at least this side, pixel by pixel; larger ones are made smaller.
SIDE = 64
#: Room for a line of text.
LINE = 14
#: Of JPEG's 1 to 95: a sheet of a thousand pixels each way stays under 200 kB.
QUALITY = 50
#: Images of each kind on the sheet of a run.
NUM_EACH = 8
#: The magnitudes of the sheets in docs/noise.md: each scale's neutral or weak end, its middle and the paper's.
MAGNITUDES = {"increasing": (0.0, 2.0, 5.0, 10.0), "official": (5.0, 10.0, 15.0, 27.0)}


def sheet(
    pixels: Sequence[Pixels],
    columns: int,
    *,
    captions: Sequence[str] = (),
    titles: Sequence[str] = (),
    side: int = SIDE,
) -> bytes:
    """Pictures, each (H, W, 3) uint8, as one JPEG: row after row, with a line of text above each and a title at the left of each row.

    There may be no captions and no titles; else one for each picture, and one for each row.
    """
    font = ImageFont.load_default(10)
    indent = max((round(font.getlength(title)) + 6 for title in titles), default=0)
    height = side + (LINE if captions else 2)
    num_rows = -(-len(pixels) // columns)
    drawn = Image.new("RGB", (indent + columns * (side + 2), num_rows * height), (255, 255, 255))
    pen = ImageDraw.Draw(drawn)
    for number, title in enumerate(titles):
        pen.text((2, number * height + height // 2 - 4), title, (0, 0, 0), font)
    for number, one in enumerate(pixels):
        row, column = divmod(number, columns)
        left, top = indent + column * (side + 2), row * height
        if captions:
            pen.text((left + 1, top), captions[number][: side // 5], (0, 0, 0), font)
        drawn.paste(_at_side(one, side), (left, top + height - side))
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()


def _at_side(pixels: Pixels, side: int) -> Picture:
    is_small = max(pixels.shape[:2]) < side
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST if is_small else Image.Resampling.BOX)


def of_student(batches: Batches, classes: Sequence[str]) -> bytes:
    """The first images of a run as its student sees them: labeled ones above, pseudo-labeled ones below, each with its class."""
    batch = batches.at(0)
    kinds = (slice(0, batch.num_labeled), slice(batch.num_labeled, None))
    columns = min(NUM_EACH, batch.num_labeled)
    rows = [np.arange(len(batch.pixels))[kind][:columns] for kind in kinds]
    shown = np.concatenate(rows)
    names = [classes[int(batch.targets[i].argmax())] for i in shown]
    titles = ("labeled", "pseudo-labeled")[: sum(len(row) > 0 for row in rows)]
    return sheet([batch.pixels[i] for i in shown], columns, captions=names, titles=titles)


def of_operations(pictures: Sequence[Picture], scale: str, magnitudes: Sequence[float], size: int) -> bytes:
    """Every operation of a scale, a row each: each picture as it is, then at each magnitude."""
    noises = [_noise(scale, magnitude, size) for magnitude in magnitudes]
    framed = [images.frame(picture, noises[0].recipe.preprocessing) for picture in pictures]
    headings = [text for _ in pictures for text in ("as it is", *(f"m = {m:g}" for m in magnitudes))]
    names = list(noises[0].operations)
    cells = [
        np.asarray(changed)
        for name in names
        for picture in framed
        for changed in (picture, *(noise.operate(name, picture, Random(name)) for noise in noises))
    ]
    captions = headings + [""] * (len(cells) - len(headings))
    return sheet(cells, len(headings), captions=captions, titles=[name.removesuffix("Rel") for name in names])


def _noise(scale: str, magnitude: float, size: int) -> Noise:
    return Noise(recipes.recipe("small", {"augment_scale": scale, "augment_magnitude": magnitude, "size": size}))


def main() -> None:
    """Make the sheet of operations of some images of a folder."""
    parser = argparse.ArgumentParser(prog="python -m trainer.pictures", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="with images, in folders or not")
    parser.add_argument("--scale", choices=list(MAGNITUDES), default="increasing", help="of RandAugment's magnitudes")
    parser.add_argument("--magnitudes", type=float, nargs="+", help="columns of each image")
    parser.add_argument("--images", type=int, default=3, help="how many, from all over the folder")
    parser.add_argument("--size", type=int, default=224, help="side of the input, on which shifts and cutout depend")
    parser.add_argument("--out", type=Path, required=True, help="the JPEG to write")
    asked = parser.parse_args()
    paths = sorted(
        path for path in asked.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    )
    if not paths:
        parser.error(f"{asked.folder} holds no image (.jpg, .png, .webp)")
    chosen = [paths[i * len(paths) // asked.images] for i in range(min(asked.images, len(paths)))]
    pictures = [images.open_rgb(path.read_bytes()) for path in chosen]
    made = of_operations(pictures, asked.scale, asked.magnitudes or MAGNITUDES[asked.scale], asked.size)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_bytes(made)
    print(f"{asked.out}: {len(made) / 1000:.0f} kB, {', '.join(path.name for path in chosen)}")


if __name__ == "__main__":
    main()
