"""What is known of a model's robustness in one document, and as tables for people."""

from rich.table import Table

from trainer.robustness.hard_examples import HardExamples
from understudy.records import Record, Robustness


class RobustnessReport(Record):
    """Everything that was measured of one version in one call; None and empty is what was not asked for."""

    version: str
    robustness: Robustness | None = None
    reference: Robustness | None = None  #: the first teacher, or who was named, on the same images
    mce: float | None = None  #: against the reference: 100 is as good as it; lower is better
    mce_of_alexnet: float | None = None  #: against AlexNet's published errors, on ImageNet's classes alone
    num_films: int = 0  #: of each perturbation
    flips: dict[str, float] = {}  #: the probability of a flip from frame to frame, by perturbation
    reference_flips: dict[str, float] = {}
    mfr: float | None = None  #: mean flip rate against the reference: 100 is as steady as it
    attacked: dict[int, float] = {}  #: accuracy after one gradient step, by ε in levels of 255
    hard: HardExamples | None = None


def tables(report: RobustnessReport) -> list[Table]:
    """What was measured, a table for each kind."""
    found = []
    if report.robustness is not None:
        found.append(_corruptions(report, report.robustness))
    if report.flips:
        found.append(_flips(report))
    if report.attacked:
        found.append(_attacks(report))
    return found


def sentences(report: RobustnessReport) -> list[str]:
    """The sums of it, in words."""
    said = []
    reference = report.reference.version if report.reference is not None else None
    if report.robustness is not None:
        one = report.robustness
        said.append(
            f"error {one.clean_error:.1%} on {one.num_images} images as they are, {one.mean_error:.1%} corrupted"
        )
    if report.mce is not None:
        said.append(f"mCE {report.mce:.1f} against {reference} (100 is as good; lower is better)")
    if report.mce_of_alexnet is not None:
        said.append(
            f"mCE {report.mce_of_alexnet:.1f} against AlexNet, made on the fly: near the published, not the same"
        )
    if report.mfr is not None:
        said.append(f"mFR {report.mfr:.1f} against {reference} (100 is as steady; lower is steadier)")
    if report.hard is not None:
        hard = report.hard
        said.append(
            f"hard examples: {hard.accuracy:.1%} of {hard.num_images} right, {hard.accuracy_among:.1%} among their "
            f"{len(hard.classes)} classes alone"
        )
        if hard.unknown_classes:
            said.append(f"left out, for the model has no such class: {', '.join(hard.unknown_classes)}")
        said += [f"left out: {line}" for line in hard.unreadable]
    return said


def _corruptions(report: RobustnessReport, one: Robustness) -> Table:
    num_severities = len(next(iter(one.errors.values())))
    table = Table(title="error in % by severity")
    table.add_column("corruption")
    for severity in range(1, num_severities + 1):
        table.add_column(str(severity), justify="right")
    table.add_column("mean", justify="right")
    reference = report.reference
    if reference is not None:
        table.add_column(reference.version, justify="right")
    for name, errors in one.errors.items():
        others = [_percent(reference.mean_errors[name])] if reference is not None else []
        table.add_row(name, *map(_percent, errors), _percent(one.mean_errors[name]), *others)
    return table


def _flips(report: RobustnessReport) -> Table:
    table = Table(title=f"flips in % of frames, {report.num_films} films each")
    table.add_column("perturbation")
    table.add_column(report.version, justify="right")
    if report.reference_flips and report.reference is not None:
        table.add_column(report.reference.version, justify="right")
    for name, probability in report.flips.items():
        others = [_percent(report.reference_flips[name])] if report.reference_flips else []
        table.add_row(name, _percent(probability), *others)
    return table


def _attacks(report: RobustnessReport) -> Table:
    table = Table(title="accuracy in % after one gradient step")
    table.add_column("ε of 255")
    table.add_column("accuracy", justify="right")
    for epsilon, accuracy in report.attacked.items():
        table.add_row(str(epsilon), _percent(accuracy))
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
