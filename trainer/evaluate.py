"""A model on the holdout, through the exported artifact and the preprocessing that serves.

The only module of the trainer that reads the holdout; ``gate`` sees what it measured. Besides the
figures it keeps which image was answered rightly, for the paired test.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.metrics import recall_score

from trainer.calibration import is_calibration
from understudy import images
from understudy.engine import Engine, Probabilities, predict_all
from understudy.errors import LabeledSetRefused
from understudy.images import Pixels
from understudy.records import Evaluation, Interval, Preprocessing, Record, ReliabilityBin, ShardManifest
from understudy.shards import read_images, read_manifest
from understudy.store import Store

BATCH = 32
#: Bins of the expected calibration error, as in Guo et al. 2017.
NUM_BINS = 15
#: A class that the model gives no probability at all would cost an infinite likelihood.
MIN_PROBABILITY = 1e-12

Indexes = npt.NDArray[np.int64]  # (N,)


class Measured(Record):
    """A model's evaluation, and its answer to every image of the holdout."""

    evaluation: Evaluation
    holdout: tuple[str, ...]  #: keys of the shards, in the order of the images
    classes: tuple[str, ...]  #: every class of the holdout
    truth: tuple[int, ...]  #: the class of each image, an index into ``classes``
    is_right: tuple[bool, ...]  #: whether the model's most probable class was that
    predicted: tuple[int, ...] = ()  #: that class, an index into the model's own; to compare two number formats


def measure(store: Store, engine: Engine, holdout: Sequence[str], show: Callable[[int, int], None]) -> Measured:
    """Run a model over the holdout's shards; ``show`` is told (images done, images in all).

    Raises LabeledSetRefused if there is no image in them.
    """
    manifests = [_manifest(store, key) for key in holdout]
    names = [member.class_name or "" for manifest in manifests for member in manifest.members]
    if not names:
        raise LabeledSetRefused("the holdout is empty, so no model can be judged; send labeled images")
    started = time.perf_counter()
    rows = predict_all(engine, _inputs(store, manifests, engine, show, len(names)), batch=BATCH)
    probabilities = np.stack(list(rows))  # (N, C) float32
    seconds = time.perf_counter() - started  # decoding and resizing included: what a user of one process would see
    return _measured(engine, tuple(holdout), names, probabilities, len(names) / seconds)


