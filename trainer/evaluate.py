"""A model on the holdout, through the exported artifact and the preprocessing that serves.

Besides ``robustness``, which corrupts a sample, the only part of the trainer that reads the holdout;
``gate`` sees what was measured here. Besides the figures it keeps what was answered to each image, for
paired tests. What depends on confidence is measured on the half of the holdout that no temperature
was fitted on.
"""

import base64
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.sparse import coo_array
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from trainer.calibration import is_calibration
from understudy import images
from understudy.engine import Engine, Probabilities, predict_all
from understudy.errors import LabeledSetRefused
from understudy.images import Pixels
from understudy.records import (
    Confusion,
    Evaluation,
    Interval,
    Latency,
    Preprocessing,
    Record,
    ReliabilityBin,
    ShardManifest,
)
from understudy.shards import read_images, read_manifest
from understudy.store import Store

BATCH = 32
#: Bins of the expected calibration error, as in Guo et al. 2017.
NUM_BINS = 15
#: A class that the model gives no probability at all would cost an infinite likelihood.
MIN_PROBABILITY = 1e-12
#: An answer counts as nearly right where the truth is among so many; all, where there are fewer classes.
NUM_TOP = 5
#: Mistakes that the card names; of ten classes more than half of all kinds there are.
MAX_CONFUSIONS = 50
#: Single images that the latency is measured on: enough for a 95th percentile, and how long at most.
NUM_LATENCY_RUNS, MAX_LATENCY_S, NUM_WARM_RUNS = 60, 3.0, 3

Indexes = npt.NDArray[np.int64]  # (N,)
Floats = npt.NDArray[np.float32]  # (N,)


class Measured(Record):
    """A model's evaluation, and its answer to every image of the holdout."""

    evaluation: Evaluation
    holdout: tuple[str, ...]  #: keys of the shards, in the order of the images
    classes: tuple[str, ...]  #: every class of the holdout
    truth: tuple[int, ...]  #: the class of each image, an index into ``classes``
    is_right: tuple[bool, ...]  #: whether the model's most probable class was that
    predicted: tuple[int, ...] = ()  #: that class, an index into the model's own; to compare two number formats
    model_classes: tuple[str, ...] = ()  #: the model's own
    confusion: tuple[tuple[int, int, int], ...] = ()  #: every (truth, predicted, images) that occurs
    packed_confidence: Annotated[str, Field(repr=False)] = ""  #: see ``confidence``; base64 of little-endian float32
    packed_of_truth: Annotated[str, Field(repr=False)] = ""  #: see ``of_truth``
    is_calibration: tuple[bool, ...] = ()  #: whether an image is of the half that temperatures are fitted on

    @property
    def confidence(self) -> Floats:
        """The largest probability of each image: (N,) float32; empty where it was not kept."""
        return unpacked(self.packed_confidence)

    @property
    def of_truth(self) -> Floats:
        """The probability of each image's true class, 0 for one that the model does not know: (N,) float32."""
        return unpacked(self.packed_of_truth)

    def confusion_matrix(self) -> Indexes:
        """Images by true class and answer: (classes of the holdout, classes of the model) int64."""
        truth, predicted, counts = np.array(self.confusion, dtype=np.int64).reshape(-1, 3).T
        shape = (len(self.classes), len(self.model_classes))
        matrix: Indexes = coo_array((counts, (truth, predicted)), shape=shape).toarray()
        return matrix


def measure(store: Store, engine: Engine, holdout: Sequence[str], show: Callable[[int, int], None]) -> Measured:
    """Run a model over the holdout's shards; ``show`` is told (images done, images in all).

    Raises LabeledSetRefused if there is no image in them.
    """
    manifests = [read_holdout(store, key) for key in holdout]
    members = [member for manifest in manifests for member in manifest.members]
    if not members:
        raise LabeledSetRefused("the holdout is empty, so no model can be judged; send labeled images")
    started = time.perf_counter()
    rows = predict_all(engine, _inputs(store, manifests, engine, show, len(members)), batch=BATCH)
    probabilities = np.stack(list(rows))  # (N, C) float32
    seconds = time.perf_counter() - started  # decoding and resizing included: what a user of one process would see
    first = next(data for manifest in manifests for _, data in read_images(store, manifest))
    return _measured(
        engine,
        tuple(holdout),
        [member.class_name or "" for member in members],
        np.array([is_calibration(member.sha256) for member in members]),
        probabilities,
        len(members) / seconds,
        latency(engine, images.load(first, engine.card.preprocessing)),
    )


