"""Bytes to pixels: golden conversions, every way in which an image can be broken, and timm's geometry."""

import io
import json
import re
import struct
import subprocess
import sys
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps, PngImagePlugin
from sklearn.datasets import load_sample_images

from understudy import images
from understudy.errors import ImageRefused
from understudy.images import FORMATS, MAX_PIXELS, MAX_TOLERANCE, MEAN_TOLERANCE
from understudy.records import Preprocessing

#: More photos, for development, beside the repository; absent elsewhere.
PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "clothing-photos" / "test.tar"
NUM_PHOTOS = 24

#: As the product runs: the test runner turns Pillow's warnings, which images.py silences, into errors.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def gradient(width: int = 64, height: int = 48):
    """A picture with no symmetry, smooth enough for JPEG: (H, W, 3) uint8."""
    row, column = np.mgrid[0:height, 0:width]
    channels = (255 * column / width, 255 * row / height, 128 + 60 * np.sin((row + 2 * column) / 20))
    return np.stack(channels, axis=-1).astype(np.uint8)


def encoded(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, bits: int = 1, colour: int = 0) -> bytes:
    """The beginning of a PNG of any size, without its pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)


def whole_png(width: int, height: int) -> bytes:
    """A black 1-bit PNG of any size, a few kilobytes small."""
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    return png_header(width, height) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    """A small JPEG whose header says that it is large."""
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def refusal_of(data: bytes, read=images.decode) -> str:
    """The code with which an image is refused."""
    with pytest.raises(ImageRefused) as refusal:
        read(data)
    return refusal.value.code


# -- what is refused ------------------------------------------------------------------------------


def test_nothing_is_empty():
    """B1: zero bytes are refused as empty, by the header's reader too."""
    assert refusal_of(b"") == refusal_of(b"", images.inspect) == "empty"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(np.random.default_rng(0).bytes(4096), id="random"),
        pytest.param(b"hello, this is no photo\n" * 100, id="text"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", id="svg"),
        pytest.param(b"<!doctype html><title>cat.png</title>", id="html"),
        pytest.param(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", id="pdf"),
        pytest.param(b"\xff\xd8\xff", id="three bytes of a JPEG"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="a PNG's signature alone"),
    ],
)
def test_what_is_no_image_is_refused(data):
    """B2, B15: what no decoder knows is not an image."""
    assert refusal_of(data) == refusal_of(data, images.inspect) == "not_an_image"


@pytest.mark.parametrize("image_format", ["PPM", "TGA", "ICO", "EPS", "PCX", "SGI", "JPEG2000", "PDF", "AVIF"])
def test_formats_outside_the_list_never_reach_a_decoder(image_format):
    """B13, B14: Pillow could open or make these; we take six formats."""
    data = encoded(Image.fromarray(gradient(32, 32)), image_format)

    assert refusal_of(data) == "not_an_image"


#: A picture in each format, so long that its middle is in the pixels; and how many bytes its header has.
WHOLE = {
    f: encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), f)
    for f in FORMATS
}
HEADERS = {"JPEG": 20, "PNG": 33, "WEBP": 20, "GIF": 13, "BMP": 54, "TIFF": 8}


def claiming(image_format: str, width: int, height: int) -> bytes:
    """A picture of 8 × 8 whose header says that it has another size."""
    data = bytearray(
        encoded(Image.new("RGB", (8, 8)), image_format, **({"lossless": True} if image_format == "WEBP" else {}))
    )
    if image_format == "JPEG":
        return jpeg_claiming(width, height)
    if image_format == "PNG":
        return png_header(width, height, 8, 2) + bytes(data[33:])
    if image_format == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    if image_format == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    if image_format == "WEBP":  # 14 bits each, less one
        data[21:25] = struct.pack("<I", (width - 1) % 2**14 | (height - 1) % 2**14 << 14)
    if image_format == "TIFF":
        for tag, value in ((256, width), (257, height)):
            at = re.search(struct.pack("<H", tag) + rb"[\x03\x04]\0\x01\0\0\0", data).start()
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, value)
    return bytes(data)


