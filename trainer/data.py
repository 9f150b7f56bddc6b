"""Batches: labeled and pseudo-labeled images side by side, noised, as a function of (seed, step) alone.

No state is carried from step to step, so a run that resumes at step 500 sees what it would have seen.
Only labeled and unlabeled shards can be read from here: the holdout's are refused by name and by split.

A data set is columns, not objects: with ten classes kept of each, an image takes 84 bytes and each of its
rows 4 more, so ten million take 0.9 GB, in the trainer alone: other processes are told places.

Legend: N images of a batch, L of them labeled and first; D images and M rows of a data set, copies included;
C classes of the student.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from trainer import loading, targets
from trainer.loading import Pictures as Pictures  # what a run's batches are given
from trainer.loading import Place, Request, manifest_of
from trainer.noise import Noise
from trainer.reviewed import ReviewedImages
from trainer.targets import Targets, Whole
from understudy import labels
from understudy.engine import available_cores
from understudy.errors import Refused
from understudy.images import Pixels
from understudy.label_records import Selection
from understudy.recipes import Recipe
from understudy.records import ShardManifest
from understudy.store import Store

log = logging.getLogger(__name__)

#: Batches made ahead of the model. Two cover a slow one; more only take memory.
BATCHES_AHEAD = 3
#: More threads than this wait for the interpreter's lock, which only decoding and resizing release.
MAX_THREADS = 8
#: The two orders of drawing must differ even where both data sets have the same size.
LABELED, PSEUDO = 0, 1
#: Of a sha-256, in hex: 64 bits tell the images of one shard apart.
NAME_DIGITS = 16
#: Columns of a selection's file that a student learns from.
COLUMNS = ("sha256", "shard", "label", "top_classes", "top_probabilities", "tail_mass", "copies")


@dataclass(frozen=True)
class Places(Sequence[Place]):
    """The places of many images, as columns."""

    shards: tuple[str, ...]  #: keys
    shard: npt.NDArray[np.int32]  # (D,), index into ``shards``
    offset: npt.NDArray[np.int64]  # (D,)
    num_bytes: npt.NDArray[np.int32]  # (D,)

    def __len__(self) -> int:
        return len(self.shard)

    @overload
    def __getitem__(self, at: int) -> Place: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Place]: ...
    def __getitem__(self, at: int | slice) -> Place | Sequence[Place]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return Place(self.shards[int(self.shard[at])], int(self.offset[at]), int(self.num_bytes[at]))


@dataclass(frozen=True)
class Rows:
    """A data set: row i is image ``image[i]``, so that copies cost nothing."""

    places: Places  # D
    targets: Targets  # D
    image: npt.NDArray[np.int32]  # (M,)

    def __len__(self) -> int:
        return len(self.image)

    def place(self, row: int) -> Place:
        """Where the image of a row lies."""
        return self.places[int(self.image[row])]

    def whole_targets(self, rows: Sequence[int]) -> Whole:
        """The targets of some rows: (N, C) float32."""
        return self.targets.whole(self.image[list(rows)])

    def counts(self) -> npt.NDArray[np.int64]:
        """Rows by their most probable class: (C,)."""
        first = self.targets.classes[:, 0][self.image]
        return np.bincount(first, minlength=len(self.targets.known))


@dataclass(frozen=True)
class Batch:
    """What one step trains on; or one process' part of it, where several train together."""

    pixels: Pixels  # (N, size, size, 3) uint8
    targets: Whole  # (N, C) float32
    num_labeled: int  # L: these come first
    labeled_share: float = 1.0  #: of the step's labeled images
    pseudo_share: float = 1.0  #: of its other ones


# -- data sets ------------------------------------------------------------------------------------


def labeled_rows(store: Store, shards: Sequence[str], classes: Sequence[str], recipe: Recipe) -> Rows:
    """The human-labeled images of these shards, with smoothed one-hot targets.

    Raises Refused for a shard of another split, one that is missing or damaged, and a class that is not one of
    ``classes``.
    """
    index = {name: i for i, name in enumerate(classes)}
    columns: list[npt.NDArray[np.int64]] = []  # of (number of the shard, offset, bytes, class)
    for number, key in enumerate(shards):
        members = _manifest(store, key, "labeled").members
        strange = sorted({str(member.class_name) for member in members} - set(index))
        if strange:
            raise Refused(
                f"shard {key} has images of {', '.join(strange)}, which are no classes of this student "
                f"({len(classes)}: {', '.join(classes[:10])}); open another generation",
                code="unknown_class",
            )
        found = [(number, m.offset, m.num_bytes, index[m.class_name or ""]) for m in members]
        columns.append(np.array(found, dtype=np.int64).reshape(-1, 4))
    table = np.concatenate(columns) if columns else np.zeros((0, 4), dtype=np.int64)
    places = Places(tuple(shards), table[:, 0].astype(np.int32), table[:, 1], table[:, 2].astype(np.int32))
    everyone = np.arange(len(table), dtype=np.int32)
    return Rows(places, targets.smoothed(table[:, 3], len(classes), recipe.label_smoothing), everyone)


