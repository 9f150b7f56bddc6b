"""The benchmark of accuracy as far as it can be wrong without a figure looking odd: its sets, its verdicts, its arithmetic."""

import copy

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import kept
from benchmarks.training import report, sets
from benchmarks.training.__main__ import Bench, app
from benchmarks.training.chain import CONTROL, FIRST, SECOND, TEACHER, Arm
from benchmarks.training.report import Results
from benchmarks.training.settings import SETTINGS, ablations
from understudy import recipes
from understudy.recipes import Turn


def arms(teacher: float, control: float, first: float, second: float) -> dict[str, Arm]:
    """The arms of one seed, by their accuracy in percent."""
    accuracies = {TEACHER: teacher, CONTROL: control, FIRST: first, SECOND: second}
    return {
        name: Arm(accuracy={"test": accuracy / 100}, calibration_error=0.1, seconds=1.0, verdict="refused", num_kept=9)
        for name, accuracy in accuracies.items()
    }


@pytest.fixture
def results() -> Results:
    """Digits that reach their targets but for the second student; fashion of which the gain is all spread."""
    return Results(
        chains={
            "digits": {0: arms(85, 88, 92, 91), 1: arms(87, 88, 91, 91)},
            "fashion-mnist": {0: arms(80, 80, 85, 85), 1: arms(80, 80, 79, 85)},
        },
        ablations={"digits": {0: {"no noise": arms(0, 0, 90, 0)[FIRST]}}},
        described={"cores": "2"},
    )


def test_gains_are_taken_within_a_seed(results):
    """Student less control, seed by seed, in points."""
    assert report.differences(results.chains["digits"], "test", FIRST, CONTROL) == pytest.approx([4, 3])


def test_a_gain_that_is_all_spread_does_not_pass(results):
    """Digits' first student passes, the second one, worse than it, fails; a mean of 2 ± 4 fails."""
    assert [target.is_met for target in report.targets(results)] == [True, True, False, False]


def test_a_gain_beyond_its_spread_passes(results):
    """5 and 4 points are beyond their standard deviation of 0.7."""
    results.chains = {"fashion-mnist": {0: arms(80, 80, 85, 85), 1: arms(80, 80, 84, 85)}}
    assert [target.is_met for target in report.targets(results)] == [True]


def test_what_was_kept_is_read_again_and_reported(results, tmp_path):
    """A killed run goes on with what it had, and the report names set, machine and ablation."""
    kept.write(results, tmp_path / "figures.json")
    again = kept.read(Results, tmp_path / "figures.json")
    assert again == results
    report.write(again, tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    assert "## digits" in text
    assert "- cores: 2" in text
    assert "| digits | 0 | no noise | 90.00 | -2.00 |" in text


def test_no_image_of_a_test_is_trained_on():
    """Digits: labeled, unlabeled and test are disjoint for each seed, with three labels of each class."""
    for seed in (0, 1):
        made = sets.digits(seed)
        parts = [{sample.sha256 for sample in some} for some in (made.labeled, made.unlabeled, made.tests["test"])]
        assert [len(part) for part in parts[::2]] == [30, 600]
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert {sample.class_name for sample in made.unlabeled} == {None}
        assert len({sample.class_name for sample in made.labeled}) == 10


def test_every_setting_is_a_recipe():
    """Whatever is trained can be trained, and nothing is fitted to the test that stands in as the holdout."""
    for name, setting in SETTINGS.items():
        for generation in range(3):
            made = recipes.recipe(setting.recipe, setting.fields(generation), Turn(generation))
            assert not made.calibrate, name
        for ablation in ablations(setting):
            recipes.recipe(setting.recipe, setting.fields(1) | ablation.overrides, Turn(1))


def test_what_was_measured_before_is_not_measured_again(results, tmp_path):
    """A seed that is in the kept figures leaves no trace: no model, no file, the same figures."""
    before = copy.deepcopy(results)
    bench = Bench(results, tmp_path, is_quick=True, keep=tmp_path / "figures.json", console=Console(quiet=True))
    bench.measure("digits", 0, with_ablations=True, has_second=True)
    assert results == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--sets", "--ablations"])
def test_an_unknown_set_is_refused_by_name(option):
    """Before anything is trained, with what there is."""
    told = CliRunner().invoke(app, [option, "digits,numerals"])
    assert told.exit_code == 2
    assert f"{option} 'numerals': choose of digits, fashion-mnist, clothing-photos" in told.output
