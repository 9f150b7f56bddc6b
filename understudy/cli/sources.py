"""``understudy sources`` and ``sync``, and ``ingest`` of what lies elsewhere: workers fetch it, nothing passes here."""

from collections import Counter
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from understudy.cli import completion
from understudy.cli.following import bar, follow
from understudy.cli.options import AsJson, Key, Url, examples
from understudy.cli.output import console, show_json
from understudy.client import DEFAULT_URL, Client
from understudy.records import Job, Outcome

app = typer.Typer()


@app.command(epilog=examples("understudy sources", "understudy sources --json"))
def sources(url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Show the remote sources: where from, into which bucket, and how many objects are taken."""
    with Client(url, key=key) as client:
        known = [client.source(each.id) for each in client.sources()]
    if as_json:
        show_json(known)
        return
    table = Table("id", "url", "bucket", "taken", "underway", "failed")
    for source in known:
        assert source.objects is not None  # one source is answered with them
        counts = (source.objects.num_taken, source.objects.num_underway, source.objects.num_failed)
        table.add_row(source.id, Text(source.url), source.bucket, *(f"{count:,}" for count in counts))
    console.print(table)


@app.command(epilog=examples("understudy sync 7a0f52c1d9e84b36aa10", "understudy sync 7a0f52c1d9e84b36aa10 --no-wait"))
def sync(
    source: Annotated[
        str,
        typer.Argument(metavar="ID", help="As `understudy sources` shows it.", autocompletion=completion.sources),
    ],
    wait: Annotated[bool, typer.Option(help="Wait until what is new is unpacked.")] = True,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Take what is new in a remote source. With --json the job that lists it."""
    with Client(url, key=key) as client:
        job = _follow(client, client.sync(source), wait=wait, is_silent=as_json)
    if as_json:
        show_json(job)


def is_remote(source: str) -> bool:
    """Whether what is to be ingested is named by a URL; which ones are taken, the service says."""
    return "://" in source


def ingest(client: Client, source: str, bucket: str, *, wait: bool, is_silent: bool) -> Job:
    """Name a source to the service, and show what comes of it; gives the job that lists it."""
    return _follow(client, client.add_source(bucket, source), wait=wait, is_silent=is_silent)


def _follow(client: Client, job: Job, *, wait: bool, is_silent: bool) -> Job:
    if wait:
        job = follow(client, job, "listing")
        outcomes = _outcomes(client, job)
        if not is_silent:
            _say(dict(job.result or {}) | {"outcomes": outcomes})
    elif not is_silent:
        console.print(f"job {job.id}")
    return job


def _say(shown: dict[str, Any]) -> None:
    line = f"{shown['listed']:,} objects listed: {shown['new']:,} new, {shown['unchanged']:,} known"
    line += f", {shown['underway']:,} underway" if shown["underway"] else ""
    if shown["new"]:
        outcomes = ", ".join(f"{count:,} {name}" for name, count in shown["outcomes"].items() if count)
        line += f"; {outcomes or 'no images'}"
    console.print(line, highlight=False, soft_wrap=True)
    if (unseen := shown["num_jobs"] - len(shown["jobs"])) > 0:
        console.print(f"and {unseen:,} more jobs, which go on: `understudy sources` counts them", highlight=False)


def _outcomes(client: Client, listed: Job) -> dict[str, int]:
    """The sums of the jobs that a sync opened, once they have ended."""
    sums: Counter[str] = Counter()
    jobs = (listed.result or {}).get("jobs", [])
    with bar() as progress:
        task = progress.add_task("fetching, in jobs", total=len(jobs))
        for job_id in jobs:
            ended = client.wait_for_job(job_id)
            progress.advance(task)
            if ended.result is None:
                sums["failed jobs"] += 1
                continue
            sums.update({outcome.value: ended.result.get(outcome.value, 0) for outcome in Outcome})
    return dict(sums)
