"""Batches: labeled and pseudo-labeled images side by side, noised, as a function of (seed, step) alone.

No state is carried from step to step, so a run that resumes at step 500 sees what it would have seen.
Only labeled and unlabeled shards can be read from here: the holdout's are refused by name and by split.

Legend: N images of a batch, L of them labeled and first; M rows of a data set; C classes of the student.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from trainer.noise import Noise
from trainer.selection import Selection
from understudy import images, labels
from understudy.engine import available_cores
from understudy.errors import Refused
from understudy.images import Picture, Pixels
from understudy.recipes import Recipe
from understudy.records import ShardManifest
from understudy.shards import read_manifest
from understudy.store import Store

Targets = npt.NDArray[np.float32]  # (M or N, C), each row sums to 1

#: Pictures are kept decoded until they take this much: 85,000 of 64 px, or 3,500 photos of 320 px.
CACHE_BYTES = 2**30
#: Batches made ahead of the model. Two cover a slow one; more only take memory.
BATCHES_AHEAD = 3
#: More threads than this wait for the interpreter's lock, which only decoding and resizing release.
MAX_THREADS = 8
#: The two orders of drawing must differ even where both data sets have the same size.
LABELED, PSEUDO = 0, 1


@dataclass(frozen=True)
class Place:
    """Where the encoded bytes of an image lie."""

    shard: str
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class Rows:
    """A data set: image i has the target of row i."""

    places: tuple[Place, ...]  # M
    targets: Targets  # (M, C) float32

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Batch:
    """What one step trains on."""

    pixels: Pixels  # (N, size, size, 3) uint8
    targets: Targets  # (N, C) float32
    num_labeled: int  # L: these come first


def labeled_rows(store: Store, shards: Sequence[str], classes: Sequence[str], recipe: Recipe) -> Rows:
    """The human-labeled images of these shards, with smoothed one-hot targets."""
    members = [(key, member) for key in shards for member in _manifest(store, key, "labeled").members]
    index = {name: i for i, name in enumerate(classes)}
    chosen = np.array([index[member.class_name or ""] for _, member in members], dtype=np.int64)  # (M,)
    places = tuple(Place(key, member.offset, member.num_bytes) for key, member in members)
    return Rows(places, smoothed(chosen, len(classes), recipe.label_smoothing))


def pseudo_rows(store: Store, rows: bytes, selection: Selection, classes: Sequence[str], recipe: Recipe) -> Rows:
    """The selected images, each as often as it was given copies, with soft or smoothed hard targets.

    ``rows`` is the selection's Parquet file, whose labels index ``selection.classes`` (the teacher's);
    ``classes`` are the student's, which may be more.
    """
    table = labels.table_from_parquet(rows).to_pydict()
    places = _places(store, table["shard"], table["sha256"])
    index = np.array([list(classes).index(name) for name in selection.classes], dtype=np.int64)
    if recipe.pseudo_labels == "hard":
        targets = smoothed(index[np.array(table["label"], dtype=np.int64)], len(classes), recipe.label_smoothing)
    else:
        targets = np.zeros((len(places), len(classes)), dtype=np.float32)
        targets[:, index] = [
            labels.dense(top, probabilities, tail, len(index))
            for top, probabilities, tail in zip(
                table["top_classes"], table["top_probabilities"], table["tail_mass"], strict=True
            )
        ]
    repeated = np.repeat(np.arange(len(places)), table["copies"])
    return Rows(tuple(places[i] for i in repeated), targets[repeated])


def smoothed(chosen: npt.NDArray[np.int64], num_classes: int, smoothing: float) -> Targets:
    """One-hot targets with a part spread over all classes: (M,) → (M, C) float32."""
    one_hot = np.eye(num_classes, dtype=np.float32)[chosen]
    return (one_hot * (1.0 - smoothing) + smoothing / num_classes).astype(np.float32)


def _places(store: Store, shards: Sequence[str], sha256s: Sequence[str]) -> list[Place]:
    where: dict[tuple[str, str], Place] = {}
    for key in sorted(set(shards)):
        for member in _manifest(store, key, "unlabeled").members:
            where[key, member.sha256] = Place(key, member.offset, member.num_bytes)
    return [where[key, sha256] for key, sha256 in zip(shards, sha256s, strict=True)]


def _manifest(store: Store, key: str, split: str) -> ShardManifest:
    manifest = read_manifest(store, key)
    if manifest.split != split:  # the holdout never trains
        raise Refused(f"shard {key} is {manifest.split}, not {split}: it cannot train", code="wrong_split")
    return manifest


@dataclass
class Pictures:
    """Decoded pictures by their place, kept in memory while there is room. Threads may share it."""

    store: Store
    noise: Noise
    room: int = CACHE_BYTES
    _kept: dict[Place, Picture] = field(default_factory=dict)

    def __getitem__(self, place: Place) -> Picture:
        kept = self._kept.get(place)
        if kept is not None:
            return kept
        data = self.store.get_range(place.shard, place.offset, place.num_bytes)
        picture = self.noise.working_copy(images.open_rgb(data))
        num_bytes = 3 * picture.width * picture.height
        if num_bytes <= self.room:
            self.room -= num_bytes
            self._kept[place] = picture
        return picture


@dataclass(frozen=True)
class Batches:
    """All batches of one run."""

    labeled: Rows
    pseudo: Rows | None  #: None: a first teacher, labeled data only
    pictures: Pictures
    noise: Noise
    recipe: Recipe
    seed: int

    def at(self, step: int) -> Batch:
        """The batch of a step: labeled images, then ``unlabeled_ratio`` times as many pseudo-labeled ones."""
        num_labeled = self.recipe.labeled_batch
        sources = [(self.labeled, drawn(len(self.labeled), step, num_labeled, self.seed, LABELED))]
        if self.pseudo is not None:
            count = num_labeled * self.recipe.unlabeled_ratio
            sources.append((self.pseudo, drawn(len(self.pseudo), step, count, self.seed, PSEUDO)))
        places = [rows.places[i] for rows, chosen in sources for i in chosen]
        pixels = [self.noise(self.pictures[p], f"{self.seed}/{step}/{i}") for i, p in enumerate(places)]
        return Batch(np.stack(pixels), np.concatenate([rows.targets[c] for rows, c in sources]), num_labeled)

    def since(self, first_step: int, num_steps: int) -> Iterator[Batch]:
        """The batches of the steps from ``first_step`` to ``num_steps``, made by threads while the model trains."""
        pool = ThreadPoolExecutor(min(available_cores(), MAX_THREADS), thread_name_prefix="batches")
        ahead: deque[Future[Batch]] = deque()
        try:
            for step in range(first_step, num_steps):
                ahead.append(pool.submit(self.at, step))
                if len(ahead) >= BATCHES_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def drawn(num_rows: int, step: int, count: int, seed: int, stream: int) -> list[int]:
    """The rows of a step: ``count`` at a time off an endless sequence of permutations."""
    positions = range(step * count, (step + 1) * count)
    return [int(_permutation(num_rows, at // num_rows, seed, stream)[at % num_rows]) for at in positions]


@lru_cache(maxsize=8)
def _permutation(num_rows: int, epoch: int, seed: int, stream: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, stream, epoch)).permutation(num_rows)
