"""The demo's parts that need no running system: its data, its ledger, its folder, its table."""

import io
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from understudy import demonstration, local
from understudy.demonstration import Digits, Ledger
from understudy.errors import Conflict
from understudy.records import GenerationState


@pytest.fixture(scope="module")
def digits() -> Digits:
    return demonstration.split_digits()


def files_of(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_the_three_parts_share_no_image(digits: Digits):
    """Disjoint by content, not only by name: an image in two parts would be a leak."""
    labeled, holdout, unlabeled = (files_of(part) for part in (digits.labeled, digits.holdout, digits.unlabeled))

    assert (len(labeled), len(holdout), len(unlabeled)) == digits.counts == (30, 600, 1167)
    contents = [*labeled.values(), *holdout.values(), *unlabeled.values()]
    assert len(set(contents)) == len(contents) == 1797


def test_three_of_each_class_are_labeled_and_the_unlabeled_say_nothing_of_theirs(digits: Digits):
    """The class is the folder; the unlabeled lie in none."""
    classes = [name.split("/")[0] for name in files_of(digits.labeled)]

    assert {c: classes.count(c) for c in classes} == {str(c): demonstration.LABELED_PER_CLASS for c in range(10)}
    assert {name.split("/")[0] for name in files_of(digits.holdout)} == set(classes)
    assert not any("/" in name for name in files_of(digits.unlabeled))
    assert set(digits.asked) <= set(files_of(digits.holdout).values())


def test_the_split_is_the_same_every_time(digits: Digits, monkeypatch: pytest.MonkeyPatch):
    """Two runs of the demo are about the same images, byte for byte, whenever they are."""
    later = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: later)

    assert demonstration.split_digits() == digits


def test_the_ledger_counts_what_was_near_a_swap():
    """From two seconds before the first answer of the new model to two after it; requests that failed count apart."""
    ledger = Ledger()
    for at, ok, model in (
        (7.9, True, "old"),  # too early
        (8.0, True, "old"),
        (9.0, False, ""),
        (10.0, True, "new"),  # the first
        (10.5, True, "old"),  # began before the swap
        (12.0, True, "new"),
        (12.1, False, ""),  # too late
    ):
        ledger.answers.append((at, ok, model))

    assert ledger.around_swap_to("new") == (4, 1)
    assert ledger.around_swap_to("new", seconds=0.5) == (2, 0)
    assert ledger.around_swap_to("never") == (0, 0)
    assert ledger.num_failed == 2


def test_a_folder_that_is_not_of_a_demo_is_never_emptied(tmp_path: Path):
    """Conflict, and nothing is touched."""
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(Conflict, match="not empty and not from a demo"):
        demonstration._empty(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_of_a_demo_before_is_emptied_and_a_new_one_made(tmp_path: Path):
    """The demo always begins afresh."""
    data = tmp_path / "demo"
    demonstration._empty(data)
    (data / "catalog.db").write_text("of the demo before")

    demonstration._empty(data)

    assert [path.name for path in data.iterdir()] == [demonstration.MARKER]


def test_a_folder_that_a_demo_runs_on_is_left_alone(tmp_path: Path):
    """A second demo does not take the ground from under the first."""
    demonstration._empty(tmp_path)
    (tmp_path / "catalog.db").write_text("in use")

    with local._locked(tmp_path), pytest.raises(Conflict, match="runs on"):
        demonstration._empty(tmp_path)

    assert (tmp_path / "catalog.db").exists()


def row(generation: int, state: GenerationState, **values: Any) -> dict[str, Any]:
    """A row as ``_row`` makes it, with numbers as wide as they get."""
    made: dict[str, Any] = {
        "generation": generation,
        "model": f"g{generation:04d}-8f2c1a",
        "state": str(state),
        "accuracy": 0.923,
        "interval": [0.899, 0.942],
        "p_value": 0.00031,
        "reasons": ["not proved better"],
        "human_labels": 30,
        "pseudo_labels": 1167,
        "training_seconds": 123.4,
        "served_during_swap": 200,
        "failed_during_swap": 0,
    }
    return made | values


def shown(rows: list[dict[str, Any]], ledger: Ledger) -> list[str]:
    file = io.StringIO()
    demonstration._show(rows, ledger, Console(width=80, file=file), seconds=142.0)
    return file.getvalue().splitlines()


def test_the_table_fits_a_terminal_of_80_columns():
    """Headings on one line, nothing cut off, no id broken; the interval stands beneath the accuracy."""
    rows = [
        row(0, GenerationState.PROMOTED, p_value=None, pseudo_labels=0, served_during_swap=0),
        row(1, GenerationState.PROMOTED),
        row(2, GenerationState.REFUSED, served_during_swap=0),
    ]

    lines = shown(rows, Ledger())

    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "…" not in text
    (headings,) = (line for line in lines if "model" in line)
    assert headings.split()[0] == "gen"
    assert headings.split()[-1] == "verdict"
    for each in rows:
        assert text.count(each["model"]) == 1
    accuracy, interval = next((n, n + 1) for n, line in enumerate(lines) if "g0001-8f2c1a" in line)
    assert lines[accuracy].index("92.3%") == lines[interval].index("89.9–94.2")
    assert "p = 0.0003" in lines[interval]


def test_below_the_table_stand_the_requests_and_why_a_student_was_refused():
    """Also the first few faults, should a request have failed."""
    ledger = Ledger(answers=[(0.0, True, "m"), (1.0, False, "")], faults=["no answer"])

    text = " ".join(" ".join(shown([row(2, GenerationState.REFUSED)], ledger)).split())

    assert "2 requests to /classify since the first teacher served, 1 failed; 142 s in all." in text
    assert "failed: no answer" in text
    assert "Generation 2 was refused: not proved better." in text


def test_a_generation_that_failed_has_a_row_without_numbers():
    """There is no report, no model and no card."""
    unknown = ("model", "accuracy", "interval", "p_value", "human_labels", "pseudo_labels", "training_seconds")
    failed = row(1, GenerationState.FAILED, **dict.fromkeys(unknown))

    assert any(line.split() == ["1", "failed"] for line in shown([failed], Ledger()))
