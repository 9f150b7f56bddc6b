"""Labeled images from a folder, a CSV file, or an export of Label Studio or CVAT: files, each with one class.

Which file an annotation means, what its class is where people disagree, and whether a folder can be called so, is
decided here and the same for every format. Nothing is sent, and no image is opened: whether a file is one, the
service finds out.
"""

import enum
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from understudy import packing
from understudy.annotations import cvat, label_studio, sheets
from understudy.annotations.said import Annotation
from understudy.errors import LabeledSetRefused
from understudy.packing import IMAGE_SUFFIXES, Packed
from understudy.records import Record

#: As long as the catalog's column.
MAX_CLASS_CHARACTERS = 255
#: Folders of this name are left behind by programs, so the service looks into none.
JUNK = frozenset({"__MACOSX", ".git", ".ipynb_checkpoints"})
#: In messages, so many of a list.
NUM_SHOWN = 5
#: The folder around all of them in the tar: a class may then begin as a drive of Windows does.
TOP = "labels"


class Format(enum.StrEnum):
    AUTO = "auto"  #: as the file's name says
    FOLDER = "folder"  #: a folder a class
    CSV = "csv"  #: lines of path,label
    LABEL_STUDIO = "label-studio"  #: its JSON or JSON-MIN
    CVAT = "cvat"  #: "CVAT for images 1.1"


class Disagreement(enum.StrEnum):
    """What to do with images that were given more than one class."""

    REFUSE = "refuse"  #: the whole set, so that somebody looks at them
    MAJORITY = "majority"  #: the class that more annotations have than any other; without one, leave the image out
    LEAVE_OUT = "leave-out"  #: those images


class Reason(enum.StrEnum):
    """Why an image is left out."""

    UNLABELED = "unlabeled"  #: nobody gave it a class
    CANCELLED = "cancelled"  #: whoever saw it skipped it
    SEVERAL_CLASSES = "several_classes"  #: more than one, and no majority
    MISSING_FILE = "missing_file"  #: there is no such file in the images' folder
    OUTSIDE = "outside"  #: its path leads out of the images' folder
    REMOTE = "remote"  #: it is behind an address, or inside of the JSON, and nothing at hand has its name
    UNCLEAR_FILE = "unclear_file"  #: another annotated image has the same file's name


class LeftOut(Record):
    """An image that is not taken."""

    image: str  #: as the annotations name it
    place: str  #: where in the file
    reason: Reason
    detail: str  #: a sentence for people


class LabelReport(Record):
    """What would be sent, and what not."""

    format: Format
    num_images: int
    classes: dict[str, int]  #: images of each
    num_repeated: int = 0  #: annotations that say the same of an image once more
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Rules:
    """What is decided by whoever sends."""

    disagreement: Disagreement = Disagreement.REFUSE
    renamed: Mapping[str, str] = field(default_factory=dict)  #: classes, from what they are called in the file
    control: str | None = None  #: of Label Studio: the name of its ``<Choices>``; None: there is only one


@dataclass(frozen=True)
class LabeledFiles:
    """Files with a class each, and the report about them."""

    files: tuple[tuple[Path, str], ...]
    report: LabelReport

    def packed(self) -> Packed:
        """The files as the service takes them: a tar of a folder a class, which is made while it is read."""
        return packing.tar("labels.tar", [(_inside(i, *pair), pair[0]) for i, pair in enumerate(self.files)])


def _inside(number: int, file: Path, class_name: str) -> str:
    return f"{TOP}/{class_name}/{number:06d}-{file.name.replace(chr(92), '_')}"  # a backslash would begin a folder


def format_of(path: Path) -> Format:
    """What a file or folder is by its name. An archive is as a folder. Raises LabeledSetRefused for other files."""
    if path.is_dir():
        return Format.CVAT if (path / "annotations.xml").is_file() else Format.FOLDER
    by_suffix = {".csv": Format.CSV, ".tsv": Format.CSV, ".json": Format.LABEL_STUDIO, ".xml": Format.CVAT}
    return by_suffix.get(path.suffix.lower(), Format.FOLDER)


def read(
    path: Path, format: Format = Format.AUTO, *, images: Path | None = None, rules: Rules | None = None
) -> LabeledFiles:
    """Read what people said of images. ``images``: the folder of the files; None: that of the annotations.

    Raises LabeledSetRefused where the file is damaged or of another kind, where people disagree (unless the rules
    say what then), where a class cannot be a folder, and where nothing is left.
    """
    chosen, asked = format_of(path) if format == Format.AUTO else format, rules or Rules()
    if path.is_dir() and chosen == Format.CVAT:
        path = path / "annotations.xml"
    _refuse_format(path, chosen)
    folder = (images or (path if chosen == Format.FOLDER else path.parent)).absolute()
    said = list(_read(path, chosen, asked))
    return _decided(chosen, _grouped(said, folder), asked, folder)


