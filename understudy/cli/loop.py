"""``understudy pause`` and ``resume``: hold the loop where it stands, and let it go on."""

from typing import Annotated

import typer
from rich.console import Console

from understudy.cli.options import AsJson, Key, Url, asked, examples
from understudy.client import DEFAULT_URL, Client
from understudy.records import LoopPause, LoopState

app = typer.Typer()
console = Console()


@app.command(epilog=examples('understudy pause --reason "the disk is nearly full"'))
def pause(
    reason: Annotated[str, typer.Option(help="Why; it is shown to everybody until the loop goes on.")],
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Begin nothing new: no more shards are labeled and no generation starts. What runs goes on to its end."""
    request = asked(LoopPause, reason=reason)
    with Client(url, key=key) as client:
        show(client.pause(reason=request.reason), as_json)


@app.command(epilog=examples("understudy resume"))
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
