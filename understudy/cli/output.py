"""How commands answer: sentences and tables for people, JSON for programs; what is not the answer goes to ``errors``."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from understudy.records import Record

console = Console()
errors = Console(stderr=True)


def say(line: str, on: Console = console, style: str | None = None) -> None:
    """A line to the letter: no markup in strangers' names, nothing coloured by itself, not folded when piped."""
    on.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def show_json(found: Record | Iterable[Record] | Mapping[str, Any]) -> None:
    """What ``--json`` prints: a record, a list of them, or fields of the command's own."""
    if isinstance(found, Record):
        data: Any = found.model_dump(mode="json")
    elif isinstance(found, Mapping):
        data = dict(found)
    else:
        data = [one.model_dump(mode="json") for one in found]
    console.print_json(data=data)


def show_one(found: Record, line: str, as_json: bool) -> None:
    """One record: as JSON, or as its line for people."""
    if as_json:
        show_json(found)
    else:
        say(line)