def with_reviewed(
    store: Store, labeled: Rows, reviewed: ReviewedImages, classes: Sequence[str], recipe: Recipe
) -> Rows:
    """The labeled images and, behind them, those that people have reviewed, which lie in buckets' shards.

    Raises Refused as ``labeled_rows`` and ``pseudo_rows`` do.
    """
    if not reviewed.sha256s:
        return labeled
    if strange := sorted(set(reviewed.class_names) - set(classes)):
        raise Refused(
            f"images were reviewed as {', '.join(strange)}, which are no classes of this student; "
            f"open another generation",
            code="unknown_class",
        )
    numbers = {key: number for number, key in enumerate(dict.fromkeys(reviewed.shards))}
    shard = np.array([numbers[key] for key in reviewed.shards], dtype=np.int32)
    lie = _places(store, tuple(numbers), shard, _numbers(reviewed.sha256s))
    index = {name: i for i, name in enumerate(classes)}
    told = np.array([index[name] for name in reviewed.class_names], dtype=np.int64)
    before = labeled.places
    places = Places(
        (*before.shards, *lie.shards),
        np.concatenate([before.shard, lie.shard + np.int32(len(before.shards))]),
        np.concatenate([before.offset, lie.offset]),
        np.concatenate([before.num_bytes, lie.num_bytes]),
    )
    chosen = np.concatenate([labeled.targets.classes[:, 0], told])
    everyone = np.arange(len(places), dtype=np.int32)
    return Rows(places, targets.smoothed(chosen, len(classes), recipe.label_smoothing), everyone)


def pseudo_rows(store: Store, key: str, selection: Selection, classes: Sequence[str], recipe: Recipe) -> Rows:
    """The selected images, each as often as it was given copies, with soft or smoothed hard targets.

    ``key`` is the selection's Parquet file, whose labels index ``selection.classes`` (the teacher's); ``classes``
    are the student's, which may be more. Raises Refused for a file that is missing or is not what was selected,
    for a class that the student lacks, and as ``labeled_rows`` does.
    """
    _verify(store, key, selection.rows_sha256)
    lacking = sorted(set(selection.classes) - set(classes))
    if lacking:
        raise Refused(
            f"the teacher knows {', '.join(lacking)}, which the student does not: a student has all of its teacher's "
            f"classes; open another generation",
            code="unknown_class",
        )
    kind = targets.class_kind(len(classes))
    index = np.array([list(classes).index(name) for name in selection.classes], dtype=kind)
    parts = _Columns(kind)
    for batch in labels.batches(store, key, COLUMNS):
        parts.add(batch)
    if not parts.pieces:
        raise Refused(f"the selection {key} is empty; lower threshold", code="nothing_selected")
    table = parts.whole()
    places = _places(store, tuple(parts.shards), table["shard"], table["name"])
    if recipe.pseudo_labels == "hard":
        made = targets.smoothed(index[table["label"]], len(classes), recipe.label_smoothing)
    else:
        known = np.zeros(len(classes), dtype=np.bool_)
        known[index] = True
        made = targets.soft(index[table["top_classes"]], table["top_probabilities"], table["tail_mass"], known)
    return Rows(places, made, np.repeat(np.arange(len(places), dtype=np.int32), table["copies"]))


def lone_classes(labeled: Rows, pseudo: Rows, classes: Sequence[str]) -> list[str]:
    """What a person should know of classes that only one of the two data sets has, in sentences."""
    by_humans, by_teacher = labeled.counts(), pseudo.counts()
    said = []
    for have, lack, sentence in (
        (by_teacher, by_humans, "no labeled image, and are learned from the teacher's labels alone"),
        (by_humans, by_teacher, "no pseudo-label after selection, and are learned from labeled images alone"),
        (
            np.ones_like(by_humans),
            by_humans + by_teacher,
            "neither labeled images nor pseudo-labels: nobody teaches them",
        ),
    ):
        names = [name for name, has, lacks in zip(classes, have, lack, strict=True) if has and not lacks]
        if names:
            said.append(f"{len(names)} of {len(classes)} classes have {sentence}: {', '.join(names[:20])}")
    return said


