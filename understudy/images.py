"""Bytes → pixels → a model's input: the only preprocessing there is, for serving, labeling and evaluation.

The only door to Pillow. Strangers' bytes come in here, so every limit on them is here too. It does
not normalise: that is inside the exported graph.
"""

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from understudy.errors import ImageRefused
from understudy.records import Preprocessing

Pixels = npt.NDArray[np.uint8]  # (H, W, 3)
Picture = Image.Image  # decoded, mode RGB: for those who augment before they take the pixels

#: Pillow opens 43 formats by default, most of them rare and with a history of defects.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
#: 40 megapixels: above any phone's usual photo, and 160 MB of memory while it is being decoded.
MAX_PIXELS = 40_000_000
#: WebP's decoder holds four copies of an image, and 26 bytes can make it: the same memory, so fewer pixels.
MAX_WEBP_PIXELS = 13_000_000
#: No side may be longer; a 1 × 65,000 image is not a photo.
MAX_SIDE = 20_000
#: No side may be this many times the other: nothing of a 1 × 20,000 image is left when its middle is cut out.
MAX_ASPECT_RATIO = 100
#: Transparent pixels are shown on this grey level.
BACKGROUND = 255
#: A JPEG is decoded at 1/2, 1/4 or 1/8 of its size as long as that leaves this many times what is needed. With 2 a
#: photo of 12 megapixels takes a fifth of the time; 1.5 gains little more, for 3 times the difference (benchmarks/decode.md).
SPARE_RESOLUTION = 2
#: What that may change of a photo, in levels of 0 to 255 against timm's transform of all its pixels: on the mean, and
#: in any one place. Where nothing is decoded smaller, the difference is one level, by rounding.
MEAN_TOLERANCE = 1.75
MAX_TOLERANCE = 16
#: A bucket takes no image with a shorter side: a tracking pixel or a bullet from a web page, not a photo.
MIN_SIDE = 4
#: A fingerprint is of the lowest frequencies, this many in each direction: 32 bytes of signs, and a mean colour.
FINGERPRINT_FREQUENCIES = 16
#: Side of the grey picture that it is made of.
FINGERPRINT_SIDE = 32
#: A smaller image has too little detail to be told from others by it.
MIN_FINGERPRINT_IMAGE_SIDE = 16
#: Grey levels; what varies less has no structure to be known by, and every blank page would resemble every other.
MIN_DEVIATION = 2.0
#: Pixels converted at a time, so that transparency or 16 bits do not multiply the memory of a large image.
STRIP_PIXELS = 2**20

#: Of JPEG's 1 to 95: no fault to be seen at the size of a thumbnail.
THUMBNAIL_QUALITY = 85

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Pillow warns of many pixels, and of damaged metadata in words that a stranger chooses. Our limits are stricter, and
# filters are the process's: to change them around every call would be a race of threads.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class _Turn:
    """What makes a stored image upright, and at which ends of the stored sides the upright ones begin."""

    method: Image.Transpose
    begins_right: bool = False
    begins_below: bool = False


#: By EXIF's orientation; with any other, an image is upright as it is stored.
_TURNS = {
    2: _Turn(Image.Transpose.FLIP_LEFT_RIGHT, begins_right=True),
    3: _Turn(Image.Transpose.ROTATE_180, begins_right=True, begins_below=True),
    4: _Turn(Image.Transpose.FLIP_TOP_BOTTOM, begins_below=True),
    5: _Turn(Image.Transpose.TRANSPOSE),
    6: _Turn(Image.Transpose.ROTATE_270, begins_below=True),
    7: _Turn(Image.Transpose.TRANSVERSE, begins_right=True, begins_below=True),
    8: _Turn(Image.Transpose.ROTATE_90, begins_right=True),
}


#: Pillow opens these and cannot convert them; F;16 and the like it refuses by itself.
_UNSUPPORTED_MODES = frozenset({"LAB", "HSV"})

