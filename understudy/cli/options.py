"""The options that many commands have, each in one place."""

from typing import Annotated

import typer

Url = Annotated[str, typer.Option("--url", envvar="UNDERSTUDY_URL", help="Address of the service.")]
Key = Annotated[
    str | None,
    typer.Option("--key", envvar="UNDERSTUDY_KEY", help="API key, where the service asks for one.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