def broken() -> list[tuple[str, str, bytes, str]]:
    """Every format broken in every way: the format, the way, the bytes, the code."""
    rows = []
    for f, data in WHOLE.items():
        rows += [(f, f"cut at {share} %", data[: len(data) * share // 100], "truncated") for share in (25, 50, 90)]
        header_only = {"WEBP": "truncated", "BMP": "truncated"}.get(f, "not_an_image")
        rows += [
            (f, "empty", b"", "empty"),
            (f, "header only", data[: HEADERS[f]], header_only),
            (f, "wrong magic", bytes(byte ^ 0xFF for byte in data[:4]) + data[4:], "not_an_image"),
            (f, "a bomb", claiming(f, 16_383, 16_383), "too_many_pixels"),
            (f, "extreme aspect", claiming(f, 16_000, 4), "bad_dimensions"),
        ]
        if f not in ("WEBP", "GIF"):  # WebP cannot say 0; a GIF's size is that of its first frame at least
            rows += [(f, f"{w} × {h}", claiming(f, w, h), "not_an_image") for w, h in ((0, 8), (8, 0))]
    rows += [
        ("GIF", "0 × 8", b"GIF89a" + struct.pack("<HH", 0, 8) + bytes(3) + b"," + struct.pack("<HHHH", 0, 0, 0, 8) + b"\0\2\2D\1\0;", "not_an_image"),
        ("WEBP", "no frame", b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(10), "corrupt"),
        # Below the limits, so a decoder sees them.
        ("PNG", "a small bomb", claiming("PNG", 6_300, 6_300), "truncated"),
        ("BMP", "a small bomb", claiming("BMP", 6_300, 6_300), "truncated"),
        ("TIFF", "a small bomb", claiming("TIFF", 6_300, 6_300), "truncated"),
        ("WEBP", "a small bomb", claiming("WEBP", 6_300, 6_300), "too_many_pixels"),
        ("PNG", "a header's bad checksum", WHOLE["PNG"][:30] + b"?" + WHOLE["PNG"][31:], "not_an_image"),
        ("PNG", "a profile that is a bomb", with_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(100 * 2**20), 9)), "corrupt"),
        ("PNG", "a text that is a bomb", with_chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(100 * 2**20), 9)), "corrupt"),
        ("JPEG", "12 bits", WHOLE["JPEG"].replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "not_an_image"),
        ("JPEG", "said to be progressive", WHOLE["JPEG"].replace(b"\xff\xc0", b"\xff\xc2", 1), "corrupt"),
        ("JPEG", "said to be lossless", WHOLE["JPEG"].replace(b"\xff\xc0", b"\xff\xc3", 1), "corrupt"),
    ]  # fmt: skip
    return rows


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk before its pixels."""
    png = WHOLE["PNG"]
    return png[:33] + chunk(kind, data) + png[33:]


BROKEN = [pytest.param(data, code, id=f"{f}, {way}") for f, way, data, code in broken()]


@pytest.mark.parametrize(("data", "code"), BROKEN)
def test_every_broken_image_is_refused_with_its_code(data, code):
    """B1-B9: a format broken in one way has one answer, at ingest as in serving; never half a picture."""
    assert refusal_of(data) == refusal_of(data, lambda sent: images.load(sent, Preprocessing(size=32))) == code


#: Runs in a process of its own: decodes each file given, and prints what that took at most.
TAKE = """
import json, sys, time
from pathlib import Path
from understudy import images
from understudy.errors import ImageRefused
from understudy.records import Preprocessing

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

def seconds(data):
    began = time.process_time()
    try:
        images.load(data, Preprocessing(size=224))
    except ImageRefused:
        pass
    return time.process_time() - began