def _refuse_format(path: Path, format: Format) -> None:
    if path.is_dir() and format != Format.FOLDER:
        detail = f"{path} is a folder, and {format} annotations are a file in one; name the file"
    elif format == Format.FOLDER and not path.is_dir():
        detail = (
            f"{path} is an archive, or no annotations that are known here (.csv, .json, .xml): what an archive holds, "
            f"the service sees; unpack it, or name its --format"
        )
    else:
        return
    raise LabeledSetRefused(detail, code="wrong_format")


def _read(path: Path, format: Format, rules: Rules) -> Iterable[Annotation]:
    match format:
        case Format.CSV:
            return sheets.read(path)
        case Format.LABEL_STUDIO:
            return label_studio.read(path, control=rules.control)
        case Format.CVAT:
            return cvat.read(path)
        case _:
            return _of_folders(path)


def _of_folders(path: Path) -> Iterable[Annotation]:
    for file in sorted(each for each in path.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES):
        name = file.relative_to(path).as_posix()
        classes = (file.parent.name,) if file.parent != path else ()
        yield Annotation(name, (name,), classes, name)


# -- which file is meant ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """All that was said of one image, and its file, or why there is none."""

    said: tuple[Annotation, ...]
    file: Path | None
    reason: Reason | None = None
    is_guess: bool = False  #: it was not found where it should be, but elsewhere under its name


def _grouped(said: Iterable[Annotation], folder: Path) -> list[_Found]:
    of_image: dict[str, list[Annotation]] = {}
    for annotation in said:
        of_image.setdefault(annotation.image, []).append(annotation)
    of_file: dict[object, list[_Found]] = {}
    for image, annotations in of_image.items():
        found = _find(folder, tuple(annotations))
        of_file.setdefault(found.file or (image,), []).append(found)
    return [one for several in of_file.values() for one in _joined(several)]


def _joined(several: list[_Found]) -> list[_Found]:
    """One file, though it was named in two ways; a guess that two images have is none."""
    if len(several) > 1 and any(one.is_guess for one in several):
        return [_Found(one.said, None, Reason.UNCLEAR_FILE) for one in several]
    return [_Found(tuple(each for one in several for each in one.said), several[0].file, several[0].reason)]


def _find(folder: Path, said: tuple[Annotation, ...]) -> _Found:
    inside, base = False, os.path.normpath(folder)
    for number, name in enumerate(said[0].paths):
        place = Path(os.path.normpath(folder / name))
        if not place.is_relative_to(base):
            continue
        inside = True
        if _is_file(place):
            return _Found(said, place, is_guess=number > 0)
    image = said[0].image
    if "://" in image or image.startswith("data:"):
        return _Found(said, None, Reason.REMOTE)
    return _Found(said, None, Reason.MISSING_FILE if inside or not said[0].paths else Reason.OUTSIDE)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


# -- which class it is --------------------------------------------------------------------------


def _decided(format: Format, found: Sequence[_Found], rules: Rules, folder: Path) -> LabeledFiles:
    _refuse_unknown(rules.renamed, (a for one in found for a in one.said))
    files: list[tuple[Path, str]] = []
    left_out: list[LeftOut] = []
    contradicted: list[str] = []
    for one in found:
        class_name, reason = _class_of(one, rules)
        if class_name is not None and one.file is not None:
            files.append((one.file, class_name))
            continue
        if reason == Reason.SEVERAL_CLASSES and rules.disagreement == Disagreement.REFUSE:
            contradicted.append(_quoted(one, rules))
        left_out.append(_left_out(one, reason or Reason.MISSING_FILE, rules, folder))
    if contradicted:
        raise LabeledSetRefused(
            f"{len(contradicted)} images have more than one class: {'; '.join(contradicted[:NUM_SHOWN])}; correct them, "
            f"or choose --disagreement majority or --disagreement leave-out",
            code="contradicting_labels",
        )
    classes = Counter(name for _, name in files)
    _refuse_nothing(found, left_out, folder)
    _refuse_names(classes)
    num_said = sum(1 for one in found for a in one.said if a.classes and not a.is_cancelled)
    num_used = sum(1 for one in found if any(a.classes and not a.is_cancelled for a in one.said))
    report = LabelReport(
        format=format,
        num_images=len(files),
        classes=dict(sorted(classes.items())),
        num_repeated=num_said - num_used,
        left_out=tuple(left_out),
    )
    return LabeledFiles(tuple(files), report)


