"""``understudy ingest``: folders, archives and images into a bucket, in parts that survive whatever breaks them off.

It knows what an upload is to the client; what became of it, the receipt says.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from understudy import packing
from understudy.cli import sources as remote
from understudy.cli.options import Key, Url
from understudy.client import DEFAULT_URL, Client
from understudy.errors import UnderstudyError
from understudy.packing import Packed
from understudy.records import Job, JobState

app = typer.Typer()
console = Console()
errors = Console(stderr=True)

#: The service may be restarted, or a line be down, for so long in the middle of an upload.
PATIENCE_S = 300.0


@app.command()
def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH|URL...",
            help="Folders, archives (zip, tar, tar.gz, tar.zst) or images; or s3://, gs:// or https:// URLs.",
        ),
    ],
    bucket: Annotated[str, typer.Option(help="Where the images go; made if it is new.")] = "default",
    wait: Annotated[bool, typer.Option(help="Wait until the upload is unpacked.")] = True,
    again: Annotated[bool, typer.Option("--again", help="Send it even if the same files were sent before.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the jobs as JSON.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Send unlabeled images. Every entry is accounted for in the receipt.

    Sent in parts: after a broken line, or when this program or the service was killed, the same command goes on
    where it was. Files with the same names, sizes and times are one upload, sent once. Each folder or archive is
    a job of its own, and all the loose images together are one. What a URL names is fetched by the workers; the same
    URL again takes only what is new.
    """
    paths = [_existing(source) for source in sources if not remote.is_remote(source)]
    for source in filter(remote.is_remote, sources):
        remote.ingest(source, bucket, wait=wait, url=url, key=key)
    if paths:
        _ingest_files(paths, bucket, wait=wait, again=again, as_json=as_json, url=url, key=key)


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.exists():
        raise typer.BadParameter(f"Path {name!r} does not exist.", param_hint="'PATH|URL...'")
    return path


def _ingest_files(
    paths: list[Path], bucket: str, *, wait: bool, again: bool, as_json: bool, url: str, key: str | None
) -> None:
    ended = []
    with Client(url, key=key, patience_s=PATIENCE_S) as client:
        client.readiness()  # a service that was never there is said at once
        for packed in packing.every(paths):
            job = _send(client, bucket, packed, again=again)
            if wait:
                job = _unpacked(client, job, bucket, packed)
            ended.append(job)
            if not as_json:
                _show(job, packed, wait=wait)
    if as_json:
        console.print_json(data=[job.model_dump(mode="json") for job in ended])
    if failed := [job for job in ended if job.state == JobState.FAILED]:
        raise UnderstudyError("; ".join(_failure(job) for job in failed))


def _send(client: Client, bucket: str, packed: Packed, *, again: bool) -> Job:
    identity = None if again else hashlib.sha256(f"{bucket}\0{packed.name}\0{packed.identity}".encode()).hexdigest()
    columns = (
        TextColumn("sending {task.fields[name]}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task("", name=packed.name, total=packed.num_bytes)
        return client.upload(bucket, packed, key=identity, on_bytes=lambda sent, _: bar.update(task, completed=sent))


def _unpacked(client: Client, job: Job, bucket: str, packed: Packed) -> Job:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=errors) as bar:
        task = bar.add_task(f"unpacking {packed.name} into {bucket}", total=None)
        return client.wait_for_job(job.id, lambda j: bar.update(task, completed=j.done, total=j.total))


def _show(job: Job, packed: Packed, *, wait: bool) -> None:
    if not wait:
        console.print(f"job {job.id}")
    elif job.state == JobState.SUCCEEDED:
        said = f"{packed.name}: {outcomes(job.result or {})}"
        console.print(said, highlight=False, markup=False, soft_wrap=True)


def _failure(job: Job) -> str:
    why = f"{job.problem.detail} ({job.problem.code})" if job.problem else "see the log"
    return f"job {job.id} failed: {why}"


def outcomes(result: dict[str, Any]) -> str:
    """What a receipt says in numbers, in words."""
    kinds = ("accepted", "duplicate", "holdout-leak", "quarantined", "attached")
    counts = ", ".join(f"{result[kind]:,} {kind}" for kind in kinds if result.get(kind))
    reasons = ", ".join(f"{count} {reason}" for reason, count in result.get("reasons", {}).items())
    return f"{result.get('entries', 0):,} entries: {counts or 'nothing'}" + (f" ({reasons})" if reasons else "")