files = [Path(name) for name in sys.argv[1:]]
seconds(files[0].read_bytes())
before = peak()
slowest = max((seconds(file.read_bytes()), file.name) for file in files)
print(json.dumps({"slowest": slowest, "megabytes": (peak() - before) / 1024}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux")
def test_no_broken_image_takes_a_second_or_220_megabytes(tmp_path):
    """B5-B9, B12: bombs, cut files and animations cost a bounded time and memory, all of them together."""
    samples = [data for _, _, data, _ in broken()] + [whole_png(5_000, 8_000), jpeg_claiming(6_300, 6_300)]
    samples += [claiming("WEBP", 3_600, 3_600), claiming("GIF", 6_300, 6_300), long_gif()]
    files = [tmp_path / f"{i:03}" for i in range(len(samples))]
    for file, data in zip(files, samples, strict=True):
        file.write_bytes(data)

    done = subprocess.run([sys.executable, "-c", TAKE, *files], capture_output=True, text=True, timeout=120, check=True)

    took = json.loads(done.stdout)
    assert took["slowest"][0] < 1.0, f"sample {took['slowest'][1]} took {took['slowest'][0]:.2f} s"
    assert took["megabytes"] < 220


def long_gif() -> bytes:
    """300 frames of 2000 × 2000."""
    two = encoded(
        Image.new("L", (2000, 2000)), "GIF", save_all=True, append_images=[Image.new("L", (2000, 2000), 9)], loop=0
    )
    second = two.rindex(b"!\xf9\x04")
    return two[:second] + 299 * two[second:-1] + b";"


def test_a_bad_checksum_is_corrupt():
    """B4: a PNG whose pixels were changed on the way is refused."""
    data = bytearray(encoded(Image.fromarray(gradient())))
    data[data.index(b"IDAT") + 40] ^= 0xFF

    assert refusal_of(bytes(data)) == "corrupt"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(whole_png(20_000, 20_000), id="B5 400 megapixels"),
        pytest.param(whole_png(13_000, 6_000), id="B6 78 megapixels"),
        pytest.param(jpeg_claiming(9_000, 9_000), id="B7 631 bytes that claim 81 megapixels"),
        pytest.param(png_header(2**31 - 1, 2**31 - 1) + chunk(b"IEND", b""), id="a header alone"),
        pytest.param(whole_png(MAX_PIXELS // 8_000 + 1, 8_000), id="just over the limit"),
    ],
)
def test_too_many_pixels_are_refused_by_the_header(data):
    """B5-B7: a bomb is known by its header; no pixel of it is ever decoded."""
    assert refusal_of(data) == refusal_of(data, images.inspect) == "too_many_pixels"


@pytest.mark.parametrize(("width", "height"), [(1, 65_000), (65_000, 1), (20_001, 400), (1, 20_000), (20_000, 2)])
def test_sides_that_no_photo_has_are_refused(width, height):
    """B8: an image that is too long, or far too narrow to be resized, has bad dimensions."""
    assert refusal_of(whole_png(width, height)) == "bad_dimensions"


def test_one_pixel_is_an_image():
    """B8: there is no lower limit but one pixel."""
    assert images.decode(encoded(Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]
    assert images.load(encoded(Image.new("RGB", (1, 1))), Preprocessing(size=8)).shape == (8, 8, 3)


def test_an_image_at_the_limit_of_pixels_is_taken():
    """The limit itself is allowed."""
    assert images.inspect(whole_png(MAX_PIXELS // 8_000, 8_000)).width == MAX_PIXELS // 8_000


def test_a_decoder_that_trips_over_types_is_no_fault_of_ours():
    """A TIFF whose offset is not stored as a number is corrupt, though Pillow raises TypeError."""
    data = bytearray(encoded(Image.fromarray(gradient()), "TIFF"))
    strip_offsets = data.index(struct.pack("<HH", 273, 4))
    data[strip_offsets + 2] = 7  # "undefined" in place of "long"

    assert refusal_of(bytes(data)) == "corrupt"


def test_a_text_bomb_is_corrupt():
    """B9: 100 MB of compressed comments in a small PNG are not unpacked."""
    text = b"Comment\0\0" + zlib.compress(bytes(100 * 2**20), 9)
    data = encoded(Image.fromarray(gradient()))
    end = data.index(b"IDAT") - 4

    assert refusal_of(data[:end] + chunk(b"zTXt", text) + data[end:]) == "corrupt"


# -- golden conversions ---------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_decodes_to_the_same_picture(orientation, image_format):
    """B11: a photo is upright however the camera was held."""
    upright = Image.fromarray(gradient())
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)  # fmt: skip
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(image_format, {})

    pixels = images.decode(encoded(stored, image_format, exif=exif, **options))

    tolerance = 12 if image_format == "JPEG" else 0
    assert pixels.shape == gradient().shape
    assert np.abs(pixels.astype(int) - gradient()).max() <= tolerance


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(image_format):
    """B10: 65535 is white and 40000 is a middle grey, not white too."""
    values = np.array([[0, 257, 40_000, 65_535]], dtype=np.uint16)

    pixels = images.decode(encoded(Image.fromarray(values), image_format))

    assert pixels[0, :, 0].tolist() == [0, 1, 156, 255]
    assert (pixels == pixels[..., :1]).all()


def test_floating_point_grey_is_scaled():
    """A TIFF of floats is read on its own scale: 0 to 1, or 0 to 65535; what is no number is black."""
    unit = encoded(Image.fromarray(np.array([[0, 0.5, 1.0]], dtype=np.float32)), "TIFF")
    large = encoded(Image.fromarray(np.array([[0, 32_768, np.nan, 1e9, -5]], dtype=np.float32)), "TIFF")

    assert images.decode(unit)[0, :, 0].tolist() == [0, 128, 255]
    assert images.decode(large)[0, :, 0].tolist() == [0, 128, 0, 255, 0]


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_on_white(image_format):
    """B10: transparent red is white, half of it is pink, opaque red is red."""
    rgba = np.array([[[255, 0, 0, 0], [255, 0, 0, 128], [255, 0, 0, 255]]], dtype=np.uint8)
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}

    pixels = images.decode(encoded(Image.fromarray(rgba), image_format, **options))

    assert pixels.tolist() == [[[255, 255, 255], [255, 127, 127], [255, 0, 0]]]


def test_grey_with_transparency_is_laid_on_white():
    """B10: LA is composited like RGBA."""
    grey = np.array([[[0, 0], [0, 128], [0, 255]]], dtype=np.uint8)

    assert images.decode(encoded(Image.fromarray(grey, "LA")))[0, :, 0].tolist() == [255, 127, 0]


def test_a_palette_with_a_transparent_colour_is_laid_on_white():
    """B10: in a PNG with a palette the transparent entry is white, the others are their colours."""
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])

    pixels = images.decode(encoded(image, transparency=0))

    assert pixels.tolist() == [[[255, 255, 255], [0, 255, 0], [0, 0, 255]]]


def test_one_colour_marked_as_transparent_is_white():
    """An RGB or grey PNG may name one colour that is not to be seen."""
    colours = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8))
    greys = Image.fromarray(np.array([[7, 8]], dtype=np.uint8))

    assert images.decode(encoded(colours, transparency=(255, 0, 0))).tolist() == [[[255, 255, 255], [0, 0, 255]]]
    assert images.decode(encoded(greys, transparency=7))[0, :, 0].tolist() == [255, 8]


