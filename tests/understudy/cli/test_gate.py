"""``understudy gate`` against a real service, on reports that a catalog holds."""

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from understudy.catalog import Catalog, claims, generations, versions
from understudy.catalog.tables import JobRow
from understudy.errors import NotReady
from understudy.records import (
    ClassGain,
    Gain,
    GateReport,
    GenerationRequest,
    Interval,
    Look,
    PastLook,
    Rule,
)
from understudy.store import Store
from understudy.testing import tiny_artifact, tiny_evaluation

CLASSES = ("red", "green", "blue")


@pytest.fixture
def conclude(labeled_set: None, opened: tuple[Catalog, Store]) -> Callable[[GateReport], None]:
    """End one more generation, refused, with a report."""
    catalog = opened[0]

    def conclude(report: GateReport) -> None:
        turn = generations.open_generation(catalog, GenerationRequest())
        claim = claims.claim(catalog, JobRow, turn.job.id, lease_s=60)
        assert claim is not None
        _, card = tiny_artifact(CLASSES)
        versions.register(catalog, card.model_copy(update={"version": report.challenger.version}))
        generations.conclude(catalog, claim, turn.number, report.challenger.version, report)

    return conclude


def gain(won: int, lost: int) -> Gain:
    return Gain(
        both_right=90 - won, only_challenger_right=won, only_champion_right=lost, both_wrong=10 - lost,
        difference=(won - lost) / 100, p_value=0.25, interval=Interval(low=-0.01, high=0.05),
    )  # fmt: skip


REPORT = GateReport(
    generation=1,
    challenger=tiny_evaluation("g0001-bbbbbb", CLASSES),
    champion=tiny_evaluation("g0000-aaaaaa", CLASSES),
    gain=gain(4, 2),
    alpha=0.038,
    class_floor=0.0,
    verdict="refuse",
    rule="paired-gain",
    reasons=("not proved better",),
    rules=(
        Rule(name="paired-gain", passed=False, value=0.25, limit=0.038, sentence="not proved better"),
        Rule(name="robustness", passed=None, value=None, limit=0.02, sentence="not judged: it was not measured"),
    ),
    look=Look(
        number=2, carried=0.0304, alpha=0.038, holdout={"a": 100}, fresh_at=200,
        before=(PastLook(generation=0, champion=None, alpha=0.0304, promoted=True),),
    ),
    classes=(
        ClassGain(
            name="red", num_images=40, only_challenger_right=0, only_champion_right=2, difference=-0.05, p_value=0.25,
            limit=0.0167, is_worse=False,
        ),
    ),
    power=0.42,
    control=tiny_evaluation("g0001-cccccc-control", CLASSES),
    control_gain=gain(3, 1),
)  # fmt: skip


def test_every_rule_is_shown_with_its_numbers(run: Callable[..., Result], conclude: Callable[[GateReport], None]):
    """The newest verdict, or that of a generation: rules, classes that lost, looks, and the control."""
    conclude(REPORT)

    shown = run("gate").stdout

    assert "generation 0: g0001-bbbbbb refused by the rule paired-gain" in shown
    assert "+2.0 points (95% interval -1.0 to +5.0) for the challenger" in shown
    assert "g0001-cccccc-control" in shown
    assert "+2.0 points (95% interval -1.0 to +5.0) by pseudo-labels" in shown
    assert all(word in shown for word in ("robustness", "not judged", "0.038", "red", "0.017"))
    assert "look 2 at this holdout: error rate 0.038, 0.03 of it carried over" in shown
    assert "proved 42% of the time" in shown
    assert json.loads(run("gate", 0, "--json").stdout)["power"] == 0.42


def test_a_report_from_before_rules_were_kept_is_shown_in_words(
    run: Callable[..., Result], conclude: Callable[[GateReport], None]
):
    """Its reasons are all there is."""
    old = REPORT.model_dump(
        include={name for name in GateReport.model_fields if name not in ("rules", "look", "power")}
    )
    conclude(GateReport(**old | {"gain": old["gain"] | {"interval": None}, "classes": ()}))

    shown = run("gate", 0).stdout

    assert "not proved better" in shown
    assert "look" not in shown


def test_without_a_verdict_there_is_nothing_to_show(
    run: Callable[..., Result], labeled_set: None, opened: tuple[Catalog, Store]
):
    """One sentence each, and what to look at."""
    assert isinstance(run("gate").exception, NotReady)
    generations.open_generation(opened[0], GenerationRequest())
    assert "generation 0 is queued" in str(run("gate", 0).exception)
