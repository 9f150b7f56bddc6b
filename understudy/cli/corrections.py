"""``understudy corrections`` and ``understudy tasks``: images with what people said of them, or to be asked about.

Each image is downloaded once and checked by its sha-256: killed at any point, the same command goes on where it was.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from understudy.annotations import corrections as writing
from understudy.annotations.corrections import Correction, Opinion, Tool
from understudy.cli import completion
from understudy.cli.following import bar
from understudy.cli.options import AsJson, Key, Url, examples
from understudy.cli.output import console, say, show_json
from understudy.client import DEFAULT_URL, Client, RequestFailed
from understudy.errors import Conflict, NotFound
from understudy.label_records import PseudoLabel
from understudy.review_records import Review

app = typer.Typer()

#: What the folder is of: another export does not go on in it.
NOTE = ".understudy-export.json"
#: Of HTTP.
NOT_FOUND = 404
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}

To = Annotated[Path, typer.Option(file_okay=False, help="Folder to write to: new, empty, or one to go on with.")]
ToolOption = Annotated[Tool, typer.Option("--format", help="For which tool.")]


@app.command(
    epilog=examples(
        "understudy corrections --to corrections/",
        "understudy corrections --to corrections/ --format label-studio --json",
    )
)
def corrections(
    to: To, format: ToolOption = Tool.CSV, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False
) -> None:
    """Take away what people said of pseudo-labels, with the images, for a labeling tool or anybody.

    csv, label-studio (with the teacher's labels as predictions), cvat ("CVAT for images 1.1"), folder (one a class).
    What is written can be read again by `understudy init`. Rejected images have no class; in folders they have no place.
    """
    with Client(url, key=key) as client:
        said = (_of_review(review) for review in client.reviews(counting=True))
        written = _write(client, said, to, format, {"corrections": True})
    _tell(written, as_json=as_json)


@app.command(
    epilog=examples(
        "understudy tasks --to tasks/",
        "understudy tasks --to tasks/ --format cvat --bucket holiday-photos --max-confidence 0.6 --limit 200 --json",
    )
)
def tasks(
    to: To,
    format: ToolOption = Tool.LABEL_STUDIO,
    bucket: Annotated[str | None, typer.Option(help="Only of this bucket.", autocompletion=completion.buckets)] = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="Only of this class.", autocompletion=completion.classes)
    ] = None,
    max_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Only what is at most so sure.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the least sure first.")] = 1000,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Take away images that nobody reviewed and whose labels are the least sure, to label them in another tool.

    The labels are in it as predictions. Read what comes back with `understudy init`.
    """
    if format == Tool.FOLDER:
        raise typer.BadParameter("folders are of what people said; `understudy export --format imagefolder` has labels")
    asked: dict[str, Any] = {"bucket": bucket, "class_name": class_, "max_confidence": max_confidence}
    with Client(url, key=key) as client:
        reviewed = {review.sha256 for review in client.reviews(counting=True)}
        found = client.pseudo_labels(sort="confidence", order="asc", **asked)
        unseen = (_of_label(label) for label in found if label.sha256 not in reviewed)
        written = _write(client, islice(unseen, limit), to, format, {"tasks": asked | {"limit": limit}})
    _tell(written, as_json=as_json)


def _of_review(review: Review) -> Opinion:
    return Opinion(
        sha256=review.sha256,
        class_name=review.class_name,
        verdict=review.verdict.value,
        teacher=review.teacher,
        label=review.label,
        confidence=review.confidence,
    )


def _of_label(label: PseudoLabel) -> Opinion:
    return Opinion(
        sha256=label.sha256,
        class_name=None,
        verdict=None,
        teacher=label.teacher,
        label=label.label,
        confidence=label.confidence,
    )


@dataclass(frozen=True)
class Written:
    """What a folder has become."""

    to: str
    format: str
    num_images: int
    num_rejected: int  #: that have no place in this format, as they have no class
    num_gone: int  #: that the service has no more


def _write(client: Client, opinions: Iterable[Opinion], to: Path, tool: Tool, asked: dict[str, Any]) -> Written:
    # 1. What is written, frozen: a second run goes on with the same.
    frozen = _frozen(opinions, to, tool, asked | {"format": tool.value})

    # 2. The images.
    found: list[Correction] = []
    num_gone = 0
    columns = (TextColumn("downloading images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with bar(*columns) as progress:
        for opinion in progress.track(frozen):
            correction = _fetched(client, opinion, to, tool)
            if correction is None:
                num_gone += 1
            else:
                found.append(correction)

    # 3. The texts about them, and at last the note goes: the folder is whole.
    for name, pieces in writing.texts(tool, found, folder=to.resolve().name).items():
        with (to / name).open("w", encoding="utf-8", newline="") as file:
            file.writelines(pieces)
    (to / NOTE).unlink()
    num_placed = sum(writing.place(tool, correction) is not None for correction in found)
    return Written(str(to), tool.value, num_placed, len(found) - num_placed, num_gone)


def _tell(written: Written, *, as_json: bool) -> None:
    if as_json:
        show_json(asdict(written))
        return
    line = f"{written.num_images:,} images as {written.format} in {written.to}"
    say(line)
    if written.num_rejected:
        console.print(f"{written.num_rejected:,} were rejected: they have no class, so no folder")
    if written.num_gone:
        console.print(f"{written.num_gone:,} are gone: their bucket was deleted")


def _frozen(opinions: Iterable[Opinion], to: Path, tool: Tool, asked: dict[str, Any]) -> list[Opinion]:
    """What was to be written when the folder was begun, or what is to be now."""
    note = to / NOTE
    if note.exists():
        before = json.loads(note.read_text("utf-8"))
        if before.get("asked") != asked:
            raise Conflict(f"{to} is of another export that is not complete; choose another folder, or empty it")
        return [Opinion(**each) for each in before["opinions"]]
    being_written = note.with_suffix(".part")
    if to.exists() and any(path != being_written for path in to.iterdir()):
        raise Conflict(f"{to} is not empty; choose another folder")
    frozen = list(opinions)
    if not frozen:
        raise NotFound("there is nothing to write yet: nobody has reviewed, or no teacher has labeled, such an image")
    writing.refuse_classes(tool, frozen)
    to.mkdir(parents=True, exist_ok=True)
    being_written.write_text(json.dumps({"asked": asked, "opinions": [o.model_dump() for o in frozen]}), "utf-8")
    being_written.rename(note)
    return frozen


def _fetched(client: Client, opinion: Opinion, to: Path, tool: Tool) -> Correction | None:
    """An image in its place, downloaded if it is not there. None: the service has it no more."""
    for suffix in SUFFIXES.values():
        correction = Correction(opinion, f"{opinion.sha256}.{suffix}", 0, 0)
        where = writing.place(tool, correction)
        if where is None:  # rejected, and this format has no place for it
            return correction
        if (to / where).is_file():
            return _measured(opinion, (to / where).read_bytes())
    try:
        data = client.picture(opinion.sha256)
    except RequestFailed as failed:
        if failed.status == NOT_FOUND:
            return None
        raise
    if hashlib.sha256(data).hexdigest() != opinion.sha256:
        raise RequestFailed(f"image {opinion.sha256} has arrived damaged; run it again", code="damaged_download")
    correction = _measured(opinion, data)
    place = to / str(writing.place(tool, correction))
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    part.write_bytes(data)
    part.rename(place)
    return correction


def _measured(opinion: Opinion, data: bytes) -> Correction:
    from understudy import images  # with it come Pillow and numpy, which every command would wait for

    facts = images.inspect(data)
    return Correction(opinion, f"{opinion.sha256}.{SUFFIXES[facts.format]}", facts.width, facts.height)