def test_black_and_white_is_black_and_white():
    """One bit a pixel becomes 0 and 255."""
    image = Image.fromarray(np.array([[True, False]]))

    assert images.decode(encoded(image)).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(image_format):
    """B10: pure inks become their colours on the screen."""
    inks = np.zeros((16, 32, 4), dtype=np.uint8)
    inks[:, :16] = (255, 0, 0, 0)
    inks[:, 16:] = (0, 0, 0, 255)

    pixels = images.decode(encoded(Image.fromarray(inks, "CMYK"), image_format)).astype(int)

    assert np.abs(pixels[8, 4] - (0, 255, 255)).max() <= 4
    assert np.abs(pixels[8, 28]).max() <= 4


def test_a_jpeg_of_four_channels_may_be_ycck():
    """B10: the same inks, marked by Adobe's flag as YCCK, are converted before they are inks."""
    inks = encoded(Image.new("CMYK", (16, 16), (0, 128, 128, 0)), "JPEG")
    flag = inks.index(b"Adobe") + 11
    ycck = inks[:flag] + b"\2" + inks[flag + 1 :]

    assert images.decode(ycck).shape == (16, 16, 3)
    assert (images.decode(ycck) != images.decode(inks)).any()


def test_a_progressive_jpeg_is_the_same_picture():
    """The order in which a JPEG is stored changes no pixel, whole or at a part of its size."""
    picture = Image.fromarray(gradient(640, 480))
    small, large = Preprocessing(size=32), Preprocessing(size=512)

    for preprocessing in (small, large):
        baseline, progressive = (
            images.load(encoded(picture, "JPEG", quality=90, progressive=p), preprocessing) for p in (False, True)
        )
        assert (baseline == progressive).all()


