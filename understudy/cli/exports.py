"""``understudy export``: pseudo-labels and their images into a local folder.

The service writes the files, here they are downloaded, checked, and unpacked where they are folders. Killed at any
point, the same command goes on where it was: what the folder is of, a file in it says.
"""

import json
import tarfile
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as Speed

from understudy.cli import completion
from understudy.cli.following import bar, follow
from understudy.cli.options import AsJson, Key, Url, asked, examples
from understudy.cli.output import say, show_json
from understudy.client import DEFAULT_URL, Client
from understudy.errors import Conflict
from understudy.records import ExportFile, ExportFormat, ExportRequest, Job

app = typer.Typer()

#: While it is there, the folder is not complete.
UNFINISHED = ".understudy-export.json"
#: What comes as tars of folders, and is to be folders.
UNPACKED = frozenset({ExportFormat.IMAGEFOLDER, ExportFormat.HUGGINGFACE})


@app.command(
    epilog=examples(
        "understudy export --to labels/",
        "understudy export --to photos/ --format imagefolder --bucket holiday-photos --min-confidence 0.9 --json",
    )
)
def export(
    to: Annotated[Path, typer.Option(file_okay=False, help="Folder to write to: new, empty, or one to go on with.")],
    format: Annotated[ExportFormat, typer.Option(help="What the files are.")] = ExportFormat.PARQUET,
    bucket: Annotated[str | None, typer.Option(help="Only of this bucket.", autocompletion=completion.buckets)] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", help="Only of this class; may be repeated.", autocompletion=completion.classes),
    ] = None,
    min_confidence: Annotated[float, typer.Option(min=0, max=1, help="Only what is at least so confident.")] = 0.0,
    teacher: Annotated[
        str | None,
        typer.Option(help="Whose pseudo-labels; default: the champion's.", autocompletion=completion.versions),
    ] = None,
    generation: Annotated[
        int | None,
        typer.Option(min=0, help="Only what this generation selected.", autocompletion=completion.generations),
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Export pseudo-labels, with their images or without, into a folder; every file is checked by its sha-256.

    Formats: parquet (labels only), webdataset (tars), imagefolder (a folder a class), huggingface (for
    `load_dataset("imagefolder", data_dir=...)`). With --json the export's job.
    """
    request = asked(
        ExportRequest,
        format=format,
        bucket=bucket,
        classes=tuple(class_ or ()),
        min_confidence=min_confidence,
        teacher=teacher,
        generation=generation,
    )
    with Client(url, key=key) as client:
        job = _written(client, _begun(client, request, to))
        files = list(client.export_files(job.id))
        _download(client, job.id, files, to, unpack=format in UNPACKED)
    (to / UNFINISHED).unlink()
    if as_json:
        show_json(job)
        return
    num_rows = sum(file.num_rows for file in files)
    say(f"{num_rows:,} pseudo-labels in {to}")


def _begun(client: Client, request: ExportRequest, to: Path) -> Job:
    """The export that the folder is of already, or a new one."""
    note = to / UNFINISHED
    asked = request.model_dump(mode="json")
    if note.exists():
        before = json.loads(note.read_text())
        if before["request"] != asked:
            raise Conflict(f"{to} is of another export that is not complete; choose another folder, or empty it")
        return client.job(before["id"])
    if to.exists() and any(to.iterdir()):
        raise Conflict(f"{to} is not empty; choose another folder")
    job = client.export(request)
    to.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"id": job.id, "request": asked}))
    return job


def _written(client: Client, job: Job) -> Job:
    columns = (TextColumn("writing the export"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return follow(client, job, "", bar(*columns))


def _download(client: Client, export_id: str, files: list[ExportFile], to: Path, *, unpack: bool) -> None:
    columns = (TextColumn("downloading"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
    with bar(*columns) as progress:
        task = progress.add_task("", total=sum(file.num_bytes for file in files))
        for file in files:
            done = to / f".{file.name}.unpacked"
            if not done.exists():
                client.download(export_id, file, to / file.name)
                if unpack and file.name.endswith(".tar"):
                    with tarfile.open(to / file.name) as tar:
                        tar.extractall(to, filter="data")  # the service made these names; a wrong one is refused
                    done.touch()
                    (to / file.name).unlink()
            progress.advance(task, file.num_bytes)
    for file in files:
        (to / f".{file.name}.unpacked").unlink(missing_ok=True)
