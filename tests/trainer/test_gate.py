import numpy as np
import pytest

from trainer import evaluate, gate, paired
from trainer.evaluate import Measured
from understudy.errors import Conflict
from understudy.records import Evaluation, GateReport

RNG = np.random.default_rng(0)


def measured(version, is_right, truth=None, classes=("cat", "dog"), holdout=("holdout/a.tar",)):
    num_images, num_right = len(is_right), sum(map(bool, is_right))
    evaluation = Evaluation(
        version=version,
        num_images=num_images,
        num_correct=num_right,
        accuracy=num_right / num_images,
        interval=evaluate.wilson(num_right, num_images),
        per_class={},
        calibration_error=0.0,
        negative_log_likelihood=0.0,
        images_per_second=1.0,
    )
    truth = truth if truth is not None else [i % len(classes) for i in range(num_images)]
    return Measured(
        evaluation=evaluation,
        holdout=holdout,
        classes=classes,
        truth=tuple(truth),
        is_right=tuple(map(bool, is_right)),
    )


def test_a_clear_gain_promotes():
    """Sixty images won and seven lost cannot be chance."""
    challenger = measured("b", [1] * 60 + [0] * 7 + [1] * 433)
    champion = measured("a", [0] * 60 + [1] * 7 + [1] * 433)

    report = gate.decide(1, challenger, champion)

    assert (report.verdict, report.rule) == ("promote", gate.GAIN)
    assert report.gain is not None
    assert (report.gain.only_challenger_right, report.gain.only_champion_right) == (60, 7)
    assert report.gain.p_value == pytest.approx(6.6e-12, rel=0.01)  # sum of binomials, by hand


def test_equal_models_are_promoted_at_most_as_often_as_alpha():
    """No proof, no promotion: chance alone passes the gate in fewer than one of twenty trials."""
    promoted = 0
    for _ in range(400):
        champion, challenger = (RNG.random((2, 200)) < 0.8).tolist()
        promoted += gate.decide(1, measured("b", challenger), measured("a", champion)).is_proved

    assert promoted / 400 <= gate.ALPHA + 0.02  # two standard errors


def test_a_better_looking_model_without_proof_is_refused_with_advice():
    """The report says how many images would have been needed."""
    report = gate.decide(1, measured("b", [1] * 4 + [0] * 2 + [1] * 94), measured("a", [0] * 4 + [1] * 2 + [1] * 94))

    assert report.verdict == "refuse"
    assert "about 500 holdout images would prove" in report.reasons[0]


def test_a_model_that_does_not_look_better_gets_no_advice():
    """No number of images helps it."""
    report = gate.decide(1, measured("b", [1] * 90 + [0] * 10), measured("a", [1] * 90 + [0] * 10))

    assert report.verdict == "refuse"
    assert "does not look better" in report.reasons[0]


def test_no_class_is_sacrificed_for_the_mean():
    """A gain overall is refused if a class is proved worse, and the report names the class."""
    truth = [0] * 400 + [1] * 100
    challenger = measured("b", [1] * 400 + [0] * 30 + [1] * 70, truth)
    champion = measured("a", [0] * 200 + [1] * 200 + [1] * 100, truth)

    report = gate.decide(1, challenger, champion)

    assert (report.verdict, report.rule) == ("refuse", gate.FLOOR)
    assert report.gain is not None
    assert report.gain.difference > 0
    assert "class dog is proved worse: 30 of its 100 images" in report.reasons[1]


def test_the_first_teacher_must_beat_whoever_says_the_most_frequent_class():
    """Ninety per cent is nothing where ninety per cent are cats."""
    truth = [0] * 90 + [1] * 10

    assert gate.decide(0, measured("a", [1] * 98 + [0] * 2, truth), None).is_proved
    refused = gate.decide(0, measured("a", [1] * 90 + [0] * 10, truth), None)
    assert (refused.verdict, refused.rule) == ("refuse", gate.FIRST)
    assert "always answering cat" in refused.reasons[0]


def test_a_report_can_be_replayed_from_its_numbers():
    """The discordant counts in the report give its p-value again, and JSON loses nothing."""
    report = gate.decide(1, measured("b", [1] * 9 + [0] + [1] * 90), measured("a", [0] * 9 + [1] + [1] * 90))

    assert report.gain is not None
    assert paired.sign_test(report.gain.only_challenger_right, report.gain.only_champion_right) == report.gain.p_value
    assert GateReport.model_validate_json(report.to_json()) == report


def test_measurements_of_different_images_are_not_compared():
    """A paired test needs pairs."""
    with pytest.raises(Conflict, match="different holdouts"):
        gate.decide(1, measured("b", [1, 1]), measured("a", [1, 1], holdout=("holdout/b.tar",)))


@pytest.mark.parametrize(("won", "lost", "p_value"), [(0, 0, 1.0), (5, 0, 1 / 32), (1, 1, 0.75), (3, 1, 5 / 16)])
def test_the_sign_test_by_hand(won, lost, p_value):
    """Counting coins."""
    assert paired.sign_test(won, lost) == pytest.approx(p_value)