def test_an_arithmetic_coded_jpeg_is_decoded():
    """Rare, but the decoder knows it: whatever is marked so gives a picture of the size it says."""
    data = WHOLE["JPEG"].replace(b"\xff\xc0", b"\xff\xc9", 1)

    assert images.decode(data).shape == (64, 64, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "I;16", "I", "F", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_every_mode_loads_as_it_decodes(mode):
    """load() may convert before or after resizing: the input is that of the decoded pixels, within a level."""
    picture = Image.fromarray(gradient(160, 120))
    if mode == "I;16":
        picture = Image.fromarray(gradient(160, 120)[..., 0].astype(np.uint16) * 257)
    elif mode == "LAB":
        picture = Image.frombytes("LAB", picture.size, picture.tobytes())
    else:
        picture = (picture.convert("P") if mode == "PA" else picture).convert(mode)
    data = encoded(picture, "TIFF")
    preprocessing = Preprocessing(size=48, crop_fraction=0.9)

    expected = images.prepare(images.decode(data), preprocessing)

    assert np.abs(images.load(data, preprocessing).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("make", [whole_png, lambda w, h: encoded(Image.new("LA", (w, h), (40, 128)))])
def test_a_large_image_is_converted_in_strips_without_seams(make):
    """More than STRIP_PIXELS are converted piece by piece; no piece is lost."""
    pixels = images.decode(make(1200, 1111))

    assert pixels.shape == (1111, 1200, 3)
    assert (pixels == pixels[0, 0]).all()


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(image_format):
    """B12: however many frames follow, only the first is decoded."""
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)] * 20
    frames = [Image.new("RGB", (32, 32), colour) for colour in colours]
    options = {"lossless": True} if image_format == "WEBP" else {}

    data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], **options)

    assert images.decode(data).reshape(-1, 3).tolist() == [[250, 10, 10]] * 1024


def test_of_a_long_animation_only_the_first_frame_is_read():
    """B12: 300 frames of 2000 × 2000 are one picture."""
    assert images.decode(long_gif()).shape == (2000, 2000, 3)


@pytest.mark.parametrize("image_format", FORMATS)
def test_what_follows_an_image_is_ignored(image_format):
    """B16: a web page behind an image changes no pixel."""
    data = WHOLE[image_format]

    assert (images.decode(data + b"<script>alert(1)</script>" * 100) == images.decode(data)).all()


