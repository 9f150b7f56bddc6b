"""Label Studio's exports of a project with ``<Choices>`` over an ``<Image>``: JSON and JSON-MIN.

The formats: https://labelstud.io/guide/export (JSON, JSON_MIN), https://labelstud.io/guide/task_format (a task, its
annotations, ``was_cancelled``). Predictions are a model's word and are not read.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from understudy.annotations.said import Annotation
from understudy.errors import LabeledSetRefused
from understudy.packing import IMAGE_SUFFIXES

UPLOADED, LOCAL_FILES = "/data/upload/", "/data/local-files/"
#: What Label Studio puts before the name of an uploaded file.
_PREFIX = re.compile(r"[0-9a-f]{8}-")
#: What JSON-MIN has beside a task's data and its answers.
_MIN_FIELDS = frozenset(
    {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "project"}
)
#: What an answer is called in Label Studio's own templates.
_USUAL_CONTROLS = ("choice", "choices")


def read(path: Path, *, control: str | None = None) -> list[Annotation]:
    """Every annotation of every task. ``control`` names the ``<Choices>``; None: there is only one.

    Raises LabeledSetRefused for what is no such export, and where it is not clear which of several fields is meant.
    """
    try:
        tasks = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise LabeledSetRefused(f"{path} is no whole JSON ({error}); export it again", code="bad_json") from error
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        raise LabeledSetRefused(
            f"{path} is no list of tasks; export from Label Studio as JSON or JSON-MIN", code="bad_json"
        )
    try:
        if "data" in tasks[0]:
            return list(_of_tasks(path, tasks, control))
        return list(_of_minimal(path, tasks, control))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise LabeledSetRefused(
            f"{path} is not as Label Studio writes it ({type(error).__name__}: {error}); export it again as JSON",
            code="bad_json",
        ) from error


# -- JSON ---------------------------------------------------------------------------------------


def _of_tasks(path: Path, tasks: Sequence[Mapping[str, Any]], control: str | None) -> Iterator[Annotation]:
    wanted = control or _only_control(path, tasks)
    for number, task in enumerate(tasks):
        image = str(task["data"][_image_field(path, task["data"])])
        place = f"task {task.get('id', number)}"
        annotations = task.get("annotations") or []
        if not annotations:
            yield Annotation(image, paths_of(image), (), place)
        for annotation in annotations:
            is_cancelled = bool(annotation.get("was_cancelled"))
            by = f"{place}, annotation {annotation['id']}" if "id" in annotation else place
            yield Annotation(image, paths_of(image), _choices(annotation, wanted), by, is_cancelled)


def _results(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for task in tasks:
        for annotation in task.get("annotations") or []:
            yield from annotation["result"]


def _only_control(path: Path, tasks: Sequence[Mapping[str, Any]]) -> str:
    controls = {str(result["from_name"]) for result in _results(tasks) if result.get("type") == "choices"}
    if len(controls) == 1:
        return controls.pop()
    others = sorted({str(result.get("type")) for result in _results(tasks)})
    if not controls:
        raise LabeledSetRefused(
            f"nothing in {path} was annotated with <Choices> (there is {', '.join(others) or 'no annotation at all'}); "
            f"only classes of whole images can be taken",
            code="no_choices",
        )
    raise _unclear(path, controls)


def _choices(annotation: Mapping[str, Any], control: str) -> tuple[str, ...]:
    chosen = [
        str(choice)
        for result in annotation["result"]
        if result.get("type") == "choices" and result["from_name"] == control
        for choice in result["value"]["choices"]
    ]
    return tuple(choice for choice in chosen if choice.strip())


# -- JSON-MIN -----------------------------------------------------------------------------------


def _of_minimal(path: Path, tasks: Sequence[Mapping[str, Any]], control: str | None) -> Iterator[Annotation]:
    field = _image_field(path, tasks[0])
    wanted = control or _answer_field(path, tasks, field)
    for number, task in enumerate(tasks):
        image = str(task[field])
        yield Annotation(image, paths_of(image), tuple(_flat(task.get(wanted))), f"task {task.get('id', number)}")


def _answer_field(path: Path, tasks: Sequence[Mapping[str, Any]], image: str) -> str:
    fields = {name for task in tasks for name in task} - _MIN_FIELDS - {image}
    usual = [name for name in _USUAL_CONTROLS if name in fields]
    if usual:
        return usual[0]
    if len(fields) == 1:
        return fields.pop()
    raise _unclear(path, fields)


def _flat(answer: Any) -> Iterator[str]:
    """An answer is a text, or ``{"choices": [texts]}``, or a list of either."""
    if isinstance(answer, str):
        if answer.strip():
            yield answer
    elif isinstance(answer, Mapping):
        yield from _flat(answer["choices"])
    elif answer is not None:
        for one in answer:
            yield from _flat(one)


# -- both ---------------------------------------------------------------------------------------


def _unclear(path: Path, names: set[str]) -> LabeledSetRefused:
    found = ", ".join(sorted(names)) or "none"
    return LabeledSetRefused(
        f"which field of {path} is the class is not clear: there is {found}; name one with --control",
        code="unclear_control",
    )


def _image_field(path: Path, data: Mapping[str, Any]) -> str:
    if "image" in data:
        return "image"
    found = [name for name, value in data.items() if isinstance(value, str) and _is_image(value)]
    if len(found) != 1:
        raise LabeledSetRefused(
            f"which field of {path} is the image is not clear: {', '.join(found) or 'none'} of {', '.join(data)} looks "
            f"like one; call it image",
            code="unclear_image",
        )
    return found[0]


def _is_image(value: str) -> bool:
    return value.startswith("/data/") or PurePosixPath(urlsplit(value).path).suffix.lower() in IMAGE_SUFFIXES


def paths_of(image: str) -> tuple[str, ...]:
    """Where a task's image may lie below a folder: the path as it is first, then less and less of it.

    ``/data/upload/`` is the folder ``media/upload`` of Label Studio, where a file is called as it was, with eight
    digits before it; ``/data/local-files/?d=`` counts from its document root. Of another address, whatever is
    at hand of that name. None at all: the image is inside of the JSON.
    """
    if image.startswith("data:"):
        return ()
    if "://" not in image and not image.startswith("/data/"):
        return (image,)
    address = urlsplit(image)
    if LOCAL_FILES in address.path:
        return _tails(parse_qs(address.query).get("d", [""])[0])
    _, is_uploaded, below = address.path.partition(UPLOADED)
    if not is_uploaded:
        return _tails(unquote(address.path))
    paths = (f"upload/{below}", *_tails(below), _PREFIX.sub("", PurePosixPath(below).name, count=1))
    return tuple(dict.fromkeys(path for each in paths for path in (each, unquote(each))))


def _tails(path: str) -> tuple[str, ...]:
    parts = [part for part in path.split("/") if part]
    return tuple("/".join(parts[begin:]) for begin in range(len(parts)))
