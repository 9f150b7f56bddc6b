"""The sets that the trainer is measured on: labeled images, unlabeled ones, and the tests that nothing is chosen on.

A seed draws which images are labeled; it never moves an image into or out of a test that came as one.
"""

import hashlib
import io
import random
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

#: Where the sets with files of their own lie, beside the checkout.
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

NUM_DIGIT_LABELS, NUM_DIGIT_TESTS = 30, 600
NUM_FASHION_LABELS = 500


@dataclass(frozen=True)
class Sample:
    """One image, encoded, with its class. None: nobody is told."""

    data: bytes
    class_name: str | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class ImageSet:
    """A set as one seed has it."""

    labeled: Sequence[Sample]
    unlabeled: Sequence[Sample]
    tests: dict[str, Sequence[Sample]]  #: by name; the first is the one that targets speak of


def digits(seed: int, data: Path = DATA) -> ImageSet:
    """scikit-learn's digits, 8 × 8 grey: three labels of each class, 600 to test, the rest unlabeled."""
    found = load_digits()
    pairs = zip(found.images, found.target, strict=True)
    everything = _distinct(
        Sample(_png(np.round(pixels * (255 / 16)).astype(np.uint8)), str(of)) for pixels, of in pairs
    )
    random.Random(seed).shuffle(everything)
    labeled, rest = _drawn(everything, NUM_DIGIT_LABELS)
    return ImageSet(labeled, _unnamed(rest[NUM_DIGIT_TESTS:]), {"test": rest[:NUM_DIGIT_TESTS]})


def fashion_mnist(seed: int, data: Path = DATA) -> ImageSet:
    """Fashion-MNIST, 28 × 28 grey: 500 of its labels, 30,000 unlabeled, all 10,000 of the test."""
    folder = data / "fashion-mnist"
    tests = _distinct(_named(_zip(folder / "test.zip")))
    taken = {sample.sha256 for sample in tests}
    labels = [sample for sample in _distinct(_named(_zip(folder / "labeled.zip"))) if sample.sha256 not in taken]
    random.Random(seed).shuffle(labels)
    labeled, _ = _drawn(labels, NUM_FASHION_LABELS)
    taken |= {sample.sha256 for sample in labeled}
    unlabeled = _distinct(Sample(data) for _, data in _zip(folder / "unlabeled.zip"))
    return ImageSet(labeled, [sample for sample in unlabeled if sample.sha256 not in taken], {"test": tests})


def clothing_photos(seed: int, data: Path = DATA) -> ImageSet:
    """Phone photos of clothes: all 400 labels, 2,100 unlabeled of which 350 show no class, two tests."""
    folder = data / "clothing-photos"
    return ImageSet(
        _distinct(_named(_tar(folder / "labeled.tar"))),
        _distinct(Sample(data) for _, data in _tar(folder / "unlabeled.tar")),
        {
            "test": _distinct(_named(_tar(folder / "test.tar"))),
            "new contributors": _distinct(_named(_tar(folder / "test_new_contributors.tar"))),
        },
    )


def _distinct(samples: Iterator[Sample]) -> list[Sample]:
    """Without second copies: the catalog takes an image once."""
    return list({sample.sha256: sample for sample in samples}.values())


def _drawn(samples: Sequence[Sample], num_wanted: int) -> tuple[list[Sample], list[Sample]]:
    """The first of each class, as many of each, and the rest."""
    names = sorted({sample.class_name or "" for sample in samples})
    of_class = {name: [sample for sample in samples if sample.class_name == name] for name in names}
    drawn = [sample for name in names for sample in of_class[name][: num_wanted // len(names)]]
    taken = {sample.sha256 for sample in drawn}
    return drawn, [sample for sample in samples if sample.sha256 not in taken]


def _unnamed(samples: Sequence[Sample]) -> list[Sample]:
    return [Sample(sample.data) for sample in samples]


def _named(files: Iterator[tuple[str, bytes]]) -> Iterator[Sample]:
    """The class of an image is the folder that it lies in."""
    return (Sample(data, Path(name).parent.name) for name, data in files)


def _zip(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".png"):
                yield name, archive.read(name)


def _tar(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in sorted(archive.getmembers(), key=lambda one: one.name):
            if (file := archive.extractfile(member)) is not None and member.name.endswith(".jpg"):
                yield member.name, file.read()


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
