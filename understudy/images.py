"""Bytes → pixels → a model's input: the only preprocessing there is, for serving, labeling and evaluation.

The only door to Pillow. Strangers' bytes come in here, so every limit on them is here too. It does
not normalise: that is inside the exported graph.
"""

import io
import math
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from understudy.errors import ImageRefused
from understudy.records import Preprocessing

Pixels = npt.NDArray[np.uint8]  # (H, W, 3)
Picture = Image.Image  # decoded, mode RGB: for those who augment before they take the pixels

#: Pillow opens 43 formats by default, most of them rare and with a history of defects.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
#: 40 megapixels: above any phone's usual photo, and 160 MB of memory while it is being decoded.
MAX_PIXELS = 40_000_000
#: No side may be longer; a 1 × 65,000 image is not a photo.
MAX_SIDE = 20_000
#: No side may be this many times the other. Resized to a model's input, a 1 × 20,000 image would take 5 GB.
MAX_ASPECT_RATIO = 100
#: Transparent pixels are shown on this grey level.
BACKGROUND = 255

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Facts:
    """What is known of an image without its pixels."""

    width: int
    height: int
    format: str  #: as in FORMATS


def inspect(data: bytes) -> Facts:
    """Read the header only. Raises ImageRefused as ``decode`` does."""
    with _open(data) as image:
        # Many phones append a preview or a depth map to a JPEG, and Pillow then calls it MPO.
        return Facts(image.width, image.height, "JPEG" if image.format == "MPO" else image.format or "")


def decode(data: bytes) -> Pixels:
    """Decode an image to pixels: (H, W, 3) uint8, RGB.

    EXIF orientation is applied, 16 bits are scaled to 8, transparency is laid on white, CMYK and
    palettes are converted; of an animation the first frame counts. Raises ImageRefused with the
    code empty, not_an_image, truncated, corrupt, too_many_pixels or bad_dimensions.
    """
    return np.asarray(open_rgb(data))


def open_rgb(data: bytes) -> Image.Image:
    """The same as a Pillow image in mode RGB, for augmentations that work on those."""
    with _open(data) as image:
        try:
            image.load()
            turned = ImageOps.exif_transpose(image)
            return _to_rgb(turned)
        except MemoryError as error:
            raise ImageRefused("the image needs more memory than there is", code="too_many_pixels") from error
        except Exception as error:  # damaged bytes make Pillow's decoders raise almost anything, TypeError too
            raise ImageRefused(f"the image breaks off or is damaged: {error}", code=_fault(error)) from error


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageRefused("the image is empty: 0 bytes", code="empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limits below are ours, and stricter
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageRefused(f"the image has too many pixels: {error}", code="too_many_pixels") from error
    except UnidentifiedImageError as error:
        raise ImageRefused(f"not an image of a format that is taken ({', '.join(FORMATS)})") from error
    except Exception as error:  # as in open_rgb
        raise ImageRefused(f"the image's header is damaged: {error}", code=_fault(error)) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageRefused(
            f"the image is {width} × {height} = {width * height:,} pixels; at most {MAX_PIXELS:,} are taken",
            code="too_many_pixels",
        )
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ImageRefused(
            f"the image is {width} × {height}; each side must have 1 to {MAX_SIDE:,} pixels", code="bad_dimensions"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ImageRefused(
            f"the image is {width} × {height}; no side may be more than {MAX_ASPECT_RATIO} times the other",
            code="bad_dimensions",
        )
    return image


def _fault(error: Exception) -> str:
    return "truncated" if "truncat" in str(error).lower() or isinstance(error, EOFError) else "corrupt"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        image = _to_8_bits(image)
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits (Pillow's own convert saturates at 255)."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    if image.mode == "F" and values.max(initial=0.0) <= 1.0:
        values = values * 65535.0
    return Image.fromarray(np.clip(values / 257.0 + 0.5, 0, 255).astype(np.uint8), "L")


def prepare(pixels: Pixels | Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Make pixels a model's input: (size, size, 3) uint8, as :class:`Preprocessing` says, rounding where timm does."""
    return np.asarray(frame(Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels, preprocessing))


def frame(image: Picture, preprocessing: Preprocessing) -> Picture:
    """The same, still a picture of size × size: what a student's noise begins with."""
    size = preprocessing.size
    shorter = math.floor(size / preprocessing.crop_fraction)
    width, height = (shorter * side // min(image.size) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), RESAMPLING[preprocessing.interpolation])
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Pixels, (H, W, 3) or grey (H, W) uint8, as a PNG file: nothing is lost."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def load(data: bytes, preprocessing: Preprocessing) -> Pixels:
    """Bytes to input in one step: (size, size, 3) uint8. Raises ImageRefused."""
    return prepare(open_rgb(data), preprocessing)
