"""``understudy pause`` and ``resume``: hold the loop where it stands, and let it go on."""

from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from understudy.cli.options import AsJson, Key, Url
from understudy.client import DEFAULT_URL, Client
from understudy.records import LoopPause, LoopState

app = typer.Typer()
console = Console()


@app.command()
def pause(
    reason: Annotated[str, typer.Option(help="Why; it is shown to everybody until the loop goes on.")],
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Begin nothing new: no more shards are labeled and no generation starts. What runs goes on to its end."""
    try:
        asked = LoopPause(reason=reason)
    except ValidationError as error:
        raise typer.BadParameter(f"--reason={reason[:100]!r}: {error.errors()[0]['msg']}") from error
    with Client(url, key=key) as client:
        show(client.pause(reason=asked.reason), as_json)


@app.command()
def resume(as_json: AsJson = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Let a paused loop go on, within seconds."""
    with Client(url, key=key) as client:
        show(client.resume(), as_json)


def show(state: LoopState, as_json: bool) -> None:
    """What starts next, in a line; or everything."""
    if as_json:
        console.print_json(state.model_dump_json())
    else:
        console.print(f"next: {state.why}", highlight=False, markup=False, soft_wrap=True)