#: The first 16 rows of a discrete cosine transform over 32 values: (16, 32).
_COSINES = np.cos(
    np.pi * (2 * np.arange(FINGERPRINT_SIDE) + 1) * np.arange(FINGERPRINT_FREQUENCIES)[:, None] / (2 * FINGERPRINT_SIDE)
).astype(np.float32)
#: The 8 × 8 lowest frequencies come first, because fingerprints are looked up by them.
_LOWEST_FIRST = np.argsort(
    np.maximum.outer(np.arange(FINGERPRINT_FREQUENCIES), np.arange(FINGERPRINT_FREQUENCIES)).ravel() >= 8, kind="stable"
)


@dataclass(frozen=True)
class Facts:
    """What is known of an image without its pixels."""

    width: int
    height: int
    format: str  #: as in FORMATS


@dataclass(frozen=True)
class Examined:
    """What is known of an image after it was decoded whole."""

    facts: Facts
    is_animated: bool  #: of an animation the first frame counts
    fingerprint: bytes  #: as ``understudy.fingerprints`` compares them; empty for an image without structure


def examine(data: bytes) -> Examined:
    """Decode an image whole, so that nothing fails later, and keep what is worth knowing of it.

    Raises ImageRefused as ``decode`` does, and with the codes too_small and unsupported_mode.
    """
    with _open(data) as image:
        if min(image.size) < MIN_SIDE:
            raise ImageRefused(
                f"the image is {image.width} × {image.height}; each side must have {MIN_SIDE} pixels or more",
                code="too_small",
            )
        facts = _facts(image)
        with _refusing_damage(data):
            image.load()
            turn = _turn_of(image)
        if image.mode in _UNSUPPORTED_MODES:
            raise ImageRefused(
                f"the image's colours are of the kind {image.mode}; save it as RGB", code="unsupported_mode"
            )
        with _refusing_damage(data):
            fingerprint = _fingerprint(_to_rgb_or_grey(image), turn)
        return Examined(facts, _is_animated(image), fingerprint)


