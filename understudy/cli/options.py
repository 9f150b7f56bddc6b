"""The options that many commands have, each in one place."""

import json
from typing import Annotated, Any

import typer

Url = Annotated[str, typer.Option("--url", envvar="UNDERSTUDY_URL", help="Address of the service.")]
Key = Annotated[
    str | None,
    typer.Option("--key", envvar="UNDERSTUDY_KEY", help="API key, where the service asks for one.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Replaced = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Replace a field of the recipe, e.g. threshold=0.5; may be repeated.",
        show_default=False,
    ),
]


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
