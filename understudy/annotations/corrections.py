"""What people said of pseudo-labels, and what the teachers said, as other tools' files: CSV, Label Studio, CVAT, folders.

It writes texts about images that lie beside them as ``images/<sha256>.<suffix>``; who fetches those is none of its
business. What is written is read again by ``understudy.annotations.reading`` as the same files and classes: what a
teacher said is written where a tool looks for predictions, and is nobody's label there.
"""

import csv
import enum
import io
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from understudy.annotations.reading import folder_fault
from understudy.errors import Refused
from understudy.records import Record, Sha256

#: The folder of the images, beside the text.
IMAGES = "images"
#: What Label Studio's own template for image classification calls its parts.
CONTROL, OBJECT = "choice", "image"
COLUMNS = ("path", "label", "sha256", "verdict", "teacher", "teacher_label", "confidence")


class Tool(enum.StrEnum):
    """For whom the files are."""

    CSV = "csv"  #: labels.csv and images/
    LABEL_STUDIO = "label-studio"  #: tasks.json, label-config.xml and images/
    CVAT = "cvat"  #: annotations.xml, "CVAT for images 1.1", and images/
    FOLDER = "folder"  #: a folder a class; what has none is left out


class Opinion(Record):
    """What a teacher says of one image, and what a person said, if anybody did."""

    sha256: Sha256
    class_name: str | None  #: what a person says that it is; None: nobody said, or it is none of the classes
    verdict: str | None  #: ``accept``, ``correct`` or ``reject``; None: nobody has looked
    teacher: str
    label: str  #: what the teacher says
    confidence: float


@dataclass(frozen=True)
class Correction:
    """The same of an image whose file is at hand."""

    said: Opinion
    file: str  #: its name below ``images``
    width: int  #: pixels
    height: int


def refuse_classes(tool: Tool, opinions: Iterable[Opinion]) -> None:
    """Raise Refused for a class that the format cannot have, before anything is written."""
    said = list(opinions)
    if tool in (Tool.CVAT, Tool.LABEL_STUDIO):
        for name in _classes(said):
            _attribute(name)
    if tool != Tool.FOLDER:
        return
    alike: dict[str, str] = {}
    for name in sorted({one.class_name for one in said if one.class_name is not None}):
        other = alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        fault = f"on many systems it is the same as {other!r}" if other != name else folder_fault(name)
        if fault:
            raise Refused(
                f"the class {name[:100]!r} cannot be a folder: {fault}; choose another format", code="bad_class_name"
            )


def place(tool: Tool, correction: Correction) -> str | None:
    """Where an image's file is below the folder; None: in this format it has no place, as it has no class."""
    if tool != Tool.FOLDER:
        return f"{IMAGES}/{correction.file}"
    return None if correction.said.class_name is None else f"{correction.said.class_name}/{correction.file}"


def texts(tool: Tool, corrections: Sequence[Correction], *, folder: str) -> dict[str, Iterator[str]]:
    """The files of text, by name, each in pieces. ``folder`` is the name of the folder that they come to lie in."""
    match tool:
        case Tool.CSV:
            return {"labels.csv": _csv(corrections)}
        case Tool.LABEL_STUDIO:
            return {"tasks.json": _tasks(corrections, folder), "label-config.xml": iter([_config(corrections)])}
        case Tool.CVAT:
            return {"annotations.xml": _cvat(corrections)}
        case Tool.FOLDER:
            return {}


def _classes(opinions: Iterable[Opinion]) -> list[str]:
    """Every class that anybody said."""
    return sorted({name for one in opinions for name in (one.class_name, one.label) if name is not None})


# -- CSV ----------------------------------------------------------------------------------------


def _csv(corrections: Iterable[Correction]) -> Iterator[str]:
    yield _row(COLUMNS)
    for c in corrections:
        said = (
            c.said.class_name or "",
            c.said.sha256,
            c.said.verdict or "",
            c.said.teacher,
            c.said.label,
            f"{c.said.confidence:.6f}",
        )
        yield _row((f"{IMAGES}/{c.file}", *said))


def _row(cells: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue()


# -- Label Studio -------------------------------------------------------------------------------


def _tasks(corrections: Iterable[Correction], folder: str) -> Iterator[str]:
    """Tasks to import (https://labelstud.io/guide/predictions): the person's word is an annotation, the teacher's a
    prediction. Images are found by local storage, below a document root that is the folder's parent.
    """
    mark = "["
    for c in corrections:
        yield f"{mark}\n {json.dumps(_task(c, folder), ensure_ascii=False)}"
        mark = ","
    yield "[]\n" if mark == "[" else "\n]\n"


def _task(c: Correction, folder: str) -> dict[str, Any]:
    where = quote(f"{folder}/{IMAGES}/{c.file}")
    task: dict[str, Any] = {
        "data": {OBJECT: f"/data/local-files/?d={where}", "sha256": c.said.sha256},
        "predictions": [{"model_version": c.said.teacher, "score": c.said.confidence, "result": _result(c.said.label)}],
    }
    if c.said.verdict is not None:
        is_rejected = c.said.class_name is None
        result = [] if c.said.class_name is None else _result(c.said.class_name)
        task["annotations"] = [{"result": result, "was_cancelled": is_rejected}]
    return task


def _result(class_name: str) -> list[dict[str, Any]]:
    return [{"from_name": CONTROL, "to_name": OBJECT, "type": "choices", "value": {"choices": [class_name]}}]


def _config(corrections: Iterable[Correction]) -> str:
    choices = "".join(f"    <Choice value={_attribute(name)}/>\n" for name in _classes(c.said for c in corrections))
    return (
        f'<View>\n  <Image name="{OBJECT}" value="${OBJECT}"/>\n'
        f'  <Choices name="{CONTROL}" toName="{OBJECT}" choice="single">\n{choices}  </Choices>\n</View>\n'
    )


# -- CVAT ---------------------------------------------------------------------------------------


def _cvat(corrections: Sequence[Correction]) -> Iterator[str]:
    """As https://docs.cvat.ai/docs/other/xml_format/ has it; a tag that no person set has the source ``auto``."""
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
    yield f"      <size>{len(corrections)}</size>\n      <mode>annotation</mode>\n      <labels>\n"
    for name in _classes(c.said for c in corrections):
        yield f"        <label><name>{_text(name)}</name><type>tag</type><attributes></attributes></label>\n"
    yield "      </labels>\n    </task>\n  </meta>\n"
    for number, c in enumerate(corrections):
        yield f'  <image id="{number}" name={_attribute(c.file)} width="{c.width}" height="{c.height}">\n'
        if c.said.class_name is not None:
            yield f'    <tag label={_attribute(c.said.class_name)} source="manual"></tag>\n'
        elif c.said.verdict is None:
            yield f'    <tag label={_attribute(c.said.label)} source="auto"></tag>\n'
        yield "  </image>\n"
    yield "</annotations>\n"


def _text(value: str) -> str:
    return _attribute(value)[1:-1]


def _attribute(value: str) -> str:
    """Quoted for XML 1.0. Raises Refused for a character that it knows no way to write."""
    wrong = next(
        (c for c in value if (c < " " and c not in "\t\n\r") or c in "\ufffe\uffff" or "\ud800" <= c < "\ue000"), ""
    )
    if wrong:
        raise Refused(
            f"the class {value[:100]!r} has the character {wrong!r}, which XML cannot have; choose the format csv",
            code="bad_class_name",
        )
    return quoteattr(value, {'"': "&quot;"})
