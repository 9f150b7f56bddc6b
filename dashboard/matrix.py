"""A matrix of counts, class by confidence, as a picture whose cells are links."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from understudy.label_records import NUM_FACET_BINS, ClassFacet

#: Of the picture, in its own units: a letter of a name, a cell, the numbers, the head, a row.
LETTER, CELL, NUMBERS, HEAD, ROW = 7.2, 15, 98, 24, 20
#: A longer name is cut; it stands whole in what is shown over it.
MAX_NAME = 15


@dataclass(frozen=True)
class Links:
    """Where a click leads."""

    cell: Callable[[str, int], str]  #: class and bin
    row: Callable[[str], str]  #: class
    threshold: Callable[[float], str]


@dataclass(frozen=True)
class Sheet:
    """What all rows of a picture have in common."""

    left: float  #: where the cells begin
    most: int  #: images in the fullest cell
    threshold: float
    kept: Mapping[str, int] | None
    links: Links
    chosen: str

    @property
    def right(self) -> float:
        return self.left + NUM_FACET_BINS * CELL + NUMBERS


def drawn(
    rows: Sequence[ClassFacet], threshold: float, kept: Mapping[str, int] | None, links: Links, chosen: str
) -> str:
    """The matrix as SVG: darker is more, by the logarithm; what is left of the threshold is faint.

    ``kept`` are the images that a selection keeps of each class; None: not known yet. ``chosen`` is a class that stands out.
    """
    most = max((number for row in rows for number in row.by_confidence), default=0)
    longest = max((len(row.label) for row in rows), default=0)
    sheet = Sheet(12 + LETTER * max(3, min(longest, MAX_NAME)), most, threshold, kept, links, chosen)
    height = HEAD + len(rows) * ROW + 6
    parts = [_axis(sheet), *(_row(sheet, row, HEAD + i * ROW) for i, row in enumerate(rows))]
    x = sheet.left + threshold * NUM_FACET_BINS * CELL
    parts.append(f'<line class="cut" x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD - 6}" y2="{height}"/>')
    said = f"Images by class and confidence, {len(rows)} classes; the threshold is {threshold:g}"
    return (
        f'<svg class="us-matrix" viewBox="0 0 {sheet.right + 2:.0f} {height}" role="group" aria-label="{said}">'
        f"{''.join(parts)}</svg>"
    )


def shade(number: int, most: int) -> float:
    """How dark a cell is, from 0 to 1: nothing is blank, and one image can be seen."""
    return 0.0 if not number else 0.14 + 0.86 * math.log1p(number) / math.log1p(most)


def _axis(sheet: Sheet) -> str:
    """Confidence along the top; each of its steps sets the threshold."""
    parts = []
    for i in range(NUM_FACET_BINS):
        at, x = i / NUM_FACET_BINS, sheet.left + i * CELL
        words = f'<text class="tick" x="{x}" y="11" text-anchor="middle">{at:g}</text>' if i % 4 == 0 else ""
        parts.append(
            f'<a href="{escape(sheet.links.threshold(at))}" tabindex="-1"><title>Threshold {at:g}</title>'
            f'<rect class="stop" x="{x - CELL / 2}" y="0" width="{CELL}" height="{HEAD - 4}"/>{words}'
            f'<path class="mark" d="M{x} {HEAD - 8} v4"/></a>'
        )
    end = sheet.left + NUM_FACET_BINS * CELL
    parts.append(f'<text class="tick" x="{end}" y="11" text-anchor="middle">1</text>')
    parts.append(f'<text class="tick" x="{sheet.right - 46}" y="11" text-anchor="end">images</text>')
    parts.append(f'<text class="tick" x="{sheet.right}" y="11" text-anchor="end">kept</text>')
    return "".join(parts)


def _row(sheet: Sheet, row: ClassFacet, y: int) -> str:
    name = row.label if len(row.label) <= MAX_NAME else f"{row.label[: MAX_NAME - 1]}…"
    middle, here = y + ROW / 2 + 4, ' aria-current="true"' if row.label == sheet.chosen else ""
    cells = "".join(_cell(sheet, row, i, number, y) for i, number in enumerate(row.by_confidence) if number)
    taken = f"{sheet.kept.get(row.label, 0):,}" if sheet.kept is not None else "…"
    return (
        f'<a href="{escape(sheet.links.row(row.label))}"{here}><title>{escape(row.label)}</title>'
        f'<text class="name" x="{sheet.left - 8}" y="{middle}" text-anchor="end">{escape(name)}</text></a>'
        f'<rect class="lane" x="{sheet.left}" y="{y + 1}" width="{NUM_FACET_BINS * CELL}" height="{ROW - 2}"/>{cells}'
        f'<text class="count" x="{sheet.right - 46}" y="{middle}" text-anchor="end">{row.num_images:,}</text>'
        f'<text class="count" x="{sheet.right}" y="{middle}" text-anchor="end">{taken}</text>'
    )


def _cell(sheet: Sheet, row: ClassFacet, i: int, number: int, y: int) -> str:
    low, high = i / NUM_FACET_BINS, (i + 1) / NUM_FACET_BINS
    faint = " faint" if high <= sheet.threshold + 1e-9 else ""
    said = escape(f"{row.label}, {low:.2f} to {high:.2f}: {number:,} image{'' if number == 1 else 's'}")
    return (
        f'<a href="{escape(sheet.links.cell(row.label, i))}" tabindex="-1" aria-label="{said}"><title>{said}</title>'
        f'<rect class="cell{faint}" x="{sheet.left + i * CELL + 0.5}" y="{y + 1}" width="{CELL - 1}" '
        f'height="{ROW - 2}" fill-opacity="{shade(number, sheet.most):.2f}"/></a>'
    )
