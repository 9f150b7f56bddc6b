"""A model's error under corruption, and what it is called relative to another's (mCE).

Definitions of Hendrycks & Dietterich 2019, section 4: the corruption error of a model is its error summed
over the severities, divided by the same of a reference; the mean over the corruptions comes last.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from trainer.evaluate import BATCH
from trainer.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from trainer.robustness.sample import Sample
from understudy import images
from understudy.engine import Engine, predict_all
from understudy.errors import Refused
from understudy.images import Pixels
from understudy.records import Robustness

#: AlexNet's error on ImageNet-C, the mean over the severities (google-research/augmix, imagenet.py).
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic": 0.646056,
    "pixelate": 0.717840,
    "jpeg": 0.606500,
}
#: ImageNet-1k: the only classes that AlexNet's figures are about.
NUM_IMAGENET_CLASSES = 1000

Show = Callable[[int, int], None]
Answers = npt.NDArray[np.int64]


def measure(engine: Engine, sample: Sample, show: Show, corruptions: Sequence[str] = tuple(CORRUPTIONS)) -> Robustness:
    """A model's error on a sample as it is and corrupted; ``show`` is told (images done, images in all)."""
    answers = np.array(list(_answers(engine, _inputs(engine, sample, corruptions, show))))
    per_image = answers.reshape(len(sample), 1 + len(corruptions) * len(SEVERITIES))
    is_wrong = per_image != truth_of(engine, sample)[:, None]
    under = is_wrong[:, 1:].reshape(len(sample), len(corruptions), len(SEVERITIES)).mean(axis=0)  # (corruptions, 5)
    return Robustness(
        version=engine.version,
        sample=sample.sha256,
        num_images=len(sample),
        clean_error=float(is_wrong[:, 0].mean()),
        errors={name: tuple(map(float, row)) for name, row in zip(corruptions, under, strict=True)},
    )


def truth_of(engine: Engine, sample: Sample) -> Answers:
    """The class of each image as an index into the model's own; -1 for one that it does not know."""
    index = {name: i for i, name in enumerate(engine.card.classes)}
    return np.array([index.get(photo.class_name, -1) for photo in sample.photos], dtype=np.int64)


def _inputs(engine: Engine, sample: Sample, corruptions: Sequence[str], show: Show) -> Iterator[Pixels]:
    """Each image, then its corruptions."""
    for done, (photo, data) in enumerate(sample, 1):
        pixels = images.load(data, engine.card.preprocessing)
        yield pixels
        for name in corruptions:
            for severity in SEVERITIES:
                yield corrupt(pixels, name, severity, photo.sha256)
        show(done, len(sample))


def _answers(engine: Engine, inputs: Iterator[Pixels]) -> Iterator[int]:
    for row in predict_all(engine, inputs, batch=BATCH):
        yield int(row.argmax())


def relative_errors(errors: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float | None]:
    """Each error as a multiple of the reference's. None where the reference makes none: that has no multiple."""
    missing = sorted(errors.keys() ^ reference.keys())
    if missing:
        raise Refused(
            f"one was measured under {', '.join(missing)} and the other was not; measure both again",
            code="incomparable",
        )
    return {name: error / reference[name] if reference[name] > 0 else None for name, error in errors.items()}


def mean_relative_error(errors: Mapping[str, float], reference: Mapping[str, float]) -> float | None:
    """mCE, or mFR with the probabilities of flips: 100 × the mean of the multiples, so that 100 is the reference.

    None if there is none with a multiple. Raises Refused if the two do not have the same names.
    """
    multiples = [multiple for multiple in relative_errors(errors, reference).values() if multiple is not None]
    return 100.0 * sum(multiples) / len(multiples) if multiples else None


def mce(robustness: Robustness, reference: Robustness) -> float | None:
    """Mean corruption error against another model on the same images. Raises Refused if they are not the same."""
    if robustness.sample != reference.sample:
        raise Refused(
            f"{robustness.version} and {reference.version} were measured on different images; measure both again",
            code="incomparable",
        )
    return mean_relative_error(robustness.mean_errors, reference.mean_errors)


def mce_of_alexnet(robustness: Robustness, num_classes: int) -> float | None:
    """Mean corruption error relative to AlexNet's published errors.

    Raises Refused unless the model has ImageNet's 1,000 classes: against other classes it means nothing.
    """
    if num_classes != NUM_IMAGENET_CLASSES:
        raise Refused(
            f"model {robustness.version} has {num_classes} classes; AlexNet's errors are on ImageNet's "
            f"{NUM_IMAGENET_CLASSES}, and say nothing of other data; leave --alexnet out",
            code="not_imagenet",
        )
    return mean_relative_error(robustness.mean_errors, ALEXNET)
