"""What many commands have alike: options, examples in the help, requests made of words, and exit codes."""

import json
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from understudy.cli import completion
from understudy.records import Record

R = TypeVar("R", bound=Record)

#: Exit code where the gate refused the student that was waited for. 1 is what went wrong, 2 are wrong words.
GATE_REFUSED = 3

Url = Annotated[str, typer.Option("--url", envvar="UNDERSTUDY_URL", help="Address of the service.")]
Key = Annotated[
    str | None,
    typer.Option("--key", envvar="UNDERSTUDY_KEY", help="API key, where the service asks for one.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Student = Annotated[
    str | None,
    typer.Option(help="Architecture, e.g. efficientnet_b0. Default: the recipe's own.", show_default=False),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        help="How to train; see `understudy recipes`. Default: as the generation before.",
        show_default=False,
        autocompletion=completion.recipes,
    ),
]
Replaced = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Replace a field of the recipe, e.g. threshold=0.5; may be repeated.",
        show_default=False,
    ),
]


def examples(*lines: str) -> str:
    """The end of a command's help: what one types."""
    return "\n\n".join(("Examples:" if len(lines) > 1 else "Example:", *lines))


def asked(kind: type[R], /, **fields: Any) -> R:
    """A request of the words that were given. Raises BadParameter with those that are wrong in it."""
    try:
        return kind(**fields)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors())
        raise typer.BadParameter(faults) from error


def replaced_fields(settings: list[str] | None) -> dict[str, Any]:
    """``field=value`` words as fields: a value is JSON (``0.5``, ``null``, ``["a", "b"]``), else text."""
    fields: dict[str, Any] = {}
    for setting in settings or []:
        name, is_there, text = setting.partition("=")
        if not (name and is_there):
            raise typer.BadParameter(f"--set {setting!r} is not FIELD=VALUE, as in threshold=0.5")
        if name in fields:
            raise typer.BadParameter(f"--set names {name} twice")
        try:
            fields[name] = json.loads(text)
        except ValueError:
            fields[name] = text
    return fields