def _is_animated(image: Image.Image) -> bool:
    """Whether there are more frames than the one that counts."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame makes Pillow raise almost anything, and is not asked for
        return False


def _fingerprint(picture: Image.Image, turn: _Turn | None) -> bytes:
    """The signs of the lowest frequencies against their median, the lowest 8 × 8 first, and the mean colour."""
    if min(picture.size) < MIN_FINGERPRINT_IMAGE_SIDE:
        return b""
    size = (FINGERPRINT_SIDE, FINGERPRINT_SIDE)
    small = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0).convert("RGB")
    if turn:
        small = small.transpose(turn.method)
    grey = np.asarray(small.convert("L"), dtype=np.float32)  # (32, 32)
    if grey.std() < MIN_DEVIATION:
        return b""
    frequencies = (_COSINES @ grey @ _COSINES.T).ravel()[_LOWEST_FIRST]  # (256,)
    frequencies[0] = 0.0  # brightness says nothing
    signs = np.packbits(frequencies > np.median(frequencies[1:]))
    mean = np.asarray(small, dtype=np.float32).mean(axis=(0, 1)).astype(np.uint8)  # (3,)
    return bytes(signs.tobytes() + mean.tobytes())


def inspect(data: bytes) -> Facts:
    """Read the header only. Raises ImageRefused as ``decode`` does."""
    with _open(data) as image:
        return _facts(image)


def _facts(image: Image.Image) -> Facts:
    # Many phones append a preview or a depth map to a JPEG, and Pillow then calls it MPO.
    return Facts(image.width, image.height, "JPEG" if image.format == "MPO" else image.format or "")


def decode(data: bytes) -> Pixels:
    """Decode an image to pixels: (H, W, 3) uint8, RGB.

    EXIF orientation is applied, 16 bits are scaled to 8, transparency is laid on white, CMYK and
    palettes are converted; of an animation the first frame counts. Raises ImageRefused with the
    code empty, not_an_image, truncated, corrupt, too_many_pixels or bad_dimensions.
    """
    return np.asarray(open_rgb(data))


def open_rgb(data: bytes) -> Picture:
    """The same as a Pillow image in mode RGB, for augmentations that work on those."""
    with _open(data) as image, _refusing_damage(data):
        image.load()
        turn = _turn_of(image)
        picture = _to_rgb_or_grey(image)
        if turn:
            picture = picture.transpose(turn.method)
        # The copy lets go of the file and its decoder.
        return picture.copy() if picture is image and picture.mode == "RGB" else picture.convert("RGB")


def load(data: bytes, preprocessing: Preprocessing) -> Pixels:
    """Bytes to input in one step: (size, size, 3) uint8. Raises ImageRefused as ``decode`` does.

    This is ``prepare(decode(data), preprocessing)`` in the cheapest order: a large JPEG is decoded smaller, only
    what is kept is resized, and only that is turned upright. It is as near to it as the tolerances above say.
    """
    with _open(data) as image, _refusing_damage(data):
        stored = image.size
        side = SPARE_RESOLUTION * _shorter_side(preprocessing)
        drafted = image.draft(None, (side, side))  # changes a JPEG's size; None from every other format
        image.load()
        whole = _Whole(stored, drafted[1][2:]) if drafted else _Whole(image.size, image.size)
        turn = _turn_of(image)
        picture = _framed(_to_rgb_or_grey(image), whole, preprocessing, turn)
        if turn:
            picture = picture.transpose(turn.method)
        return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageRefused("the image is empty: 0 bytes", code="empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageRefused(f"not an image of a format that is taken ({', '.join(FORMATS)})") from error
    except Exception as error:  # as in _refusing_damage
        raise ImageRefused(f"the image's header is damaged: {error}", code=_fault(error, data)) from error
    width, height = image.size
    most = MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS
    if width * height > most:
        raise ImageRefused(
            f"the image is {width} × {height} = {width * height:,} pixels; of {image.format}, at most {most:,} are taken",
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


def _fault(error: Exception, data: bytes) -> str:
    if data.startswith(b"RIFF") and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        return "truncated"  # WebP's decoder gives no reason
    return "truncated" if "truncat" in str(error).lower() or isinstance(error, EOFError) else "corrupt"


@contextmanager
def _refusing_damage(data: bytes) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise ImageRefused("the image needs more memory than there is", code="too_many_pixels") from error
    except Exception as error:  # damaged bytes make Pillow's decoders raise almost anything, TypeError too
        raise ImageRefused(f"the image breaks off or is damaged: {error}", code=_fault(error, data)) from error


def _turn_of(image: Image.Image) -> _Turn | None:
    """The turn of a loaded image (Pillow has turned a TIFF by then); None if it is upright, or nobody can know."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata makes Pillow raise almost anything too, and is no reason to refuse a photo
        return None


def _to_rgb_or_grey(image: Image.Image) -> Image.Image:
    """In mode RGB or L: grey may stay what it is until it has been resized."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        return _in_strips(image, "L", _to_8_bits)
    if image.mode == "F":
        is_unit = max(_finite(strip).max() for strip in _strips(image)) <= 1.0
        return _in_strips(image, "L", lambda strip: _to_8_bits(strip, 65535.0 if is_unit else 1.0))
    if image.has_transparency_data:
        return _in_strips(image, "RGB", _on_background)
    if image.mode in ("RGB", "L"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    """An image from top to bottom, STRIP_PIXELS at a time."""
    height = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, height):
        yield image.crop((0, top, image.width, min(top + height, image.height)))


def _in_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    converted = Image.new(mode, image.size)
    top = 0
    for strip in _strips(image):
        converted.paste(convert(strip), (0, top))
        top += strip.height
    return converted


def _on_background(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    background = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
    return Image.alpha_composite(background, image).convert("RGB")


def _to_8_bits(image: Image.Image, scale: float = 1.0) -> Image.Image:
    """Scale grey from 16 bits, or from 1 / ``scale`` of them, to 8 (Pillow's own convert saturates at 255)."""
    values = _finite(image) * (scale / 257.0) + 0.5
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8), "L")


