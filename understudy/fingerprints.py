"""Whether two images are copies of one picture, told by their fingerprints (``images.examine`` makes them).

A fingerprint is 256 signs of low frequencies and a mean colour. Two are compared by how many signs differ;
which of many to compare is told by four bands, each 16 of the 64 lowest frequencies, that an index finds:
copies of which at most three of these signs differ share a band for certain.
"""

import struct
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

#: Signs that may differ. Photos saved again (JPEG at 30, WebP) or at half their size differ in at most this many in 99
#: of 100, while no two of 2,100 different photos do, nor but 3 of 18 million pairs of Fashion-MNIST's 28 × 28 pixels,
#: of which shirts look alike (docs/ingest.md). Crops by more than a hundredth are other pictures.
MAX_DISTANCE = 24
#: Levels that a channel's mean may differ: the same shape in another colour may be another class.
MAX_COLOUR_DIFFERENCE = 32

NUM_BANDS = 4
_BANDS = struct.Struct(f">{NUM_BANDS}H")
_SIGN_BYTES = 32


def bands(fingerprint: bytes) -> tuple[int, ...]:
    """What an index finds a fingerprint by: NUM_BANDS numbers of 16 bits."""
    numbers: tuple[int, ...] = _BANDS.unpack_from(fingerprint)
    return numbers


def distance(one: bytes, other: bytes) -> int | None:
    """How many signs differ. None: these are two pictures."""
    colours = zip(one[_SIGN_BYTES:], other[_SIGN_BYTES:], strict=True)
    if any(abs(a - b) > MAX_COLOUR_DIFFERENCE for a, b in colours):
        return None
    differing = int.from_bytes(one[:_SIGN_BYTES], "big") ^ int.from_bytes(other[:_SIGN_BYTES], "big")
    num_differing = differing.bit_count()
    return num_differing if num_differing <= MAX_DISTANCE else None


@dataclass(frozen=True)
class Match:
    """An image that another resembles."""

    sha256: str
    distance: int


class Fingerprints:
    """Some fingerprints in memory, found by their bands; the first of equally near ones is named."""

    def __init__(self, images: Iterable[tuple[str, bytes]] = ()) -> None:
        self._of: dict[str, bytes] = {}
        self._by_band: list[defaultdict[int, list[str]]] = [defaultdict(list) for _ in range(NUM_BANDS)]
        for sha256, fingerprint in images:
            self.add(sha256, fingerprint)

    def add(self, sha256: str, fingerprint: bytes) -> None:
        """Take one more; an empty fingerprint resembles nothing."""
        if not fingerprint or sha256 in self._of:
            return
        self._of[sha256] = fingerprint
        for index, band in zip(self._by_band, bands(fingerprint), strict=True):
            index[band].append(sha256)

    def nearest(self, sha256: str, fingerprint: bytes) -> Match | None:
        """The one that an image resembles most. None: it resembles none."""
        return min(self.all(sha256, fingerprint), key=lambda match: match.distance, default=None)

    def all(self, sha256: str, fingerprint: bytes) -> list[Match]:
        """All that an image resembles, itself not among them."""
        if not fingerprint:
            return []
        shared = (index.get(band, ()) for index, band in zip(self._by_band, bands(fingerprint), strict=True))
        candidates = dict.fromkeys(other for some in shared for other in some if other != sha256)
        measured = ((other, distance(fingerprint, self._of[other])) for other in candidates)
        return [Match(other, away) for other, away in measured if away is not None]
