"""``understudy init`` of other tools' files: the dry run, what is left out, and the words that are wrong."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from understudy.cli import commands
from understudy.errors import LabeledSetRefused


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    """Two classes, one image skipped, two not there."""
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(b"x")
    lines = "a.jpg,cat\nb.jpg,[red]dog\nc.jpg,cat\na.jpg,cat\nd.jpg,\n[bold]e.jpg,cat\nf.jpg,cat\n"
    (tmp_path / "labels.csv").write_text(f"path,label\n{lines}")
    return tmp_path / "labels.csv"


@pytest.fixture
def init() -> Callable[..., Result]:
    """Run the command where nobody answers: nothing may be sent."""

    def run(*words: object) -> Result:
        return CliRunner().invoke(commands.app, ["init", *map(str, words), "--url", "http://127.0.0.1:9"])

    return run


def test_a_dry_run_counts_the_classes_and_says_what_is_left_out(init: Callable[..., Result], sheet: Path):
    """For people, names as they are, markup or not; for programs, JSON; nothing is sent."""
    shown = init(sheet, "--dry-run")
    assert shown.exit_code == 0, shown.output
    lines = [" ".join(line.replace("│", " ").split()) for line in shown.stdout.splitlines()]
    assert {"cat 2", "[red]dog 1", "3 images of 2 classes (csv)", "1 annotations said the same once more"} <= set(lines)
    assert {"1 left out: unlabeled", "2 left out: missing_file"} <= set(lines)
    assert f"[bold]e.jpg (line 7): there is no file of that name in {sheet.parent}" in lines
    report = json.loads(init("--labeled", sheet, "--dry-run", "--json").stdout)
    assert (report["num_images"], report["classes"]) == (3, {"[red]dog": 1, "cat": 2})
    assert [one["reason"] for one in report["left_out"]] == ["unlabeled", "missing_file", "missing_file"]


def test_classes_are_renamed_and_images_found_elsewhere(init: Callable[..., Result], sheet: Path, tmp_path: Path):
    """The words of the command reach the reader."""
    (tmp_path / "elsewhere").mkdir()
    moved = sheet.rename(tmp_path / "elsewhere" / "labels.txt")
    words = ("--format", "csv", "--images", tmp_path, "--rename", "[red]dog=dog", "--dry-run", "--json")
    assert json.loads(init(moved, *words).stdout)["classes"] == {"cat": 2, "dog": 1}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "name the labels once"),
        (("--holdout", "SHEET"), "there is only a holdout"),
        (("SHEET", "--labeled", "SHEET"), "name the labels once"),
        (("SHEET", "--rename", "cat"), "'cat' is not OLD=NEW"),
        (("SHEET", "--rename", "cat=a", "--rename", "cat=b"), "names cat twice"),
        (("SHEET", "--format", "coco"), "'coco' is not one of"),
    ],
)
def test_wrong_words_are_told_before_anything_is_read(
    init: Callable[..., Result], sheet: Path, words: Sequence[str], says: str
):
    """Exit code 2."""
    done = init(*(sheet if word == "SHEET" else word for word in words), "--dry-run")
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.replace("│", " ").split())


def test_what_is_refused_is_refused_in_a_dry_run_too(init: Callable[..., Result], sheet: Path):
    """The same sentence as when it is sent."""
    sheet.write_text("path,label\na.jpg,cat\na.jpg,dog\n")
    for words in ((sheet,), (sheet, "--dry-run")):
        assert isinstance(init(*words).exception, LabeledSetRefused)
