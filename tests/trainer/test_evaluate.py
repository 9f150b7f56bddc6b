import math

import numpy as np
import pytest

from trainer import evaluate
from understudy import engine, images
from understudy.errors import LabeledSetRefused
from understudy.shards import ShardWriter, read_manifest
from understudy.testing import picture, tiny_artifact

CLASSES = ("amber", "blue", "coral")
#: Sides and formats; a JPEG of 100 pixels is decoded at a part of its size.
PICTURES = ((100, "JPEG"), (101, "PNG"), (8, "WEBP"))


@pytest.fixture
def holdout(local_store, tmp_path):
    """Three pictures of each colour in one holdout shard."""
    import hashlib

    writer = ShardWriter(tmp_path / "h.tar", split="holdout")
    for i, name in enumerate(CLASSES):
        for seed in range(3):
            data = picture(i, len(CLASSES), seed=seed)
            sha256 = hashlib.sha256(data).hexdigest()
            writer.add(data, sha256=sha256, name="x.png", facts=images.inspect(data), class_name=name)
    return writer.seal(local_store).key


def measured(store, keys, classes=CLASSES, shown=lambda done, total: None, **model):
    return evaluate.measure(store, engine.load(*tiny_artifact(classes, **model), provider="cpu"), keys, shown)


def test_a_model_that_is_always_right(local_store, holdout):
    """Every figure of it, and the progress."""
    shown = []

    found = measured(local_store, (holdout,), shown=lambda done, total: shown.append((done, total)))

    assert found.is_right == (True,) * 9
    assert found.truth == (0, 0, 0, 1, 1, 1, 2, 2, 2)
    assert (found.evaluation.num_images, found.evaluation.num_correct, found.evaluation.accuracy) == (9, 9, 1.0)
    assert found.evaluation.per_class == dict.fromkeys(CLASSES, 1.0)
    assert found.evaluation.interval.high == 1.0
    assert found.evaluation.interval.low == pytest.approx(9 / (9 + 1.959964**2))  # Wilson, by hand
    assert shown[-1] == (9, 9)


def test_what_is_kept_of_every_image(local_store, holdout):
    """The paired tests and the bootstrap need them: the answer, how sure, and what the truth was given."""
    found = measured(local_store, (holdout,), rotated_by=1)

    assert found.confidence.dtype == found.of_truth.dtype == np.float32
    assert found.confidence.shape == found.of_truth.shape == (9,)
    assert (found.of_truth < 0.5).all()
    assert (found.confidence > 0.5).all()
    assert [found.model_classes[answer] for answer in found.predicted] != [CLASSES[i] for i in found.truth]
    assert found == evaluate.Measured.model_validate_json(found.to_json())


def test_who_is_taken_for_whom(local_store, holdout):
    """Rotated names: every class is another, and the matrix says which."""
    found = measured(local_store, (holdout,), rotated_by=1)

    assert found.confusion_matrix().sum() == 9
    assert found.confusion_matrix().diagonal().sum() == 0
    assert [one.num_images for one in found.evaluation.confusions] == [3, 3, 3]
    assert {one.truth for one in found.evaluation.confusions} == set(CLASSES)
    assert found.evaluation.precision == dict.fromkeys(CLASSES, 0.0)


def test_confidence_is_judged_where_no_temperature_was_fitted(local_store, tmp_path):
    """An even last digit of the sha-256: the calibration half, which calibration error and likelihood leave out."""
    writer = ShardWriter(tmp_path / "h.tar", split="holdout")
    for i in range(8):  # even ones in the wrong colour
        data = picture(i % 3 if i % 2 else (i + 1) % 3, 3, seed=i)
        writer.add(data, sha256=f"{i:064x}", name="x", facts=images.inspect(data), class_name=CLASSES[i % 3])
    key = writer.seal(local_store).key

    found = measured(local_store, (key,))

    assert found.is_calibration == (True, False) * 4
    assert found.evaluation.accuracy == 0.5
    assert found.evaluation.num_reliability_images == 4
    assert sum(one.num_images for one in found.evaluation.reliability) == 4
    assert sum(one.num_correct for one in found.evaluation.reliability) == 4
    assert found.evaluation.negative_log_likelihood < 0.7


def test_the_latency_of_one_image(local_store, holdout):
    """A few dozen runs on the provider that is named; of a slow model, as many as fit into the time."""
    loaded = engine.load(*tiny_artifact(CLASSES), provider="cpu", threads=1)
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    ticks = iter(range(1000))

    quick = evaluate.latency(loaded, pixels)
    slow = evaluate.latency(loaded, pixels, clock=lambda: float(next(ticks)))  # each run takes a second

    assert (quick.provider, quick.threads, quick.num_runs) == ("cpu", 1, evaluate.NUM_LATENCY_RUNS)
    assert 0 < quick.median_ms <= quick.p95_ms
    assert slow.num_runs < 4
    assert slow.median_ms == slow.p95_ms == 1000.0


