"""A receipt as a download: NDJSON or CSV, a few lines in memory at a time, however long it is."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator

from understudy.records import ReceiptEntry

#: Lines sent together.
LINES = 500
#: What makes a spreadsheet take a cell for a formula; an apostrophe before it makes it text.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
COLUMNS = tuple(ReceiptEntry.model_fields)


def as_ndjson(lines: Iterable[ReceiptEntry]) -> Iterator[bytes]:
    """One JSON document a line."""
    return _together(f"{line.model_dump_json()}\n" for line in lines)


def as_csv(lines: Iterable[ReceiptEntry]) -> Iterator[bytes]:
    """RFC 4180 with a header. Names are strangers' text: none of them is a formula where this is opened."""
    return _together(_rows(lines))


def _rows(lines: Iterable[ReceiptEntry]) -> Iterator[str]:
    yield _row(COLUMNS)
    for line in lines:
        yield _row([_cell(value) for value in line.model_dump(mode="json").values()])


def _cell(value: object) -> object:
    is_formula = isinstance(value, str) and value.startswith(FORMULA_STARTS)
    return f"'{value}" if is_formula else value


def _row(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue()


def _together(texts: Iterable[str]) -> Iterator[bytes]:
    some: list[str] = []
    for text in texts:
        some.append(text)
        if len(some) == LINES:
            yield "".join(some).encode()
            some.clear()
    yield "".join(some).encode()


#: By the name in ``?format=``: media type and writer. JSON comes in pages instead.
FORMATS: dict[str, tuple[str, Callable[[Iterable[ReceiptEntry]], Iterator[bytes]]]] = {
    "ndjson": ("application/x-ndjson", as_ndjson),
    "csv": ("text/csv; charset=utf-8", as_csv),
}


def chosen(asked: str | None, accept: str) -> str:
    """The format that a request wants: what it names, or the first of its ``Accept`` that there is; else JSON."""
    if asked is not None:
        return asked
    by_type = {"application/x-ndjson": "ndjson", "application/ndjson": "ndjson", "text/csv": "csv"}
    kinds = (part.split(";")[0].strip().lower() for part in accept.split(","))
    return next((by_type.get(kind, "json") for kind in kinds if kind in by_type or kind == "application/json"), "json")
