"""``understudy gate``: the verdict on a generation's student, rule by rule."""

from typing import Annotated

import typer
from rich.table import Table

from understudy.cli import completion
from understudy.cli.options import AsJson, Key, Url, examples
from understudy.cli.output import console, say, show_json
from understudy.client import DEFAULT_URL, Client
from understudy.errors import NotReady
from understudy.records import Evaluation, Gain, GateReport, GenerationSummary, Rule

app = typer.Typer()

#: Classes that are shown, those that lost most first; ``--json`` has all.
MAX_CLASSES = 10


@app.command(epilog=examples("understudy gate", "understudy gate 3 --json"))
def gate(
    number: Annotated[
        int | None,
        typer.Argument(
            min=0,
            help="The generation. Default: the newest with a verdict.",
            show_default=False,
            autocompletion=completion.generations,
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show why the gate promoted or refused: each rule with its value and limit, the classes, and the control."""
    with Client(url, key=key) as client:
        turn = client.generation(_judged(client.generations()) if number is None else number)
    report = turn.report
    if report is None:
        raise NotReady(f"generation {turn.number} is {turn.state}: it has no verdict; see `understudy status`")
    if as_json:
        show_json(report)
        return
    say(f"generation {turn.number}: {turn.version} {turn.state} by the rule {report.rule}")
    for line in _models(report):
        say(line)
    console.print(_rules(report.rules) if report.rules else "; ".join(report.reasons))
    if lost := sorted((one for one in report.classes if one.difference < 0), key=lambda one: one.p_value):
        table = Table("class", "images", "won", "lost", "p", "limit", title="classes that lost recall")
        for one in lost[:MAX_CLASSES]:
            won, gone = one.only_challenger_right, one.only_champion_right
            table.add_row(one.name, str(one.num_images), str(won), str(gone), f"{one.p_value:.2g}", f"{one.limit:.2g}")
        console.print(table)
    for line in _notes(report):
        say(line)


def _judged(turns: list[GenerationSummary]) -> int:
    found = next((turn.number for turn in turns if turn.report is not None), None)
    if found is None:
        raise NotReady("no generation has a verdict yet; see `understudy status`")
    return found


def _models(report: GateReport) -> list[str]:
    lines = [_accuracy("challenger", report.challenger)]
    if report.champion is not None and report.gain is not None:
        lines.append(f"{_accuracy('champion', report.champion)}; {_points(report.gain)} for the challenger")
    if report.control is not None and report.control_gain is not None:
        lines.append(f"{_accuracy('control', report.control)}; {_points(report.control_gain)} by pseudo-labels")
    return lines


def _accuracy(who: str, seen: Evaluation) -> str:
    return f"{who:10}  {seen.version}: {seen.accuracy:.1%} of {seen.num_images} holdout images"


def _points(gain: Gain) -> str:
    seen = f"{100 * gain.difference:+.1f} points"
    if gain.interval is None:
        return seen
    low, high = 100 * gain.interval.low, 100 * gain.interval.high
    return f"{seen} ({gain.interval.confidence:.0%} interval {low:+.1f} to {high:+.1f})"


def _rules(rules: tuple[Rule, ...]) -> Table:
    table = Table("rule", "passed", "value", "limit", "why")
    for rule in rules:
        passed = "not judged" if rule.passed is None else "yes" if rule.passed else "no"
        table.add_row(rule.name, passed, _number(rule.value), _number(rule.limit), rule.sentence)
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _notes(report: GateReport) -> list[str]:
    lines = []
    if (look := report.look) is not None:
        carried = f", {look.carried:.2g} of it carried over from the promotion before" if look.carried else ""
        lines.append(f"look {look.number} at this holdout: error rate {look.alpha:.2g}{carried}")
    if report.power is not None:
        lines.append(f"a true gain of 2 points would have been proved {report.power:.0%} of the time")
    return lines
