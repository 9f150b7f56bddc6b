"""``understudy compare``: two versions on the same holdout images, counted, and the images that tell them apart."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from understudy.cli import completion
from understudy.cli.options import AsJson, Key, Url, examples
from understudy.cli.output import console, show_json
from understudy.client import DEFAULT_URL, Client
from understudy.generation_records import ComparedImage, Comparison, PairOutcome

app = typer.Typer()

#: Mistakes that are shown, those that changed most first; ``--json`` has all.
MAX_MISTAKES = 10


@app.command(
    epilog=examples(
        "understudy compare g0002-df553c g0001-326eb4",
        "understudy compare g0002-df553c g0001-326eb4 --only lost --limit 20",
    )
)
def compare(
    challenger: Annotated[str, typer.Argument(help="A version.", autocompletion=completion.versions)],
    champion: Annotated[
        str, typer.Argument(help="The version to compare it with.", autocompletion=completion.versions)
    ],
    only: Annotated[
        PairOutcome | None,
        typer.Option(help="List the images of this outcome; won: the challenger alone is right.", show_default=False),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", help="List images of this class.", show_default=False, autocompletion=completion.classes
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="List at most so many images.")] = 100,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Count on which holdout images each of two versions is right, or list these images. `understudy gate` has the proof."""
    with Client(url, key=key) as client:
        if only is None and class_name is None:
            _show(client.comparison(challenger, champion), as_json)
            return
        found = list(client.compared_images(challenger, champion, outcome=only, class_name=class_name, limit=limit))
    if as_json:
        show_json(found)
    else:
        console.print(_images(found))


def _show(found: Comparison, as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    square = Table("", "champion right", "champion wrong")
    square.add_row("challenger right", str(found.both_right), str(found.won))
    square.add_row("challenger wrong", str(found.lost), str(found.both_wrong))
    console.print(square)
    changed = [one for one in found.confusions if one.challenger != one.champion][:MAX_MISTAKES]
    if changed:
        table = Table("class", "taken for", "champion", "challenger", title="mistakes that changed")
        for one in changed:
            table.add_row(escape(one.truth), escape(one.answer), str(one.champion), str(one.challenger))
        console.print(table)


def _images(found: list[ComparedImage]) -> Table:
    table = Table("image", "class", "challenger", "champion", "outcome")
    for one in found:
        ours, theirs = (
            _answer(one.challenger, one.challenger_confidence),
            _answer(one.champion, one.champion_confidence),
        )
        table.add_row(one.sha256, escape(one.truth), ours, theirs, one.outcome)
    return table


def _answer(name: str, confidence: float | None) -> str:
    return escape(name) if confidence is None else f"{escape(name)} {confidence:.0%}"
