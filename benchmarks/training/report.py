"""What the trainer must reach, and what was measured, as tables."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import sheets
from benchmarks.sheets import Sheet, Target, at_least
from benchmarks.training.chain import CONTROL, FIRST, SECOND, TEACHER, Arm

#: Points that the first student must be above its teacher and above the control, on digits.
MIN_OVER_TEACHER, MIN_OVER_CONTROL = 4.0, 2.0
CHAIN = (TEACHER, CONTROL, FIRST, SECOND)

Arms = dict[str, Arm]


@dataclass
class Results:
    """All that was measured, by set and seed."""

    chains: dict[str, dict[int, Arms]] = field(default_factory=dict)
    ablations: dict[str, dict[int, Arms]] = field(default_factory=dict)
    described: dict[str, str] = field(default_factory=dict)  #: the machine, when the first of them was measured


def every(results: Results) -> list[Sheet]:
    """All tables that this run can fill, the verdict first."""
    made = [sheets.verdicts(list(targets(results)))]
    for name, chains in results.chains.items():
        made += [_accuracy(name, chains), _seeds(name, chains)]
    if any(results.ablations.values()):
        made.append(_ablations(results))
    return made


def targets(results: Results) -> Iterator[Target]:
    """What was measured against what is wanted."""
    for name, chains in results.chains.items():
        test = _tests(chains)[0]
        if name == "digits":
            over_teacher = statistics.mean(differences(chains, test, FIRST, TEACHER))
            yield at_least(f"{name}: student 1 − teacher, points", over_teacher, MIN_OVER_TEACHER)
            over_control = statistics.mean(differences(chains, test, FIRST, CONTROL))
            yield at_least(f"{name}: student 1 − control, points", over_control, MIN_OVER_CONTROL)
            if second := differences(chains, test, SECOND, FIRST):
                yield at_least(f"{name}: student 2 − student 1, points", statistics.mean(second), 0.0)
            continue
        for test in _tests(chains):
            gains = differences(chains, test, FIRST, CONTROL)
            if len(gains) > 1:
                wanted = f"> its sd, {statistics.stdev(gains):.2f}"
                is_met = statistics.mean(gains) > statistics.stdev(gains)
                what = f"{name}, {test}: student 1 − control, points"
                yield Target(what, wanted, f"{statistics.mean(gains):.2f}", is_met)


def differences(chains: Mapping[int, Arms], test: str, arm: str, other: str) -> list[float]:
    """One arm's accuracy less another's on a test, in points, seed by seed."""
    both = [arms for arms in chains.values() if arm in arms and other in arms]
    return [100 * (arms[arm].accuracy[test] - arms[other].accuracy[test]) for arms in both]


def _tests(chains: Mapping[int, Arms]) -> list[str]:
    return list(next(iter(chains.values()))[TEACHER].accuracy)


def _accuracy(name: str, chains: Mapping[int, Arms]) -> Sheet:
    pairs = ((FIRST, CONTROL), (SECOND, CONTROL), (FIRST, TEACHER), (SECOND, FIRST))
    rows = []
    for test in _tests(chains):
        means = [_spread([100 * arms[arm].accuracy[test] for arms in chains.values() if arm in arms]) for arm in CHAIN]
        gains = [_spread(differences(chains, test, *pair), sign="+") for pair in pairs]
        rows.append((test, *means, *gains))
    columns = ("test", *CHAIN, *(f"{arm} − {other}" for arm, other in pairs))
    note = (
        f"Accuracy in %, mean ± standard deviation over {len(chains)} seeds, through the exported artifact; differences in "
        "points are taken within each seed. The control is the first student without pseudo-labels. Each student "
        "teaches the next, whatever the gate said of it. Without ± it is one seed."
    )
    return Sheet(name, columns, rows, note)


def _spread(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return "–"
    mean = f"{statistics.mean(values):{sign}.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def _seeds(name: str, chains: Mapping[int, Arms]) -> Sheet:
    rows = [
        (
            str(seed), arm, *(f"{100 * accuracy:.2f}" for accuracy in arms[arm].accuracy.values()),
            f"{arms[arm].calibration_error:.3f}", f"{arms[arm].num_kept:,}", arms[arm].verdict, f"{arms[arm].seconds:.0f}",
        )
        for seed, arms in chains.items() for arm in CHAIN if arm in arms
    ]  # fmt: skip
    columns = ("seed", "model", *_tests(chains), "calibration error", "pseudo-labeled", "gate", "s")
    return Sheet(f"{name}, seed by seed", columns, rows)


def _ablations(results: Results) -> Sheet:
    rows = []
    for name, by_seed in results.ablations.items():
        for seed, arms in by_seed.items():
            whole = results.chains.get(name, {}).get(seed, {}).get(FIRST)
            for what, arm in arms.items():
                test, accuracy = next(iter(arm.accuracy.items()))
                against = "" if whole is None else f"{100 * (accuracy - whole.accuracy[test]):+.2f}"
                rows.append((name, str(seed), what, f"{100 * accuracy:.2f}", against))
    note = (
        "First students of the same teacher with something taken away, one seed each: a difference of less than the "
        "standard deviations above says nothing. Without noise means neither augmentation, dropout nor stochastic depth."
    )
    return Sheet("Ablations", ("set", "seed", "student 1 with", "accuracy, %", "− student 1, points"), rows, note)


def write(results: Results, path: Path) -> None:
    """All tables as Markdown, with the machine."""
    title = "Accuracy of the trainer: measured results"
    sheets.write(path, title, "benchmarks.training", results.described, every(results))
