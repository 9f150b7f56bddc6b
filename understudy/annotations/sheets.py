"""CSV: a line an image, ``path,label`` with a header; also with ``;`` or tabs, as spreadsheets write it.

RFC 4180: a label may contain anything, in quotes. Other columns are let alone.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from understudy.annotations.said import Annotation
from understudy.errors import LabeledSetRefused

#: What the two columns may be called: ours, torchvision's and Hugging Face's words.
PATH_COLUMNS = ("path", "file_name", "filename", "file", "image")
LABEL_COLUMNS = ("label", "class", "class_name")
DELIMITERS = (",", ";", "\t")


def read(path: Path) -> Iterator[Annotation]:
    """Every line of a CSV file. Raises LabeledSetRefused for what is none, or has not the two columns."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabeledSetRefused(f"{path} is not UTF-8 ({error}); save it as CSV in UTF-8", code="bad_csv") from error
    header, _, _ = text.partition("\n")
    delimiter = max(DELIMITERS, key=header.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip().lower() for name in next(lines, [])]
        image, label = _column(path, columns, PATH_COLUMNS), _column(path, columns, LABEL_COLUMNS)
        for cells in lines:
            if cells:
                yield _annotation(path, cells, image, label, len(columns), f"line {lines.line_num}")
    except csv.Error as error:
        raise LabeledSetRefused(f"{path}, line {lines.line_num}: {error}; correct the line", code="bad_csv") from error


def _column(path: Path, columns: list[str], names: tuple[str, ...]) -> int:
    found = [number for number, column in enumerate(columns) if column in names]
    if len(found) != 1:
        raise LabeledSetRefused(
            f"the first line of {path} has {len(found)} columns of the name {' or '.join(names)}, and should have one; "
            f"it names {', '.join(columns[:10]) or 'nothing'}: begin the file with the line path,label",
            code="bad_csv",
        )
    return found[0]


def _annotation(path: Path, cells: list[str], image: int, label: int, num_columns: int, place: str) -> Annotation:
    if len(cells) != num_columns:
        raise LabeledSetRefused(
            f"{path}, {place}, has {len(cells)} cells and the first line {num_columns}; put what contains the "
            f"delimiter into quotes",
            code="bad_csv",
        )
    name = cells[image].strip()
    guesses = (name, name.replace("\\", "/")) if "\\" in name else (name,)
    return Annotation(name, guesses if name else (), (cells[label],) if cells[label].strip() else (), place)