def some(
    store: Store, holdout: Sequence[str], preprocessing: Preprocessing, is_meant: Callable[[str], bool], limit: int
) -> tuple[Pixels, list[str]]:
    """At most ``limit`` of the holdout's images that are meant, from all over it, and their classes.

    ``is_meant`` is asked with a sha-256. The pixels are (N, size, size, 3) uint8, as a model is served them; N may be 0.
    """
    manifests = [_manifest(store, key) for key in holdout]
    meant = [(shard.key, member) for shard in manifests for member in shard.members if is_meant(member.sha256)]
    chosen = [meant[i * len(meant) // limit] for i in range(limit)] if len(meant) > limit else meant
    pixels = np.empty((len(chosen), preprocessing.size, preprocessing.size, 3), dtype=np.uint8)
    for i, (key, member) in enumerate(chosen):
        pixels[i] = images.load(store.get_range(key, member.offset, member.num_bytes), preprocessing)
    return pixels, [member.class_name or "" for _, member in chosen]


def _manifest(store: Store, key: str) -> ShardManifest:
    manifest = read_manifest(store, key)
    assert manifest.split == "holdout", f"{key} is {manifest.split}"
    return manifest


def _inputs(
    store: Store, manifests: Sequence[ShardManifest], engine: Engine, show: Callable[[int, int], None], total: int
) -> Iterator[Pixels]:
    done = 0
    for manifest in manifests:
        for _, data in read_images(store, manifest):
            yield images.load(data, engine.card.preprocessing)
            done += 1
            show(done, total)


def calibration_half(
    store: Store, holdout: Sequence[str], preprocessing: Preprocessing, show: Callable[[int, int], None]
) -> Iterator[tuple[str, Pixels]]:
    """The class and the input of each image that a temperature may be fitted on, as when serving: un-noised."""
    manifests = [_manifest(store, key) for key in holdout]
    halves = [
        one.model_copy(update={"members": tuple(m for m in one.members if is_calibration(m.sha256))})
        for one in manifests
    ]
    done, total = 0, sum(len(half.members) for half in halves)
    for half in halves:
        for member, data in read_images(store, half):
            yield member.class_name or "", images.load(data, preprocessing)
            done += 1
            show(done, total)


def _measured(
    engine: Engine, holdout: tuple[str, ...], names: Sequence[str], probabilities: Probabilities, speed: float
) -> Measured:
    known = engine.card.classes
    classes = tuple(sorted(set(names)))
    everything = (*known, *(name for name in classes if name not in known))
    truth = np.array([everything.index(name) for name in names], dtype=np.int64)  # (N,), into everything
    predicted = probabilities.argmax(axis=1)  # (N,), into known, with which everything begins
    is_right = predicted == truth
    recalls = recall_score(
        truth, predicted, labels=[everything.index(name) for name in classes], average=None, zero_division=0.0
    )
    num_right = int(is_right.sum())
    return Measured(
        evaluation=Evaluation(
            version=engine.version,
            variant=engine.variant,
            num_images=len(names),
            num_correct=num_right,
            accuracy=num_right / len(names),
            interval=wilson(num_right, len(names)),
            per_class={name: float(recall) for name, recall in zip(classes, recalls, strict=True)},
            calibration_error=calibration_error(probabilities.max(axis=1), is_right),
            negative_log_likelihood=negative_log_likelihood(probabilities, truth),
            images_per_second=speed,
            reliability=reliability(probabilities.max(axis=1), is_right),
        ),
        holdout=holdout,
        classes=classes,
        truth=tuple(classes.index(name) for name in names),
        is_right=tuple(bool(right) for right in is_right),
        predicted=tuple(int(answer) for answer in predicted),
    )


def wilson(num_right: int, num_images: int) -> Interval:
    """The Wilson score interval of an accuracy, 95 %."""
    low, high = binomtest(num_right, num_images).proportion_ci(0.95, method="wilson")
    return Interval(low=float(low), high=float(high))


def calibration_error(confidence: npt.NDArray[np.float32], is_right: npt.NDArray[np.bool_]) -> float:
    """How far confidence and accuracy are apart: the mean over equal-width bins, weighted by their images.

    ``confidence`` and ``is_right`` are (N,). 0 is perfect; 0.1 means off by 10 points on average.
    """
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)  # (N,)
    gaps = np.bincount(bins, weights=confidence - is_right, minlength=NUM_BINS)  # (15,), images × gap of each bin
    return float(np.abs(gaps).sum() / len(bins))


def reliability(confidence: npt.NDArray[np.float32], is_right: npt.NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """The table behind a reliability diagram, over the same bins; ``confidence`` and ``is_right`` are (N,)."""
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)  # (N,)
    num_images = np.bincount(bins, minlength=NUM_BINS)  # (15,)
    num_correct = np.bincount(bins[is_right], minlength=NUM_BINS)  # (15,)
    return tuple(
        ReliabilityBin(
            low=i / NUM_BINS, high=(i + 1) / NUM_BINS, num_images=int(num_images[i]), num_correct=int(num_correct[i])
        )
        for i in range(NUM_BINS)
    )


def negative_log_likelihood(probabilities: Probabilities, truth: Indexes) -> float:
    """The mean of -log p(true class); a class that the model does not know has ``MIN_PROBABILITY``."""
    is_known = truth < probabilities.shape[1]
    of_truth = np.where(is_known, probabilities[np.arange(len(truth)), np.where(is_known, truth, 0)], 0.0)
    return float(-np.log(np.maximum(of_truth.astype(np.float64), MIN_PROBABILITY)).mean())