def test_top_five_by_hand():
    """The truth is among the most probable; a class that the model does not know never is."""
    probabilities = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]], dtype=np.float32)
    truth = np.array([1, 3, 9])

    assert evaluate.top_accuracy(probabilities, truth, 1) == 0.0
    assert evaluate.top_accuracy(probabilities, truth, 3) == pytest.approx(1 / 3)
    assert evaluate.top_accuracy(probabilities, truth) == pytest.approx(2 / 3)


def test_precision_and_recall_by_hand(local_store, tmp_path):
    """Two ambers and one blue, one of the ambers looking blue."""
    writer = ShardWriter(tmp_path / "h.tar", split="holdout")
    for i, (colour, name) in enumerate([(0, "amber"), (1, "amber"), (1, "blue")]):
        data = picture(colour, 3, seed=i)
        writer.add(data, sha256=f"{i:064x}", name="x", facts=images.inspect(data), class_name=name)

    found = measured(local_store, (writer.seal(local_store).key,)).evaluation

    assert found.per_class == {"amber": 0.5, "blue": 1.0}
    assert found.precision == {"amber": 1.0, "blue": 0.5}
    assert [(c.truth, c.answer, c.num_images) for c in found.confusions] == [("amber", "blue", 1)]


def test_a_card_names_only_the_most_frequent_mistakes():
    """Of a thousand classes, each taken for another: fifty; the most frequent first."""
    names = [f"{i}" for i in range(1000)]
    truth = np.repeat(np.arange(1000), 2)
    predicted = (truth + 1) % 1000
    truth, predicted = np.append(truth, 7), np.append(predicted, 8)

    found = evaluate.strongest(evaluate.confused(truth, predicted), names, names)

    assert len(found) == evaluate.MAX_CONFUSIONS
    assert (found[0].truth, found[0].answer, found[0].num_images) == ("7", "8", 3)


def test_a_model_that_is_always_wrong(local_store, holdout):
    """Rotated names: sure of itself and mistaken."""
    found = measured(local_store, (holdout,), rotated_by=1)

    assert found.evaluation.accuracy == 0.0
    assert found.evaluation.calibration_error > 0.9
    assert found.evaluation.negative_log_likelihood > 2.0


def test_a_class_that_the_model_does_not_know_counts_as_wrong(local_store, holdout):
    """An old champion is measured on a holdout with a new class, too."""
    found = measured(local_store, (holdout,), classes=("coral", "zebra"))

    assert found.classes == CLASSES
    assert found.evaluation.per_class["amber"] == found.evaluation.per_class["blue"] == 0.0
    assert math.isfinite(found.evaluation.negative_log_likelihood)


def test_what_is_evaluated_is_what_is_served(local_store, tmp_path):
    """Evaluation gives the engine the very arrays that ``images.load``, which serves, makes of the same bytes."""
    sent = [picture(i, len(CLASSES), size=size, image_format=f) for i, (size, f) in enumerate(PICTURES)]
    writer = ShardWriter(tmp_path / "h.tar", split="holdout")
    for i, data in enumerate(sent):
        writer.add(data, sha256=str(i) * 64, name="x", facts=images.inspect(data), class_name=CLASSES[i])
    key = writer.seal(local_store).key
    loaded = engine.load(*tiny_artifact(CLASSES), provider="cpu")
    served = [images.load(data, loaded.card.preprocessing) for data in sent]

    evaluated = list(evaluate._inputs(local_store, [read_manifest(local_store, key)], loaded, lambda *_: None, 3))

    assert all((one == other).all() for one, other in zip(evaluated, served, strict=True))


def test_an_empty_holdout_judges_nothing(local_store):
    """There is no accuracy of no images."""
    with pytest.raises(LabeledSetRefused, match="holdout is empty"):
        measured(local_store, ())


def test_calibration_error_by_hand():
    """Two bins: one is off by 0.3 with three images, the other perfect with one."""
    confidence = np.array([0.7, 0.7, 0.7, 1.0], dtype=np.float32)

    assert evaluate.calibration_error(confidence, np.array([True, True, True, True])) == pytest.approx(0.3 * 3 / 4)


def test_negative_log_likelihood_by_hand():
    """Minus the mean of the logarithms."""
    probabilities = np.array([[0.5, 0.5], [0.1, 0.9]], dtype=np.float32)

    found = evaluate.negative_log_likelihood(probabilities, np.array([0, 1]))

    assert found == pytest.approx(-(math.log(0.5) + math.log(0.9)) / 2, rel=1e-5)


def test_reliability_is_what_the_calibration_error_is_made_of():
    """Every image is in one bin, with whether it was right; a confidence of 1 is in the last."""
    confidence = np.array([0.05, 0.5, 0.51, 0.93, 0.95, 1.0], dtype=np.float32)
    is_right = np.array([False, True, False, False, True, True])

    bins = evaluate.reliability(confidence, is_right)

    told = {i: (one.num_images, one.num_correct) for i, one in enumerate(bins) if one.num_images}
    assert told == {0: (1, 0), 7: (2, 1), 13: (1, 0), 14: (2, 2)}
    assert (len(bins), bins[0].low, bins[-1].high) == (15, 0.0, 1.0)