@dataclass
class _Columns:
    """A selection's file as columns, gathered a piece at a time; no row is ever an object."""

    kind: type[np.signedinteger]  #: of a class's number
    shards: dict[str, int] = field(default_factory=dict)
    pieces: list[dict[str, npt.NDArray[Any]]] = field(default_factory=list)

    def add(self, batch: Any) -> None:
        """Take a batch of Arrow's."""
        names = batch.column("shard").to_pylist()
        for name in dict.fromkeys(names):
            self.shards.setdefault(name, len(self.shards))
        num_rows = batch.num_rows
        self.pieces.append(
            {
                "shard": np.fromiter((self.shards[name] for name in names), np.int32, num_rows),
                "name": _numbers(batch.column("sha256").to_pylist()),
                "label": batch.column("label").to_numpy().astype(self.kind),
                "top_classes": batch.column("top_classes").flatten().to_numpy().reshape(num_rows, -1).astype(self.kind),
                "top_probabilities": _floats(batch.column("top_probabilities").flatten()).reshape(num_rows, -1),
                "tail_mass": _floats(batch.column("tail_mass")),
                "copies": batch.column("copies").to_numpy().astype(np.int32),
            }
        )

    def whole(self) -> dict[str, npt.NDArray[Any]]:
        """All rows by column; the pieces are let go one column after the other."""
        return {name: np.concatenate([piece.pop(name) for piece in self.pieces]) for name in list(self.pieces[0])}


def _floats(column: Any) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = column.to_numpy().astype(np.float32)
    return found


def _numbers(sha256s: Sequence[str]) -> npt.NDArray[np.uint64]:
    """The first 64 bits of each."""
    digits = bytes.fromhex("".join(sha256[:NAME_DIGITS] for sha256 in sha256s))
    return np.frombuffer(digits, dtype=">u8").astype(np.uint64)


def _verify(store: Store, key: str, sha256: str) -> None:
    digest = hashlib.sha256()
    try:
        for chunk in store.chunks(key):
            digest.update(chunk)
    except FileNotFoundError as error:
        raise Refused(
            f"the selection {key} is not in the store; restore it, or open another generation", code="selection_missing"
        ) from error
    if digest.hexdigest() != sha256:
        raise Refused(
            f"the selection {key} is damaged: its sha-256 is {digest.hexdigest()[:12]}…, and {sha256[:12]}… was written; "
            f"restore it, or open another generation",
            code="selection_damaged",
        )


def _places(
    store: Store, shards: tuple[str, ...], shard: npt.NDArray[np.int32], name: npt.NDArray[np.uint64]
) -> Places:
    """Where each image lies, one manifest in memory at a time."""
    offset, num_bytes = np.zeros(len(shard), dtype=np.int64), np.zeros(len(shard), dtype=np.int32)
    order = np.argsort(shard, kind="stable")
    edges = np.searchsorted(shard[order], np.arange(len(shards) + 1))
    for number, key in enumerate(shards):
        rows = order[edges[number] : edges[number + 1]]
        members = _manifest(store, key, "unlabeled").members
        names = _numbers([member.sha256 for member in members])
        sorter = np.argsort(names)
        found = sorter[np.searchsorted(names, name[rows], sorter=sorter).clip(max=len(names) - 1)]
        if (lost := int((names[found] != name[rows]).sum())) > 0:
            raise Refused(
                f"{lost} of {len(rows)} images that were selected of shard {key} are not in its manifest; "
                f"restore the shard, or open another generation",
                code="shard_damaged",
            )
        offset[rows] = np.array([member.offset for member in members], dtype=np.int64)[found]
        num_bytes[rows] = np.array([member.num_bytes for member in members], dtype=np.int32)[found]
    return Places(shards, shard, offset, num_bytes)


def _manifest(store: Store, key: str, split: str) -> ShardManifest:
    manifest = manifest_of(store, key)
    if manifest.split != split:  # the holdout never trains
        raise Refused(f"shard {key} is {manifest.split}, not {split}: it cannot train", code="wrong_split")
    return manifest