def _finite(image: Image.Image) -> npt.NDArray[np.float64]:
    values = np.asarray(image)
    return np.nan_to_num(values.astype(np.float64)) if image.mode == "F" else values.astype(np.float64)


def prepare(pixels: Pixels | Picture, preprocessing: Preprocessing) -> Pixels:
    """Make pixels a model's input: (size, size, 3) uint8, as :class:`Preprocessing` says, rounding where timm does."""
    return np.asarray(frame(Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels, preprocessing))


def frame(image: Picture, preprocessing: Preprocessing) -> Picture:
    """The same, still a picture of size × size: what a student's noise begins with."""
    return _framed(image, _Whole(image.size, image.size), preprocessing)


@dataclass(frozen=True)
class _Whole:
    """An image's size, and what of a picture decoded from it that is: with 1/8 of 99 pixels, 12 3/8 of 13."""

    size: tuple[int, int]
    extent: tuple[float, float]


def _framed(image: Image.Image, whole: _Whole, preprocessing: Preprocessing, turn: _Turn | None = None) -> Image.Image:
    """The middle, size × size, in the orientation in which it is stored.

    It is resized with the box that is kept, which equals resizing all and cutting then, at a part of the cost.
    """
    size = preprocessing.size
    width, height = (_shorter_side(preprocessing) * side // min(whole.size) for side in whole.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if turn and turn.begins_right:
        left = width - size - left
    if turn and turn.begins_below:
        top = height - size - top
    if (width, height) == image.size:
        return image.crop((left, top, left + size, top + size))
    x, y = whole.extent[0] / width, whole.extent[1] / height  # pixels of the image to one of the input
    box = (left * x, top * y, min((left + size) * x, image.width), min((top + size) * y, image.height))
    return _resized(image, size, box, RESAMPLING[preprocessing.interpolation])


def _resized(
    image: Image.Image, size: int, box: tuple[float, float, float, float], resampling: Image.Resampling
) -> Image.Image:
    """The box as size × size. Rows first, then columns, as when all of a photo is resized.

    With a box Pillow begins with the columns of what is higher than wide, and on sharp edges, where bicubic
    overshoots, the first of the two passes clips: that would cost up to 14 levels.
    """
    if image.height <= image.width:
        return image.resize((size, size), resampling, box)
    left, top, right, bottom = box
    reach = 1 + math.ceil(2 * max(1.0, (bottom - top) / size))  # how far bicubic looks beyond the box
    first, last = max(0, math.floor(top) - reach), min(image.height, math.ceil(bottom) + reach)
    rows = image.crop((0, first, image.width, last))
    narrow = rows.resize((size, rows.height), resampling, (left, 0, right, rows.height))
    return narrow.resize((size, size), resampling, (0, top - first, size, bottom - first))


def _shorter_side(preprocessing: Preprocessing) -> int:
    """What the shorter side of an image becomes, before the middle is cut out."""
    return math.floor(preprocessing.size / preprocessing.crop_fraction)


def thumbnail(data: bytes, size: int) -> bytes:
    """An encoded image as a small JPEG, upright, its longer side at most ``size``. Raises ImageRefused as ``decode`` does."""
    with _open(data) as image, _refusing_damage(data):
        image.draft(None, (SPARE_RESOLUTION * size, SPARE_RESOLUTION * size))
        image.load()
        turn = _turn_of(image)
        picture = _to_rgb_or_grey(image)
        picture.thumbnail((size, size))
        if turn:
            picture = picture.transpose(turn.method)
        file = io.BytesIO()
        picture.convert("RGB").save(file, "JPEG", quality=THUMBNAIL_QUALITY)
        return file.getvalue()


def show_what_breaks_off() -> None:
    """Decode what breaks off as far as it goes, in this whole process from now on: for one that only shows images."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Pixels, (H, W, 3) or grey (H, W) uint8, as a PNG file: nothing is lost."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def recompressed(pixels: Pixels, quality: int) -> Pixels:
    """What is left of pixels, (H, W, 3) uint8, after they were a JPEG of that quality, 1 to 95."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file, formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"))
