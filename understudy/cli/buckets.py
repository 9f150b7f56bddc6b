"""``understudy buckets``: what has come in, and recalling it."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from understudy.cli import completion
from understudy.cli.options import AsJson, Key, Url, examples
from understudy.cli.output import console, errors, say, show_json
from understudy.client import DEFAULT_URL, Client
from understudy.records import Recall

app = typer.Typer(name="buckets", help="List the buckets of unlabeled images, or delete one.")


@app.callback(
    invoke_without_command=True, epilog=examples("understudy buckets", "understudy buckets delete holiday-photos")
)
def every(context: typer.Context, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """List the buckets of unlabeled images; `understudy buckets delete NAME` deletes one."""
    if context.invoked_subcommand is not None:
        return
    with Client(url, key=key) as client:
        found = client.buckets()
    if as_json:
        show_json(found)
        return
    table = Table("bucket", "images", "labeled by the champion", "shards", "bytes")
    for b in found:
        table.add_row(b.name, f"{b.num_images:,}", f"{b.num_images_labeled:,}", f"{b.num_shards:,}", f"{b.num_bytes:,}")
    console.print(table)


@app.command(
    epilog=examples(
        "understudy buckets delete holiday-photos --dry-run", "understudy buckets delete holiday-photos --yes --json"
    )
)
def delete(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The bucket.", autocompletion=completion.buckets)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Delete a bucket with its images, shards and label sets, and say which models were trained on it."""
    with Client(url, key=key) as client:
        would_be = client.delete_bucket(name, dry_run=True)
        if not dry_run and not yes:
            _say(would_be, errors)
            typer.confirm(f"Delete the bucket {name}? This cannot be undone.", abort=True, err=True)
        recall = would_be if dry_run else client.delete_bucket(name)
    if as_json:
        show_json(recall)
        return
    _say(recall, console)


def _say(recall: Recall, screen: Console) -> None:
    verb = "would remove" if recall.dry_run else "removed"
    lines = [
        f"{recall.bucket}: {verb} {recall.num_images:,} images, {recall.num_shards:,} shards, "
        f"{recall.num_label_sets:,} label sets and {recall.num_reviews:,} reviews; "
        f"{recall.num_jobs} unfinished jobs ended",
        f"models trained on it: {', '.join(recall.models) or 'none'}",
    ]
    if recall.descendants:
        lines.append(f"models taught by those: {', '.join(recall.descendants)}")
    for line in lines:
        say(line, screen)