def some(
    store: Store, holdout: Sequence[str], preprocessing: Preprocessing, is_meant: Callable[[str], bool], limit: int
) -> tuple[Pixels, list[str]]:
    """At most ``limit`` of the holdout's images that are meant, from all over it, and their classes.

    ``is_meant`` is asked with a sha-256. The pixels are (N, size, size, 3) uint8, as a model is served them; N may be 0.
    """
    manifests = [read_holdout(store, key) for key in holdout]
    meant = [(shard.key, member) for shard in manifests for member in shard.members if is_meant(member.sha256)]
    chosen = [meant[i * len(meant) // limit] for i in range(limit)] if len(meant) > limit else meant
    pixels = np.empty((len(chosen), preprocessing.size, preprocessing.size, 3), dtype=np.uint8)
    for i, (key, member) in enumerate(chosen):
        pixels[i] = images.load(store.get_range(key, member.offset, member.num_bytes), preprocessing)
    return pixels, [member.class_name or "" for _, member in chosen]


def read_holdout(store: Store, key: str) -> ShardManifest:
    """What a shard of the holdout holds."""
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
    manifests = [read_holdout(store, key) for key in holdout]
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


def latency(engine: Engine, pixels: Pixels, clock: Callable[[], float] = time.perf_counter) -> Latency:
    """How long the engine takes for one image, (size, size, 3) uint8: a few dozen runs, in at most some seconds."""
    one = pixels[None]
    for _ in range(NUM_WARM_RUNS):
        engine.predict(one)
    seconds: list[float] = []
    begun = clock()
    while len(seconds) < NUM_LATENCY_RUNS and (not seconds or clock() - begun < MAX_LATENCY_S):
        started = clock()
        engine.predict(one)
        seconds.append(clock() - started)
    median, p95 = np.percentile(seconds, (50, 95)) * 1000
    return Latency(
        provider=engine.provider,
        threads=engine.threads,
        num_runs=len(seconds),
        median_ms=float(median),
        p95_ms=float(p95),
    )


def _measured(
    engine: Engine,
    holdout: tuple[str, ...],
    names: Sequence[str],
    is_of_calibration: npt.NDArray[np.bool_],
    probabilities: Probabilities,
    speed: float,
    measured_latency: Latency,
) -> Measured:
    known = engine.card.classes
    classes = tuple(sorted(set(names)))
    place = {name: i for i, name in enumerate((*known, *(name for name in classes if name not in known)))}
    truth = np.array([place[name] for name in names], dtype=np.int64)  # (N,), into known and what it lacks
    predicted = probabilities.argmax(axis=1)  # (N,), into known, with which all begins
    confidence, of_truth = probabilities.max(axis=1), probability_of_truth(probabilities, truth)
    is_right = predicted == truth
    num_right = int(is_right.sum())
    precision, recall, _, _ = precision_recall_fscore_support(
        truth, predicted, labels=[place[name] for name in classes], average=None, zero_division=0.0
    )
    judged = ~is_of_calibration if not is_of_calibration.all() else np.ones_like(is_of_calibration)
    of_holdout = np.array([classes.index(name) for name in names], dtype=np.int64)  # (N,), into classes
    confusion = confused(of_holdout, predicted)
    return Measured(
        evaluation=Evaluation(
            version=engine.version,
            variant=engine.variant,
            num_images=len(names),
            num_correct=num_right,
            accuracy=num_right / len(names),
            interval=wilson(num_right, len(names)),
            per_class={name: float(share) for name, share in zip(classes, recall, strict=True)},
            precision={name: float(share) for name, share in zip(classes, precision, strict=True)},
            top5_accuracy=top_accuracy(probabilities, truth),
            confusions=strongest(confusion, classes, known),
            calibration_error=calibration_error(confidence[judged], is_right[judged]),
            negative_log_likelihood=negative_log_likelihood(probabilities[judged], truth[judged]),
            reliability=reliability(confidence[judged], is_right[judged]),
            num_reliability_images=int(judged.sum()),
            images_per_second=speed,
            latency=measured_latency,
        ),
        holdout=holdout,
        classes=classes,
        truth=tuple(of_holdout.tolist()),
        is_right=tuple(is_right.tolist()),
        predicted=tuple(predicted.tolist()),
        model_classes=known,
        confusion=confusion,
        packed_confidence=packed(confidence),
        packed_of_truth=packed(of_truth),
        is_calibration=tuple(is_of_calibration.tolist()),
    )


def packed(values: Floats) -> str:
    """(N,) float32 as base64 of their little-endian bytes: exact, and six characters a number."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def unpacked(text: str) -> Floats:
    """What was packed: (N,) float32."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)


def probability_of_truth(probabilities: Probabilities, truth: Indexes) -> Floats:
    """What a model gives the true class of each image, 0 for a class beyond its own: (N,) float32."""
    is_known = truth < probabilities.shape[1]
    chosen = probabilities[np.arange(len(truth)), np.where(is_known, truth, 0)]
    return np.where(is_known, chosen, np.float32(0.0))


def top_accuracy(probabilities: Probabilities, truth: Indexes, num_top: int = NUM_TOP) -> float:
    """Share of images whose true class is among the ``num_top`` most probable; ties count for the model."""
    of_truth = probability_of_truth(probabilities, truth)
    num_above = (probabilities > of_truth[:, None]).sum(axis=1)
    is_known = truth < probabilities.shape[1]
    return float((is_known & (num_above < num_top)).mean())


def confused(truth: Indexes, predicted: Indexes) -> tuple[tuple[int, int, int], ...]:
    """The confusion matrix without its zeros: (truth, predicted, images), the most frequent first."""
    pairs, counts = np.unique(np.stack([truth, predicted], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple((int(t), int(p), int(n)) for (t, p), n in zip(pairs[order], counts[order], strict=True))


def strongest(
    confusion: Sequence[tuple[int, int, int]], classes: Sequence[str], known: Sequence[str]
) -> tuple[Confusion, ...]:
    """The most frequent mistakes by name, at most ``MAX_CONFUSIONS``."""
    named = (Confusion(truth=classes[t], answer=known[p], num_images=n) for t, p, n in confusion)
    return tuple([one for one in named if one.truth != one.answer][:MAX_CONFUSIONS])


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
    of_truth = probability_of_truth(probabilities, truth).astype(np.float64)
    return float(-np.log(np.maximum(of_truth, MIN_PROBABILITY)).mean())