def test_metadata_changes_nothing():
    """B17: a huge EXIF block, comments and profiles are not looked at."""
    picture = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x010E] = "<script>" * 5000
    comments = PngImagePlugin.PngInfo()
    comments.add_text("Comment", "x" * 100_000)
    plain = encoded(picture, "JPEG")

    assert (images.decode(encoded(picture, "JPEG", exif=exif)) == images.decode(plain)).all()
    assert (images.decode(encoded(picture, "JPEG", icc_profile=b"x" * 5_000_000)) == images.decode(plain)).all()
    assert (images.decode(encoded(picture, pnginfo=comments, icc_profile=b"x" * 100_000)) == gradient()).all()


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0no TIFF header",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" * 9,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0turn",  # an orientation in words
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_broken_metadata_is_no_reason_to_refuse_a_photo(image_format, exif):
    """B17: an EXIF block that cannot be read turns nothing; the picture is fine."""
    data = encoded(Image.fromarray(gradient()), image_format, exif=exif)

    assert images.decode(data).shape == gradient().shape


def test_the_facts_are_those_of_the_header():
    """inspect() tells the stored size, before any turn, and the format."""
    exif = Image.Exif()
    exif[0x0112] = 6

    facts = images.inspect(encoded(Image.fromarray(gradient()), "JPEG", exif=exif))

    assert (facts.width, facts.height, facts.format) == (64, 48, "JPEG")


# -- whatever is sent -----------------------------------------------------------------------------

SEEDS = [encoded(Image.fromarray(gradient(24, 16)), f) for f in FORMATS] + [
    encoded(Image.fromarray(gradient(24, 16)).convert("P"), "GIF"),
    encoded(Image.fromarray(gradient(24, 16)).convert("CMYK"), "TIFF", compression="tiff_lzw"),
    encoded(
        Image.fromarray(gradient(24, 16)),
        "JPEG",
        exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0",
    ),
]


CODES = {"empty", "not_an_image", "truncated", "corrupt", "too_many_pixels", "bad_dimensions"}


def is_pixels_or_refusal(data: bytes) -> bool:
    try:
        pixels = images.load(data, Preprocessing(size=8))
    except ImageRefused as refusal:
        return refusal.code in CODES
    return pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: png_header(8, 8, 8, 2) + tail))
def test_any_bytes_give_pixels_or_a_refusal(data):
    """Whatever is sent, there is no other error."""
    assert is_pixels_or_refusal(data)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    kept=st.floats(0, 1),
    is_cut=st.booleans(),
)
def test_any_damage_to_an_image_gives_pixels_or_a_refusal(seed, changes, kept, is_cut):
    """B18: images of every format with bytes changed and the end cut off raise ImageRefused at worst."""
    data = bytearray(seed)
    for place, value in changes:
        data[int(place * len(data))] = value

    assert is_pixels_or_refusal(bytes(data[: int(kept * len(data))] if is_cut else data))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    image_format=st.sampled_from(FORMATS),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=40),
    is_in_header=st.booleans(),
)
def test_flipped_bytes_give_pixels_or_a_refusal(image_format, flips, is_in_header):
    """B18: bits flipped anywhere, or in the header alone, raise ImageRefused at worst."""
    data = bytearray(WHOLE[image_format])
    reach = 120 if is_in_header else len(data)
    for place, bits in flips:
        data[int(place * reach)] ^= bits

    assert is_pixels_or_refusal(bytes(data))


# -- geometry -------------------------------------------------------------------------------------

SHAPES = [(640, 480), (480, 640), (500, 333), (333, 500), (224, 224), (97, 61), (30, 400), (1201, 900)]
PREPROCESSINGS = [
    Preprocessing(size=224, crop_fraction=0.875, interpolation="bicubic"),
    Preprocessing(size=224, crop_fraction=0.9, interpolation="bicubic"),
    Preprocessing(size=224, crop_fraction=0.95, interpolation="bilinear"),
    Preprocessing(size=160, crop_fraction=0.965, interpolation="bicubic"),
    Preprocessing(size=64, crop_fraction=1.0, interpolation="bilinear"),
    Preprocessing(size=33, crop_fraction=0.7, interpolation="bilinear"),
]