def _votes(one: _Found, rules: Rules) -> Counter[tuple[str, ...]]:
    """How many annotations gave it which classes, each named as it shall be."""
    return Counter(
        tuple(sorted({rules.renamed.get(name.strip(), name.strip()) for name in annotation.classes}))
        for annotation in one.said
        if annotation.classes and not annotation.is_cancelled
    )


def _class_of(one: _Found, rules: Rules) -> tuple[str | None, Reason | None]:
    """The class of an image, or why it is not taken; that nobody gave it one says more than where its file is not."""
    votes = _votes(one, rules).most_common()
    if not votes:
        return None, Reason.CANCELLED if any(a.is_cancelled for a in one.said) else Reason.UNLABELED
    if one.reason is not None:
        return None, one.reason
    (classes, most), others = votes[0], votes[1:]
    is_decided = not others or (rules.disagreement == Disagreement.MAJORITY and others[0][1] < most)
    return (classes[0], None) if is_decided and len(classes) == 1 else (None, Reason.SEVERAL_CLASSES)


def _quoted(one: _Found, rules: Rules) -> str:
    said = ", ".join(
        f"{' and '.join(repr(name) for name in classes)} ({num})" for classes, num in _votes(one, rules).most_common()
    )
    return f"{one.said[0].image!r} is {said} at {one.said[0].place}"


def _left_out(one: _Found, reason: Reason, rules: Rules, folder: Path) -> LeftOut:
    first = one.said[0]
    detail = {
        Reason.UNLABELED: next((a.detail for a in one.said if a.detail), None) or "nobody gave it a class",
        Reason.CANCELLED: "whoever saw it skipped it",
        Reason.SEVERAL_CLASSES: _quoted(one, rules),
        Reason.MISSING_FILE: f"there is no file of that name in {folder}",
        Reason.OUTSIDE: f"its path leads out of {folder}; name the folder of the images with --images",
        Reason.REMOTE: f"it is not in a file, and {folder} has none of its name; download it there",
        Reason.UNCLEAR_FILE: f"another annotated image fits the same file of {folder} as well",
    }[reason]
    return LeftOut(image=first.image[:1000], place=first.place, reason=reason, detail=detail)


# -- what is refused ----------------------------------------------------------------------------


def _refuse_unknown(renamed: Mapping[str, str], said: Iterable[Annotation]) -> None:
    known = {name.strip() for annotation in said for name in annotation.classes}
    if unknown := sorted(renamed.keys() - known):
        raise LabeledSetRefused(
            f"there is no class {unknown[0]!r} to rename; there is {', '.join(sorted(known)[:20]) or 'none'}",
            code="unknown_class",
        )


def _refuse_nothing(found: Sequence[_Found], left_out: Sequence[LeftOut], folder: Path) -> None:
    if len(left_out) < len(found):
        return
    why = Counter(one.reason for one in left_out)
    told = ", ".join(f"{num} {reason}" for reason, num in why.most_common()) or "there is none"
    hint = f"; its first image is {left_out[0].image!r}, looked for in {folder}" if left_out else ""
    raise LabeledSetRefused(
        f"no labeled image is left of {len(found)} ({told}){hint}; is --images the folder of the images?",
        code="no_labels",
    )


def _refuse_names(classes: Iterable[str]) -> None:
    alike: dict[str, str] = {}
    for name in sorted(classes):
        if fault := folder_fault(name):
            raise LabeledSetRefused(
                f"the class {name[:100]!r} cannot be sent as a folder: {fault}; give it another name with "
                f"--rename 'OLD=NEW'",
                code="bad_class_name",
            )
        other = alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise LabeledSetRefused(
                f"the classes {other!r} and {name!r} differ in upper and lower case or in how a letter is encoded; make "
                f"them one with --rename '{other}={name}', or give one of them another name",
                code="class_twins",
            )


def folder_fault(name: str) -> str | None:
    """Why a class name would not arrive as it is. None: it does."""
    if "/" in name or "\\" in name:
        return "it contains / or \\"
    if name in (".", "..") or name in JUNK:
        return "such a folder is not looked into"
    if len(name) > MAX_CLASS_CHARACTERS:
        return f"it has {len(name)} characters, and at most {MAX_CLASS_CHARACTERS} are taken"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "it contains a control character"
    return None
