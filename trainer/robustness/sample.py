"""Which images of the holdout robustness is measured on: the same for every model that is asked.

The corruptions work on a model's input, after it was resized and cut; what is sampled here is encoded still.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.evaluate import read_holdout
from understudy.errors import LabeledSetRefused
from understudy.records import Sha256
from understudy.store import Store


@dataclass(frozen=True)
class Photo:
    """An image of the holdout, and where its bytes lie."""

    sha256: str
    class_name: str
    shard: str
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class Sample:
    """Some images of the holdout, in the order of their ids."""

    store: Store
    photos: tuple[Photo, ...]

    def __len__(self) -> int:
        return len(self.photos)

    def __iter__(self) -> Iterator[tuple[Photo, bytes]]:
        """Each with its encoded bytes."""
        for photo in self.photos:
            yield photo, self.store.get_range(photo.shard, photo.offset, photo.num_bytes)

    @property
    def sha256(self) -> Sha256:
        """Of the ids: two measurements are of the same images where it is the same."""
        return hashlib.sha256("\n".join(photo.sha256 for photo in self.photos).encode()).hexdigest()


def sample(store: Store, holdout: Sequence[str], num_images: int) -> Sample:
    """So many images of these shards, or all: those whose sha-256 are smallest, which is chance for once and all.

    Raises LabeledSetRefused if there are none.
    """
    photos = [
        Photo(member.sha256, member.class_name or "", key, member.offset, member.num_bytes)
        for key in holdout
        for member in read_holdout(store, key).members
    ]
    if not photos:
        raise LabeledSetRefused("the holdout is empty, so nothing can be corrupted; send labeled images")
    return Sample(store, tuple(sorted(photos, key=lambda photo: photo.sha256)[:num_images]))
