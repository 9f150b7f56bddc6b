"""Tables of what was measured, for the terminal and for a RESULTS.md; and what it was to reach, with a verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

VERDICTS = {True: "pass", False: "FAIL", None: "–"}


@dataclass(frozen=True)
class Sheet:
    """One table and what must be said of it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Target:
    """What is to be reached, and what was measured. ``is_met`` is None where nothing was."""

    what: str
    wanted: str
    measured: str
    is_met: bool | None


def at_least(what: str, value: float, least: float, *, digits: int = 2) -> Target:
    """More is better; no number (NaN) is never enough."""
    return Target(what, f"≥ {least:.{digits}f}", f"{value:.{digits}f}", not math.isnan(value) and value >= least)


def at_most(what: str, value: float, most: float, *, digits: int = 2) -> Target:
    """Less is better; no number (NaN) is never enough."""
    return Target(what, f"≤ {most:.{digits}f}", f"{value:.{digits}f}", not math.isnan(value) and value <= most)


def verdicts(targets: Sequence[Target]) -> Sheet:
    """All targets, each with its verdict."""
    rows = [(t.what, t.wanted, t.measured, VERDICTS[t.is_met]) for t in targets]
    return Sheet("What it must reach", ("target", "wanted", "measured", ""), rows)


def show(sheets: Sequence[Sheet], console: Console) -> None:
    """Print tables."""
    for sheet in sheets:
        table = Table(*sheet.columns, title=sheet.title, box=SIMPLE, title_justify="left", caption=sheet.note)
        table.caption_justify = "left"
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)


def write(path: Path, title: str, program: str, described: Mapping[str, str], sheets: Sequence[Sheet]) -> None:
    """A page of its own: what wrote it, the machine, and the tables."""
    lines = [f"# {title}", "", f"Written by `python -m {program}`.", ""]
    lines += ["## The machine", "", *(f"- {what}: {value}" for what, value in described.items()), ""]
    path.write_text("\n".join([*lines, *markdown(sheets)]).rstrip() + "\n", encoding="utf-8")


def markdown(sheets: Sequence[Sheet]) -> list[str]:
    """The lines of a section for each table."""
    return list(chain.from_iterable(_section(sheet) for sheet in sheets))


def _section(sheet: Sheet) -> list[str]:
    rows = [sheet.columns, ["---"] * len(sheet.columns), *sheet.rows]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [f"## {sheet.title}", "", *([sheet.note, ""] if sheet.note else []), *table, ""]
