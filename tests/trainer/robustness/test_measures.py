import numpy as np
import pytest

from trainer.progress import Stopped
from trainer.robustness import measures
from trainer.robustness.corruptions import CORRUPTIONS
from trainer.robustness.sample import Sample, sample
from understudy.errors import Refused
from understudy.records import Robustness


def robustness(version, sample="0" * 64, **errors):
    return Robustness(version=version, sample=sample, num_images=10, clean_error=0.1, errors=errors)


def nothing(done, total):
    pass


def test_errors_by_corruption_and_severity(local_store, holdout, load):
    """A model of colours is right as they are; without contrast all colours are one; the progress is told."""
    shown = []

    found = measures.measure(load(), sample(local_store, holdout, 6), lambda *at: shown.append(at))

    assert tuple(found.errors) == tuple(CORRUPTIONS)
    assert len(found.errors) == 15
    assert all(len(errors) == 5 and all(0 <= error <= 1 for error in errors) for errors in found.errors.values())
    assert found.clean_error == 0.0
    assert found.errors["pixelate"] == (0.0,) * 5
    assert found.num_images == 6
    assert shown == [(i, 6) for i in range(1, 7)]
    assert found == measures.measure(load(), sample(local_store, holdout, 6), nothing)


def test_each_answer_is_to_its_own_corruption(local_store, holdout, load):
    """A model that is right about nothing but brightened pictures errs under everything else."""

    class White:
        """Answers the true class if the picture has become lighter than any of the clean ones."""

        version, card = load().version, load().card

        def predict(self, pixels):
            light = pixels.mean(axis=(1, 2, 3)) > 200
            return np.stack([~light, light, np.zeros_like(light)], axis=1).astype(np.float32)

    one = next(photo for photo in sample(local_store, holdout, 12).photos if photo.class_name == "blue")
    found = measures.measure(White(), Sample(local_store, (one,)), nothing, ["contrast", "brightness", "snow"])

    assert found.clean_error == 1.0
    assert found.errors["contrast"] == (1.0,) * 5
    assert found.errors["snow"][-1] == 0.0


def test_a_class_that_the_model_does_not_know_counts_as_wrong(local_store, holdout, load):
    """An old model on a holdout with new classes."""
    found = measures.measure(load(("x", "y")), sample(local_store, holdout, 3), nothing, ["jpeg"])

    assert (found.clean_error, found.mean_error) == (1.0, 1.0)


def test_a_measurement_can_be_stopped_between_two_images(local_store, holdout, load):
    """What the progress raises ends it."""

    def stop(done, total):
        raise Stopped

    with pytest.raises(Stopped):
        measures.measure(load(), sample(local_store, holdout, 3), stop)


def test_mce_by_hand():
    """Sums over the severities are divided for each corruption; the mean of the quotients comes last."""
    one = robustness("b", fog=(0.1, 0.3), snow=(0.4, 0.4))
    reference = robustness("a", fog=(0.2, 0.2), snow=(0.6, 1.0))

    assert measures.relative_errors(one.mean_errors, reference.mean_errors) == pytest.approx({"fog": 1.0, "snow": 0.5})
    assert measures.mce(one, reference) == pytest.approx(75.0)  # the quotient of the means would be 60
    assert measures.mce(reference, reference) == pytest.approx(100.0)
    assert (one.mean_errors, one.mean_error) == ({"fog": 0.2, "snow": 0.4}, pytest.approx(0.3))


def test_a_reference_without_errors_has_no_multiples():
    """What nobody errs under is left out; if that is everything, there is no mCE."""
    one = robustness("b", fog=(0.1,), snow=(0.2,))

    assert measures.mce(one, robustness("a", fog=(0.0,), snow=(0.4,))) == pytest.approx(50.0)
    assert measures.mce(one, robustness("a", fog=(0.0,), snow=(0.0,))) is None


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (robustness("a", sample="1" * 64, fog=(0.5,)), "on different images"),
        (robustness("a", snow=(0.5,)), "under fog, snow"),
    ],
)
def test_what_cannot_be_compared_is_refused(other, said):
    """Other images, other corruptions."""
    with pytest.raises(Refused, match=said):
        measures.mce(robustness("b", fog=(0.5,)), other)


def test_alexnet_is_100_and_for_imagenet_alone():
    """Its own errors give 100; ten classes of clothes have nothing to do with it."""
    alexnet = robustness("alexnet", **{name: (error,) for name, error in measures.ALEXNET.items()})

    assert measures.mce_of_alexnet(alexnet, 1000) == pytest.approx(100.0)
    assert measures.ALEXNET.keys() == CORRUPTIONS.keys()
    with pytest.raises(Refused, match="has 10 classes; AlexNet's errors are on ImageNet's 1000"):
        measures.mce_of_alexnet(alexnet, 10)
