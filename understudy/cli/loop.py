"""``understudy pause`` and ``resume``: hold the loop where it stands, and let it go on."""

from typing import Annotated

import typer

from understudy.cli.options import AsJson, Key, Url, asked, examples
from understudy.cli.output import show_one
from understudy.client import DEFAULT_URL, Client
from understudy.records import LoopPause, LoopState

app = typer.Typer()


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
        show_next(client.pause(reason=request.reason), as_json)


@app.command(epilog=examples("understudy resume"))
def resume(as_json: AsJson = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Let a paused loop go on, within seconds."""
    with Client(url, key=key) as client:
        show_next(client.resume(), as_json)


def show_next(state: LoopState, as_json: bool = False) -> None:
    """What starts next, in a line; or everything."""
    show_one(state, f"next: {state.why}", as_json)
