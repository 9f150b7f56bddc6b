"""``understudy models``: every model, one of them, and a folder of one to take away."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as Speed
from rich.table import Table

from understudy import model_folders
from understudy.cli import completion
from understudy.cli.following import bar
from understudy.cli.options import AsJson, Key, Url, examples
from understudy.cli.output import console, say, show_json, show_one
from understudy.client import DEFAULT_URL, Client
from understudy.errors import Conflict, NotFound
from understudy.model_folders import CARD, ModelFormat
from understudy.records import ModelCard, ModelFile, ModelVersion

app = typer.Typer(name="models", help="List the models, show one, or take one away as a folder.")

Version = Annotated[
    str,
    typer.Argument(
        metavar="VERSION", help="Such as g0003-8f2c1a; `champion` is what serves.", autocompletion=completion.versions
    ),
]


@app.callback(
    invoke_without_command=True,
    epilog=examples("understudy models", "understudy models --json"),
)
def every(context: typer.Context, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """List the models, the newest first; `understudy models show VERSION` tells more of one."""
    if context.invoked_subcommand is not None:
        return
    with Client(url, key=key) as client:
        found = client.models()
    if as_json:
        show_json(found)
        return
    table = Table("version", "generation", "state", "student", "holdout accuracy")
    for model in found:
        table.add_row(model.id, str(model.generation), _state(model), model.student, _accuracy(model))
    console.print(table)


@app.command(
    epilog=examples("understudy models show champion", "understudy models show g0003-8f2c1a --json"),
)
def show(version: Version, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Show one model: what it is, how right it is, who taught it, and its classes."""
    with Client(url, key=key) as client:
        model = _model(client, version)
    if as_json:
        show_json(model)
        return
    card = model.card
    lines = [
        f"{model.id}: {_state(model)}, generation {model.generation}, {card.student}, {card.num_parameters:,} parameters",
        f"holdout accuracy {_accuracy(model)} on {card.evaluation.num_images:,} images",
        f"input {card.preprocessing.size} px; temperature {card.temperature:.4g}; taught by {card.teacher or 'nobody'}",
        f"{len(card.classes)} classes: {', '.join(card.classes)}",
    ]
    for line in lines:
        say(line)


@app.command(
    epilog=examples(
        "understudy models export champion --to model/",
        "understudy models export g0003-8f2c1a --to model/ --format timm --json",
    )
)
def export(
    version: Version,
    to: Annotated[Path, typer.Option(file_okay=False, help="Folder to write to: new, empty, or one to go on with.")],
    format: Annotated[ModelFormat, typer.Option(help="For what.")] = ModelFormat.ONNX,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Take a model away: a folder with its files, its card, and a program of ten lines that runs it.

    onnx: pixels in, probabilities out. timm: for `timm.create_model("local-dir:FOLDER", pretrained=True)`. safetensors:
    the weights of architectures that timm has not. Every file is checked by its sha-256; the same command goes on after
    a break. With --json its card.
    """
    with Client(url, key=key) as client:
        card = _model(client, version).card
        documents = model_folders.documents(card, format)
        names = model_folders.files(format)
        _refuse_other(to, card, {*names.values(), *documents})
        there = {file.name: file for file in client.model_files(card.version)}
        if missing := [name for name in names if name not in there]:
            raise NotFound(f"the service has no {missing[0]} of model {card.version} any more")
        to.mkdir(parents=True, exist_ok=True)
        _download(client, card.version, {to / name: there[theirs] for theirs, name in names.items()})
    for name, text in documents.items():
        (to / name).write_text(text, "utf-8")
    show_one(card, f"{card.version} as {format} in {to}", as_json)


def _model(client: Client, version: str) -> ModelVersion:
    return client.champion() if version == "champion" else client.model(version)


def _state(model: ModelVersion) -> str:
    return "champion" if model.is_champion else model.state.value


def _accuracy(model: ModelVersion) -> str:
    measured = model.card.evaluation
    return f"{measured.accuracy:.1%} ({measured.interval.low:.1%} to {measured.interval.high:.1%})"


def _refuse_other(to: Path, card: ModelCard, names: set[str]) -> None:
    """Raise Conflict for a folder that has anything but this model, whole or in part."""
    there = {path.name for path in to.iterdir()} if to.exists() else set()
    if others := sorted(there - names - {f".{name}.part" for name in names}):
        raise Conflict(f"{to} has {others[0]}, which is not of this export; choose another folder")
    if CARD in there and (other := json.loads((to / CARD).read_text("utf-8")).get("version")) != card.version:
        raise Conflict(f"{to} is of model {other}, not of {card.version}; choose another folder")


def _download(client: Client, version: str, files: dict[Path, ModelFile]) -> None:
    columns = (TextColumn("downloading"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
    with bar(*columns) as progress:
        task = progress.add_task("", total=sum(file.num_bytes for file in files.values()))
        for path, file in files.items():
            client.download_model(version, file, path)
            progress.advance(task, file.num_bytes)
