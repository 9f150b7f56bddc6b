"""The photos that are sent: crops of two real ones, 500 × 375, JPEG of about 50 KB, and the bodies around them."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

NUM_PHOTOS = 32
WIDTH, HEIGHT = 500, 375
#: What phones and cameras commonly choose.
JPEG_QUALITY = 90
#: A crop has at least this share of the photo's width, so that it is a photo still and no flat surface.
SMALLEST_CROP = 0.55

#: Between the photos of a multipart body; no JPEG holds it.
BOUNDARY = "understudy-benchmark-7d0c1f3e9a"

#: How a photo travels: as the body itself, or as base64 in JSON, for servers that take nothing else.
BodyKind = Literal["raw", "json"]


@dataclass(frozen=True)
class Bodies:
    """A folder of request bodies, one file each, and the content type that they are sent with."""

    folder: Path
    content_type: str

    def read(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.folder.glob("*.body"))]


def make(seed: int = 0, num_photos: int = NUM_PHOTOS) -> list[bytes]:
    """The photos, the same for the same seed."""
    from sklearn.datasets import load_sample_images  # takes a second to import

    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]  # two of 640 × 427
    random = np.random.default_rng(seed)
    return [_encode(_crop(sources[i % len(sources)], random)) for i in range(num_photos)]


def _crop(photo: Image.Image, random: np.random.Generator) -> Image.Image:
    largest = min(photo.width, photo.height * WIDTH / HEIGHT)
    width = largest * random.uniform(SMALLEST_CROP, 1.0)
    height = width * HEIGHT / WIDTH
    left, top = random.uniform(0, photo.width - width), random.uniform(0, photo.height - height)
    box = (left, top, left + width, top + height)
    return photo.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, box=box)


def _encode(photo: Image.Image) -> bytes:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def write(photos: list[bytes], folder: Path) -> dict[BodyKind, Bodies]:
    """Write every photo once for each way to send it."""
    kinds: dict[BodyKind, Bodies] = {
        "raw": Bodies(folder / "raw", "image/jpeg"),
        "json": Bodies(folder / "json", "application/json"),
    }
    for kind, bodies in kinds.items():
        bodies.folder.mkdir(parents=True)
        for index, photo in enumerate(photos):
            (bodies.folder / f"{index:03d}.body").write_bytes(_body(kind, photo))
    return kinds


def write_several(photos: list[bytes], folder: Path, *, per_request: int, num_bodies: int = 8) -> Bodies:
    """Write multipart bodies of several photos each."""
    folder.mkdir(parents=True)
    for index in range(num_bodies):
        chosen = [photos[(index * per_request + n) % len(photos)] for n in range(per_request)]
        (folder / f"{index:03d}.body").write_bytes(_multipart(chosen))
    return Bodies(folder, f"multipart/form-data; boundary={BOUNDARY}")


def _multipart(photos: list[bytes]) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{index}.jpg"\r\n'
        f"Content-Type: image/jpeg\r\n\r\n".encode()
        + photo
        + b"\r\n"
        for index, photo in enumerate(photos)
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def _body(kind: BodyKind, photo: bytes) -> bytes:
    if kind == "raw":
        return photo
    return json.dumps({"images": [base64.b64encode(photo).decode()]}).encode()