def by_timm(image: Image.Image, preprocessing: Preprocessing):
    """The same input as timm's evaluation transform makes it: (size, size, 3) uint8."""
    from timm.data import create_transform

    transform = create_transform(
        input_size=(3, preprocessing.size, preprocessing.size),
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_fraction,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    return (transform(image) * 255.0).round().numpy().transpose(1, 2, 0).astype(np.uint8)


def assert_like_timm(image: Image.Image, preprocessing: Preprocessing) -> None:
    ours = images.prepare(image, preprocessing)
    assert (ours.shape, ours.dtype) == ((preprocessing.size, preprocessing.size, 3), np.uint8)
    assert np.abs(ours.astype(int) - by_timm(image, preprocessing)).max() <= 1


def drawing(width: int, height: int) -> Image.Image:
    """A picture with edges, lines and noise, on which a shift of one pixel shows."""
    random = np.random.default_rng([width, height])
    image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = random.integers(0, width), random.integers(0, height)
        draw.ellipse((x - 30, y - 20, x + 30, y + 20), fill=tuple(int(c) for c in random.integers(0, 256, 3)))
    return image


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS, ids=lambda p: f"{p.size}-{p.crop_fraction}-{p.interpolation}")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_the_input_is_timms(shape, preprocessing):
    """Every pixel of the input is within 1 of what timm's evaluation transform makes."""
    assert_like_timm(drawing(*shape), preprocessing)


@cache
def photos() -> tuple[bytes, ...]:
    """Photos as people take them, as JPEG files: two that come with scikit-learn, and more where there are more."""
    found = [Path(name).read_bytes() for name in load_sample_images().filenames]
    if PHOTOS.exists():
        with tarfile.open(PHOTOS) as tar:
            members = (info for info in tar if info.name.endswith((".jpg", ".jpeg")))
            found += [tar.extractfile(info).read() for info, _ in zip(members, range(NUM_PHOTOS), strict=False)]
    return tuple(found)


@cache
def large_photo(width: int, height: int, orientation: int = 1) -> bytes:
    """A JPEG as large as a camera's, every part of it as sharp as a photo can be."""
    parts = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    whole = Image.new("RGB", (width, height))
    for i, (left, top) in enumerate((x, y) for y in range(0, height, 427) for x in range(0, width, 640)):
        whole.paste(ImageOps.mirror(parts[i % 2]) if i % 3 else parts[i % 2], (left, top))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(whole, "JPEG", quality=90, exif=exif)


def decoded_in_full(data: bytes) -> Image.Image:
    """The whole picture by Pillow alone: what a training script begins with."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def difference(data: bytes, preprocessing: Preprocessing):
    """The served input against timm's, in levels: (size, size, 3)."""
    return np.abs(images.load(data, preprocessing).astype(int) - by_timm(decoded_in_full(data), preprocessing))


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS[:3], ids=lambda p: f"{p.crop_fraction}-{p.interpolation}")
def test_the_input_of_real_photos_is_timms(preprocessing):
    """Photos of a usual size are decoded in full: the input is timm's within the rounding of one level."""
    for data in photos():
        assert difference(data, preprocessing).max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [32, 48, 64, 96])
def test_a_photo_decoded_at_a_part_of_its_size_is_nearly_timms(size, interpolation):
    """DCT scaling keeps to the stated tolerances on every photo."""
    for data in photos():
        levels = difference(data, Preprocessing(size=size, crop_fraction=0.95, interpolation=interpolation))
        assert levels.mean() <= MEAN_TOLERANCE
        assert levels.max() <= MAX_TOLERANCE


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("width", "height"), [(2001, 1499), (1203, 1601)])
def test_a_large_photo_is_nearly_timms_however_the_camera_was_held(width, height, orientation):
    """Decoding smaller, cutting and turning last give the input of turning first, sides that 8 does not divide included."""
    levels = difference(large_photo(width, height, orientation), Preprocessing(size=112, crop_fraction=0.9))

    assert levels.mean() <= MEAN_TOLERANCE
    assert levels.max() <= MAX_TOLERANCE