# -- batches --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batches:
    """All batches of one run."""

    labeled: Rows
    pseudo: Rows | None  #: None: a first teacher, labeled data only
    pictures: Pictures
    noise: Noise
    recipe: Recipe
    seed: int
    num_workers: int = field(default=0, kw_only=True)  #: processes that make them; 0: threads of this one
    part: tuple[int, int] = field(default=(0, 1), kw_only=True)  #: the i-th part of so many of each batch

    @property
    def num_images(self) -> int:
        """Of a whole batch."""
        return self.recipe.labeled_batch * (1 if self.pseudo is None else 1 + self.recipe.unlabeled_ratio)

    def at(self, step: int) -> Batch:
        """The batch of a step: labeled images, then ``unlabeled_ratio`` times as many pseudo-labeled ones.

        With ``part`` it is that part of both, each image as it is in the whole.
        """
        return self._batch(step, self.pictures.made(self.request(step)))

    def request(self, step: int) -> Request:
        """The images of a step, and the seed of their noise."""
        chosen = [
            (number, rows.place(i)) for rows, first, drawn in self._drawn(step) for number, i in enumerate(drawn, first)
        ]
        return Request(
            f"{self.seed}/{step}", tuple(place for _, place in chosen), tuple(number for number, _ in chosen)
        )

    def since(self, first_step: int, num_steps: int) -> Iterator[Batch]:
        """The batches of the steps from ``first_step`` to ``num_steps``, made beside the model while it trains."""
        if not self.num_workers:
            yield from self._by_threads(first_step, num_steps)
            return
        made = loading.made_by_processes(
            self.pictures.store.url, self.noise, self.request, first_step, num_steps, self.num_workers
        )
        try:
            for step, pixels in enumerate(made, first_step):
                yield self._batch(step, pixels)
        finally:
            made.close()  # type: ignore[attr-defined]  # a generator, whose processes end now

    def _by_threads(self, first_step: int, num_steps: int) -> Iterator[Batch]:
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

    def _batch(self, step: int, pixels: Pixels) -> Batch:
        mine = self._drawn(step)
        targets = np.concatenate([rows.whole_targets(drawn) for rows, _, drawn in mine])
        num_labeled, num_pseudo = (len(drawn) for _, _, drawn in (*mine, (None, 0, ()))[:2])
        whole = self.recipe.labeled_batch
        return Batch(
            pixels, targets, num_labeled, num_labeled / whole, num_pseudo / (whole * self.recipe.unlabeled_ratio)
        )

    def _drawn(self, step: int) -> list[tuple[Rows, int, list[int]]]:
        """What this process takes of each data set: the set, the first one's number in the batch, the rows."""
        i, num = self.part
        found, first = [], 0
        for rows, count, stream in self._sources():
            chosen = drawn(len(rows), step, count, self.seed, stream)
            mine = slice(i * count // num, (i + 1) * count // num)
            found.append((rows, first + mine.start, chosen[mine]))
            first += count
        return found

    def _sources(self) -> Iterator[tuple[Rows, int, int]]:
        num_labeled = self.recipe.labeled_batch
        yield self.labeled, num_labeled, LABELED
        if self.pseudo is not None:
            yield self.pseudo, num_labeled * self.recipe.unlabeled_ratio, PSEUDO


def batches(
    store: Store,
    labeled: Rows,
    pseudo: Rows | None,
    recipe: Recipe,
    seed: int,
    num_steps: int,
    data_workers: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Batches:
    """The batches of a run of so many steps; ``data_workers`` as in the settings, -1 to decide by the cores."""
    noise = Noise(recipe)
    made = Batches(labeled, pseudo, Pictures(store, noise), noise, recipe, seed, part=part)
    num_workers = loading.num_workers(
        data_workers,
        cores=available_cores(),
        num_images=made.num_images * num_steps // part[1],
        batch_bytes=3 * made.num_images * recipe.size**2 // part[1],
    )
    return replace(made, num_workers=num_workers)


def drawn(num_rows: int, step: int, count: int, seed: int, stream: int) -> list[int]:
    """The rows of a step: ``count`` at a time off an endless sequence of permutations."""
    positions = range(step * count, (step + 1) * count)
    return [int(_permutation(num_rows, at // num_rows, seed, stream)[at % num_rows]) for at in positions]


@lru_cache(maxsize=4)  # of each of two streams this epoch's and the last one's
def _permutation(num_rows: int, epoch: int, seed: int, stream: int) -> npt.NDArray[np.int32]:
    return np.random.default_rng((seed, stream, epoch)).permutation(np.arange(num_rows, dtype=np.int32))
