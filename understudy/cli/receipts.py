"""``understudy receipt``: what became of every entry of an upload."""

import sys
from typing import Annotated

import typer
from rich.text import Text

from understudy.cli import completion
from understudy.cli.options import Key, Url, examples
from understudy.cli.output import console
from understudy.client import DEFAULT_URL, Client
from understudy.records import Outcome, ReceiptEntry

app = typer.Typer()


@app.command(
    epilog=examples(
        "understudy receipt 0204b678d519f1b9bdbf --only quarantined",
        "understudy receipt 0204b678d519f1b9bdbf --ndjson",
    )
)
def receipt(
    job: Annotated[
        str,
        typer.Argument(help="The job, as `understudy ingest` or `status` shows it.", autocompletion=completion.uploads),
    ],
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV, safe to open in a spreadsheet.")] = False,
    as_ndjson: Annotated[bool, typer.Option("--ndjson", help="A JSON document a line.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    only: Annotated[Outcome | None, typer.Option(help="Only entries with this outcome.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Show what became of every entry of an upload: accepted, duplicate, holdout-leak or quarantined, and why."""
    if as_csv + as_ndjson + as_json > 1:
        raise typer.BadParameter("--csv, --ndjson and --json exclude each other; give one")
    with Client(url, key=key) as client:
        if as_csv or as_ndjson:
            for piece in client.receipt_as(job, "csv" if as_csv else "ndjson", only=only):
                sys.stdout.buffer.write(piece)
            return
        lines = (line for line in client.receipt(job) if only is None or line.outcome is only)
        if as_json:
            separator = "["
            for line in lines:
                sys.stdout.write(f"{separator}{line.model_dump_json()}")
                separator = ",\n"
            sys.stdout.write("]\n" if separator != "[" else "[]\n")
            return
        for line in lines:
            console.print(_shown(line), highlight=False, soft_wrap=True)


def _shown(line: ReceiptEntry) -> Text:
    """One line for people. Text, because a name may look like markup."""
    why = ": ".join(part for part in (line.reason, line.detail) if part)
    return Text(f"{line.index:>7}  {line.outcome.value:12}  {line.name}" + (f"  ({why})" if why else ""))
