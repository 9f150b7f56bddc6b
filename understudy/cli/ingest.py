"""``understudy ingest``: folders, archives and images into a bucket, in parts that survive whatever breaks them off.

It knows what an upload is to the client; what became of it, the receipt says.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from understudy import packing
from understudy.cli import completion
from understudy.cli import sources as remote
from understudy.cli.following import bar
from understudy.cli.options import AsJson, Key, Url, examples
from understudy.cli.output import console, say, show_json
from understudy.client import DEFAULT_URL, Client
from understudy.errors import UnderstudyError
from understudy.packing import Packed
from understudy.records import Job, JobState

app = typer.Typer()

#: The service may be restarted, or a line be down, for so long in the middle of an upload.
PATIENCE_S = 300.0


@app.command(
    epilog=examples(
        "understudy ingest photos/ more.zip --bucket holiday-photos",
        "understudy ingest s3://holiday-photos/2026/ --bucket holiday-photos --json",
    )
)
def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH|URL...",
            help="Folders, archives (zip, tar, tar.gz, tar.zst) or images; or s3://, gs:// or https:// URLs.",
        ),
    ],
    bucket: Annotated[
        str, typer.Option(help="Where the images go; made if it is new.", autocompletion=completion.buckets)
    ] = "default",
    wait: Annotated[bool, typer.Option(help="Wait until the upload is unpacked.")] = True,
    again: Annotated[bool, typer.Option("--again", help="Send it even if the same files were sent before.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Send unlabeled images. Every entry is accounted for in the receipt.

    Sent in parts: after a broken line, or when this program or the service was killed, the same command goes on
    where it was. Files with the same names, sizes and times are one upload, sent once. Each folder or archive is
    a job of its own, and all the loose images together are one. What a URL names is fetched by the workers; the same
    URL again takes only what is new. With --json a list of all the jobs.
    """
    paths = [_existing(source) for source in sources if not remote.is_remote(source)]
    jobs: list[Job] = []
    with Client(url, key=key, patience_s=PATIENCE_S) as client:
        for source in filter(remote.is_remote, sources):
            jobs.append(remote.ingest(client, source, bucket, wait=wait, is_silent=as_json))
        jobs += _ingest_files(client, paths, bucket, wait=wait, again=again, is_silent=as_json)
    if as_json:
        show_json(jobs)
    if failed := [job for job in jobs if job.state == JobState.FAILED]:
        raise UnderstudyError("; ".join(_failure(job) for job in failed))


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.exists():
        raise typer.BadParameter(f"Path {name!r} does not exist.", param_hint="'PATH|URL...'")
    return path


def _ingest_files(
    client: Client, paths: list[Path], bucket: str, *, wait: bool, again: bool, is_silent: bool
) -> Iterator[Job]:
    """A job of each upload, as it is when nobody waits for it any longer."""
    for packed in packing.every(paths):
        job = _send(client, bucket, packed, again=again)
        if wait:
            job = _unpacked(client, job, bucket, packed)
        yield job
        if not is_silent:
            _show(job, packed, wait=wait)


def _send(client: Client, bucket: str, packed: Packed, *, again: bool) -> Job:
    identity = None if again else hashlib.sha256(f"{bucket}\0{packed.name}\0{packed.identity}".encode()).hexdigest()
    columns = (
        TextColumn("sending {task.fields[name]}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with bar(*columns) as progress:
        task = progress.add_task("", name=packed.name, total=packed.num_bytes)
        shown = lambda sent, _: progress.update(task, completed=sent)  # noqa: E731
        return client.upload(bucket, packed, key=identity, on_bytes=shown)


def _unpacked(client: Client, job: Job, bucket: str, packed: Packed) -> Job:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with bar(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task(f"unpacking {packed.name} into {bucket}", total=None)
        return client.wait_for_job(job.id, lambda j: progress.update(task, completed=j.done, total=j.total))


def _show(job: Job, packed: Packed, *, wait: bool) -> None:
    if not wait:
        console.print(f"job {job.id}")
    elif job.state == JobState.SUCCEEDED:
        said = f"{packed.name}: {outcomes(job.result or {})}"
        say(said)


def _failure(job: Job) -> str:
    why = f"{job.problem.detail} ({job.problem.code})" if job.problem else "see the log"
    return f"job {job.id} failed: {why}"


def outcomes(result: dict[str, Any]) -> str:
    """What a receipt says in numbers, in words."""
    kinds = ("accepted", "duplicate", "holdout-leak", "quarantined", "attached")
    counts = ", ".join(f"{result[kind]:,} {kind}" for kind in kinds if result.get(kind))
    reasons = ", ".join(f"{count} {reason}" for reason, count in result.get("reasons", {}).items())
    return f"{result.get('entries', 0):,} entries: {counts or 'nothing'}" + (f" ({reasons})" if reasons else "")
