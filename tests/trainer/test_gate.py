import doctest
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from trainer import evaluate, gate, looks, paired
from trainer.evaluate import Measured
from understudy.errors import Conflict
from understudy.records import Evaluation, GateReport, Latency, Robustness

#: What it says in numbers is what the code computes.
PAGE = Path(__file__).parents[2] / "docs" / "gate.md"
#: Student and teacher disagree on being right about so often (see docs/gate.md).
DISCORDANCE = 0.08


def measured(version, is_right, truth=None, classes=("cat", "dog"), holdout=("holdout/a.tar",), **figures):
    num_images, num_right = len(is_right), sum(map(bool, is_right))
    evaluation = Evaluation(
        version=version,
        num_images=num_images,
        num_correct=num_right,
        accuracy=num_right / num_images,
        interval=evaluate.wilson(num_right, num_images),
        per_class={},
        negative_log_likelihood=0.0,
        images_per_second=1.0,
        **{"calibration_error": 0.0} | figures,
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


def test_a_better_looking_model_without_proof_is_refused_with_advice():
    """The report says how many images would have been needed."""
    report = gate.decide(1, measured("b", [1] * 4 + [0] * 2 + [1] * 94), measured("a", [0] * 4 + [1] * 2 + [1] * 94))

    assert report.verdict == "refuse"
    assert "about 650 holdout images would prove" in report.reasons[0]
    assert report.images_needed == 650
    assert "a true gain of 2 points is proved" in report.reasons[0]


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


def test_measurements_of_different_images_are_not_compared():
    """A paired test needs pairs."""
    with pytest.raises(Conflict, match="different holdouts"):
        gate.decide(1, measured("b", [1, 1]), measured("a", [1, 1], holdout=("holdout/b.tar",)))


# -- what it may err, and what it sees ----------------------------------------------------------------


def answers(rng, accuracy, discordance, num_images, *, gain=0.0):
    """Which images a challenger and a champion are right on, who disagree on a share of them; the first gains."""
    shares = [accuracy - (discordance - gain) / 2, (discordance + gain) / 2, (discordance - gain) / 2]
    drawn = rng.choice(4, num_images, p=[*shares, 1 - sum(shares)])
    return np.isin(drawn, [0, 1]), np.isin(drawn, [0, 2])


def test_of_1000_equal_challengers_at_most_the_stated_share_is_promoted():
    """Each pair is judged for real, on 600 images; the binomial spread of the count is all that is tolerated."""
    rng = np.random.default_rng(1)
    promoted = 0
    for _ in range(1000):
        ours, theirs = answers(rng, 0.85, DISCORDANCE, 600)
        promoted += gate.decide(1, measured("b", ours.tolist()), measured("a", theirs.tolist())).is_proved

    assert 0 < promoted <= binom.isf(0.001, 1000, looks.share(1))


@pytest.mark.parametrize(("discordance", "least"), [(0.06, 0.93), (0.08, 0.86), (0.10, 0.80)])
def test_a_gain_of_two_points_on_2000_images_is_promoted_at_the_first_look(discordance, least):
    """At least 80 of 100 times, over the range of disagreement that is seen; and as often as the report foretells."""
    rng = np.random.default_rng(2)
    shares = [0.85 - (discordance - 0.02) / 2, (discordance + 0.02) / 2, (discordance - 0.02) / 2]
    counts = rng.multinomial(2000, [*shares, 1 - sum(shares)], 4000)  # (4000, 4)
    p_values = binom.sf(counts[:, 1] - 1, counts[:, 1] + counts[:, 2], 0.5)
    promoted = p_values <= looks.share(1)
    for (both, won, lost, neither), expected in zip(counts[:20], promoted[:20], strict=True):
        ours = [True] * both + [True] * won + [False] * lost + [False] * neither
        theirs = [True] * both + [False] * won + [True] * lost + [False] * neither
        assert gate.decide(1, measured("b", ours), measured("a", theirs)).is_proved == expected

    assert promoted.mean() >= least
    assert promoted.mean() == pytest.approx(paired.power(2000, discordance, 0.02, looks.share(1)), abs=0.02)


# -- rules and budgets --------------------------------------------------------------------------------


def better(**figures):
    """Sixty images won and seven lost."""
    return measured("b", [1] * 60 + [0] * 7 + [1] * 433, **figures)


def champion(**figures):
    return measured("a", [0] * 60 + [1] * 7 + [1] * 433, **figures)


def latency(milliseconds):
    return Latency(provider="cpu", threads=1, num_runs=30, median_ms=milliseconds, p95_ms=2 * milliseconds)


def robust(error):
    return Robustness(
        version="v",
        sample="0" * 64,
        num_images=100,
        clean_error=0.1,
        errors={"fog": (error, error), "snow": (error, error)},
    )


LIMITS = gate.Limits(calibration_loss=0.05, latency_ratio=2.0, robustness_loss=0.02)


@pytest.mark.parametrize(
    ("ours", "theirs", "robustness", "broken", "words"),
    [
        ({"calibration_error": 0.09}, {"calibration_error": 0.03}, (None, None), "calibration", r"\+0.060, at most"),
        (
            {"latency": latency(9.0)},
            {"latency": latency(4.0)},
            (None, None),
            "latency",
            "9 ms, the champion's 4 ms: 2.25 times",
        ),
        ({}, {}, (robust(0.33), robust(0.3)), "robustness", r"under corruption 0.330, .* \+0.030, at most \+0.020"),
    ],
)
def test_a_gain_beyond_a_budget_is_refused(ours, theirs, robustness, broken, words):
    """The rule that decided is named, with the value, the champion's and the limit."""
    report = gate.decide(1, better(**ours), champion(**theirs), limits=LIMITS, robustness=robustness)

    assert (report.verdict, report.rule) == ("refuse", broken)
    assert re.search(words, report.reasons[1])
    (rule,) = [rule for rule in report.rules if rule.name == broken]
    assert rule.passed is False
    assert rule.value > rule.limit
    assert gate.replay(report) == "refuse"


def test_within_every_budget_a_gain_is_promoted():
    """And every rule says by which numbers."""
    report = gate.decide(
        1,
        better(calibration_error=0.04, latency=latency(5.0)),
        champion(calibration_error=0.02, latency=latency(4.0)),
        limits=LIMITS,
        robustness=(robust(0.3), robust(0.31)),
    )

    assert report.verdict == "promote"
    assert [(rule.name, rule.passed) for rule in report.rules] == [
        ("paired-gain", True), ("class-floor", True), ("calibration", True), ("latency", True), ("robustness", True),
    ]  # fmt: skip
    assert [rule.value for rule in report.rules][1:] == pytest.approx([0, 0.02, 1.25, -0.01])


def test_what_was_not_measured_is_said_to_be_not_judged():
    """It neither passes nor refuses; a budget that the recipe leaves open is told with its figure."""
    report = gate.decide(1, better(), champion(), limits=gate.Limits(calibration_loss=None, robustness_loss=0.02))

    seen = {rule.name: rule for rule in report.rules}
    assert report.verdict == "promote"
    assert [seen[name].passed for name in ("calibration", "latency", "robustness")] == [None, None, None]
    assert "the recipe sets no limit" in seen["calibration"].sentence
    assert "latency was not measured" in seen["latency"].sentence
    assert report.reasons[-1] == "not measured, so not judged: robustness"


def test_an_equal_challenger_is_not_refused_for_a_class_by_chance():
    """Of 40 classes one may well look worse: 7 of its images lost and 1 won is p = 0.035, and no proof among 40."""
    classes = tuple(f"class {i:02}" for i in range(40))
    truth = [i % 40 for i in range(4000)]
    unlucky = [i for i in range(4000) if truth[i] == 3]
    theirs = [i in unlucky[:7] or i % 4 > 0 for i in range(4000)]
    ours = [i not in unlucky[:7] and (i in unlucky[7:8] or i % 3 > 0 or i % 4 > 0) for i in range(4000)]

    report = gate.decide(1, measured("b", ours, truth, classes), measured("a", theirs, truth, classes))

    (one,) = [one for one in report.classes if one.name == "class 03"]
    assert one.p_value < 0.05
    assert not one.is_worse
    assert report.verdict == "promote"


# -- the report ---------------------------------------------------------------------------------------


def reports():
    """One of every kind."""
    truth = [0] * 400 + [1] * 100
    yield gate.decide(1, better(), champion(), limits=LIMITS)
    yield gate.decide(1, champion(), better())
    yield gate.decide(0, measured("a", [1] * 98 + [0] * 2, [0] * 90 + [1] * 10), None)
    yield gate.decide(0, measured("a", [1] * 90 + [0] * 10, [0] * 90 + [1] * 10), None)
    yield gate.decide(
        1, measured("b", [1] * 400 + [0] * 30 + [1] * 70, truth), measured("a", [0] * 200 + [1] * 300, truth)
    )
    past = [gate.decide(g, champion(), better()) for g in range(8)]
    for number in (3, 8):
        yield gate.decide(9, better(), champion(), look=looks.next_look(past[:number], {"holdout/a.tar": 500}))


def test_a_report_can_be_judged_again_from_itself():
    """Through JSON, from its counts alone: the same verdict by the same rules, number for number."""
    for report in reports():
        read = GateReport.model_validate_json(report.to_json())

        assert read == report
        assert gate.replay(read) == report.verdict
        assert gate.judge(gate.evidence_of(read)) == report.rules


def test_a_report_that_was_tampered_with_is_found_out():
    """A verdict that does not follow from the counts, and an alpha that does not follow from the look."""
    report = next(reports())
    gain = report.gain.model_copy(update={"only_champion_right": 59, "both_right": 381})
    assert gate.replay(report.model_copy(update={"gain": gain})) == "refuse"

    late = report.look.model_copy(update={"number": 5000})
    assert gate.replay(report.model_copy(update={"look": late, "gain": gain})) == "refuse"


def test_a_report_from_before_rules_were_kept_is_read_and_not_judged_again():
    """Catalogs hold such."""
    old = next(reports()).model_dump(mode="json")
    for name in ("rules", "look", "guess", "classes", "budgets", "power", "images_needed", "control", "control_gain"):
        del old[name]
    del old["gain"]["interval"]

    report = GateReport(**old)

    assert report.verdict == "promote"
    with pytest.raises(Conflict, match="before reports held"):
        gate.replay(report)


def test_the_control_is_told_and_decides_nothing():
    """Student against control, with its interval; on other images it is refused."""
    control = measured("b-control", [1] * 40 + [0] * 27 + [1] * 433)
    report = gate.decide(1, better(), champion(), control=control)

    assert report.rules == gate.decide(1, better(), champion()).rules
    assert report.control == control.evaluation
    gain = report.control_gain
    assert (gain.only_challenger_right, gain.only_champion_right, gain.difference) == (20, 0, 0.04)
    assert gain.interval.low < 0.04 < gain.interval.high
    assert report.reasons[-1] == (
        f"over the control trained on labels alone: +4.0 points, 95% interval {100 * gain.interval.low:+.1f} to "
        f"{100 * gain.interval.high:+.1f}"
    )
    with pytest.raises(Conflict, match="different holdouts"):
        gate.decide(1, better(), champion(), control=measured("c", [1] * 500, holdout=("holdout/b.tar",)))


# -- the page -----------------------------------------------------------------------------------------


def test_the_worked_example_gives_what_it_says():
    """Each line of it is run."""
    failed, attempted = doctest.testfile(str(PAGE), module_relative=False)

    assert failed == 0
    assert attempted >= 8


def test_the_tables_of_power_are_computed():
    """By disagreement and look, and by size and gain."""
    shares = [looks.share(k) for k in range(1, 11)]
    columns = [shares[0], shares[1], shares[2], shares[4], shares[9], sum(shares[:2]), sum(shares[:5])]
    by_look = {f"{d:.0%}": [paired.power(2000, d, 0.02, alpha) for alpha in columns] for d in (0.06, 0.08, 0.10)}
    gains = (0.005, 0.01, 0.02, 0.03)
    sizes = (500, 1000, 2000, 5000, 10_000)
    by_size = {f"{n:,}": [paired.power(n, 0.08, gain, shares[0]) for gain in gains] for n in sizes}

    for name, row in {**by_look, **by_size}.items():
        shown = [f"{chance:.0%}".replace("%", " %") for chance in row]
        line = f"| {name.replace('%', ' %')} | {' | '.join(shown)} |"
        assert re.search(f"^{re.escape(line)}$", PAGE.read_text(encoding="utf-8"), re.MULTILINE), line
