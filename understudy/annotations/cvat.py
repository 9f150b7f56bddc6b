"""CVAT's XML, "CVAT for images 1.1": an ``image`` element each, with a ``tag`` element for its class.

The format: https://docs.cvat.ai/docs/other/xml_format/ (annotation) and the folders of an export,
https://docs.cvat.ai/docs/manual/advanced/formats/format-cvat/. Strangers' XML is read by expat without a document
type, so no entity can be declared that expands or that opens a file.
"""

from pathlib import Path
from typing import Any
from xml.parsers import expat

from understudy.annotations.said import Annotation
from understudy.errors import LabeledSetRefused

#: What an export has beside its XML file.
IMAGES_FOLDER = "images"
#: A tag's source when a model set it and no person did.
OF_A_MODEL = "auto"
#: What is drawn in an image: it is no class of the whole.
SHAPES = frozenset({"box", "polygon", "polyline", "points", "cuboid", "ellipse", "mask", "skeleton"})


def read(path: Path) -> list[Annotation]:
    """Every image of an ``annotations.xml``. Raises LabeledSetRefused for what is none, or for videos."""
    document = _Document(path)
    with path.open("rb") as file:
        try:
            document.parser.ParseFile(file)
        except expat.ExpatError as error:
            raise LabeledSetRefused(f"{path} is no whole XML ({error}); export it again", code="bad_xml") from error
    return document.annotations


class _Document:
    """What expat has told of a file so far."""

    def __init__(self, path: Path) -> None:
        self.annotations: list[Annotation] = []
        self._path = path
        self._within: list[str] = []  #: names of the elements that are open
        self._image: dict[str, str] = {}
        self._classes: list[str] = []
        self._others: set[str] = set()  #: what else was said of the image
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._begin
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._refuse_document_type

    def _refuse_document_type(self, *_: Any) -> None:
        raise LabeledSetRefused(
            f"{self._path} declares a document type; CVAT writes none, and what it could declare is not safe to read",
            code="bad_xml",
        )

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        if not self._within and name != "annotations":
            raise LabeledSetRefused(
                f"{self._path} begins with <{name}>, not with <annotations>; export from CVAT as 'CVAT for images 1.1'",
                code="bad_xml",
            )
        if self._within == ["annotations"] and name == "track":
            raise LabeledSetRefused(
                f"{self._path} is of a video; export the task as 'CVAT for images 1.1'", code="is_video"
            )
        if self._within == ["annotations"] and name == "image":
            self._image, self._classes, self._others = attributes, [], set()
        if self._within == ["annotations", "image"]:
            self._note(name, attributes)
        self._within.append(name)

    def _note(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tag" and attributes.get("source") == OF_A_MODEL:
            self._others.add("a model's tag")
        elif name == "tag" and attributes.get("label", "").strip():
            self._classes.append(attributes["label"])
        elif name in SHAPES:
            self._others.add("shapes")

    def _end(self, name: str) -> None:
        self._within.pop()
        if self._within != ["annotations"] or name != "image":
            return
        image, subset = self._image.get("name", ""), self._image.get("subset", "")
        places = (IMAGES_FOLDER, f"{IMAGES_FOLDER}/{subset}", "") if subset else (IMAGES_FOLDER, "")
        paths = tuple(f"{place}/{image}".lstrip("/") for place in places)
        detail = f"it has only {' and '.join(sorted(self._others))}" if self._others else None
        line = f"line {self.parser.CurrentLineNumber}"
        self.annotations.append(Annotation(image, paths, tuple(self._classes), line, detail=detail))