def test_a_large_photo_is_decoded_at_a_part_of_its_size():
    """12 megapixels for 224 pixels: of 3000 rows a fourth is left, and that is more than twice the 248 needed."""
    data, preprocessing = large_photo(4000, 3000), Preprocessing(size=224, crop_fraction=0.9)

    in_full = images.prepare(images.decode(data), preprocessing)

    assert difference(data, preprocessing).mean() <= MEAN_TOLERANCE
    assert (images.load(data, preprocessing) != in_full).any()


def test_decisions_are_those_of_full_decoding():
    """A classifier trained on timm's inputs decides alike on ours, for every part of two photos it has not seen."""
    from sklearn.linear_model import RidgeClassifier

    preprocessing = Preprocessing(size=32, crop_fraction=0.9)
    random = np.random.default_rng(0)
    parts, classes = [], []
    for i, photo in enumerate(Image.fromarray(pixels) for pixels in load_sample_images().images):
        for _ in range(100):
            left, top = int(random.integers(0, 640 - 240)), int(random.integers(0, 427 - 180))
            parts.append(encoded(photo.crop((left, top, left + 240, top + 180)), "JPEG", quality=90))
            classes.append(2 * i + (left >= 200))  # the photo, and its half
    reference = np.stack([by_timm(decoded_in_full(part), preprocessing) for part in parts]).reshape(200, -1) / 255.0
    ours = np.stack([images.load(part, preprocessing) for part in parts]).reshape(200, -1) / 255.0
    model = RidgeClassifier(alpha=10.0).fit(reference[::2], classes[::2])

    assert (ours != reference).any()
    assert model.score(reference[1::2], classes[1::2]) > 0.8  # of four classes
    assert (model.predict(ours) == model.predict(reference)).all()
    assert np.abs(model.decision_function(ours) - model.decision_function(reference)).max() < 0.1  # classes are 2 apart


def test_threads_get_what_one_gets():
    """Serving decodes in a pool: the same bytes give the same input whoever asks, and however many at once."""
    sent = [large_photo(1203, 1601, o) for o in (1, 6)] + list(photos()[:2]) + list(WHOLE.values())
    preprocessing = Preprocessing(size=96)

    alone = [images.load(data, preprocessing) for data in sent]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda data: images.load(data, preprocessing), sent * 4))

    assert all((got == alone[i % len(sent)]).all() for i, got in enumerate(together))


def test_pixels_and_pictures_are_prepared_alike():
    """prepare() takes an array or a Pillow image, and load() is both steps in one."""
    preprocessing = Preprocessing(size=32)
    data = encoded(Image.fromarray(gradient()))

    expected = images.prepare(gradient(), preprocessing)

    assert (images.prepare(Image.fromarray(gradient()), preprocessing) == expected).all()
    assert (images.load(data, preprocessing) == expected).all()


def test_an_input_of_the_right_size_is_left_alone():
    """An image that has the model's size already loses nothing."""
    assert (images.prepare(gradient(40, 40), Preprocessing(size=40)) == gradient(40, 40)).all()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_thumbnail_keeps_the_proportions(image_format):
    """Of every format that is taken: a JPEG whose longer side is as asked, or that of a smaller image."""
    file = io.BytesIO()
    Image.new("RGB", (400, 200), (250, 10, 10)).save(file, image_format)

    assert images.inspect(images.thumbnail(file.getvalue(), 100)) == images.Facts(100, 50, "JPEG")
    assert images.inspect(images.thumbnail(file.getvalue(), 1000)) == images.Facts(400, 200, "JPEG")
    pixel = images.decode(images.thumbnail(file.getvalue(), 100))[25, 50].tolist()
    assert pixel == pytest.approx([250, 10, 10], abs=6)


def test_a_damaged_image_has_no_thumbnail():
    """It is refused as when it is decoded."""
    with pytest.raises(ImageRefused):
        images.thumbnail(b"no image", 100)
