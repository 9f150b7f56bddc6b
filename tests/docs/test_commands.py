"""Every command of every page is one that there is, with options that it takes and recipes that exist.

Whole pages are run where that is the page's point: test_guide.py; the command line's own examples stand in the help.
"""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from understudy.cli import commands

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"], key=lambda path: path.name)
#: The command line's reference shows usage as well: `understudy init [OPTIONS] …`.
USAGE = "[OPTIONS]"
#: What ends a command in a line of a shell.
ENDS = re.compile(r"[();<>|&]+")
PROGRAM = typer.main.get_command(commands.app)
#: What a command raises for words that it does not take.
UsageError = typer.BadParameter.__base__


def told(page: Path) -> list[str]:
    """The lines that begin with $, with those that they go on in."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in re.findall(r"^\$ (.+)$", text, re.MULTILINE) if USAGE not in line]


def words_behind(line: str, is_program) -> Iterator[list[str]]:
    """The words behind each program of a line, up to what ends its command."""
    shell = shlex.shlex(line, posix=True, punctuation_chars=True)
    shell.whitespace_split, shell.commenters = True, "#"
    words = list(shell)
    for at in range(len(words)):
        if is_program(words[max(0, at - 1) : at + 1]):
            end = next((i for i in range(at + 1, len(words)) if ENDS.fullmatch(words[i])), len(words))
            yield words[at + 1 : end]


def of_understudy(line: str) -> Iterator[list[str]]:
    """The words behind each `understudy` that is a program: not a folder to go to, nor the end of an address."""
    programs = ("understudy", ".venv/bin/understudy")
    return words_behind(line, lambda near: near[-1] in programs and near[0] not in ("cd", "repository>"))


def parsed(words: list[str]) -> tuple[str, dict[str, object]]:
    """The whole name of a command and the values of its options. Raises UsageError for what it does not take."""
    command, context, names = PROGRAM, typer.Context(PROGRAM, info_name="understudy"), []
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        names.append(words[0])
        found = command.get_command(context, words[0])
        if found is None:
            raise UsageError(f"there is no command {' '.join(names)!r}")
        command, words = found, words[1:]
        context = typer.Context(command, parent=context, info_name=names[-1], **command.context_settings)
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    if rest and not context.allow_extra_args:
        raise UsageError(f"{' '.join(names)} does not take {rest}")
    return " ".join(names), values


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_pages_commands_are_there_and_take_its_options(page: Path):
    """What somebody copies from it is not refused for its words."""
    for line in told(page):
        for words in of_understudy(line):
            parsed(words)
        for module, *_ in words_behind(line, lambda near: near[-1] == "-m" and "python" in near[0]):
            assert importlib.util.find_spec(module), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_pages_recipes_and_their_fields_exist(page: Path):
    """As `understudy recipes` would show them, which refuses what no recipe has."""
    for line in told(page):
        for words in of_understudy(line):
            name, values = parsed(words)
            if name not in ("init", "generate", "recipes"):
                continue
            asked = values.get("recipe") or values.get("name") or "small"
            fields = [word for field in values.get("replaced") or () for word in ("--set", field)]
            student = ["--student", values["student"]] if values.get("student") else []
            shown = CliRunner().invoke(commands.app, ["recipes", asked, *fields, *student])
            assert shown.exit_code == 0, f"{line}\n{shown.output}{shown.exception}"


@pytest.mark.parametrize(
    "line",
    [
        "understudy no-such-command",
        "understudy generate --no-such-option 1",
        "understudy status too many words",
        "TOKEN=$(docker compose exec service understudy keys create --nome me) && true",
    ],
)
def test_what_is_not_there_is_found_out(line: str):
    """A test of this file can fail."""
    (words,) = of_understudy(line)
    with pytest.raises(UsageError):
        parsed(words)
