"""A matrix of counts, class by confidence, as a picture whose cells are links."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from understudy.label_records import NUM_FACET_BINS, ClassFacet

#: Of the picture, in its own units: the names, a cell, the numbers, the head.
NAMES, CELL, NUMBERS, HEAD, ROW = 104, 15, 116, 26, 20
WIDTH = NAMES + NUM_FACET_BINS * CELL + NUMBERS
#: A longer name is cut; it stands whole in what is shown over it.
MAX_NAME = 15


@dataclass(frozen=True)
class Links:
    """Where a click leads."""

    cell: Callable[[str, int], str]  #: class and bin
    row: Callable[[str], str]  #: class
    threshold: Callable[[float], str]


def drawn(rows: Sequence[ClassFacet], threshold: float, kept: dict[str, int] | None, links: Links, chosen: str) -> str:
    """The matrix as SVG: darker is more, by the logarithm; what is left of the threshold is faint.

    ``kept`` are the images that a selection keeps of each class; None: not known yet. ``chosen`` is a class that stands out.
    """
    most = max((number for row in rows for number in row.by_confidence), default=0)
    height = HEAD + len(rows) * ROW + 6
    parts = [_axis(links)]
    for i, row in enumerate(rows):
        parts.append(_row(row, HEAD + i * ROW, most, threshold, kept, links, is_chosen=row.label == chosen))
    x = NAMES + threshold * NUM_FACET_BINS * CELL
    parts.append(f'<line class="cut" x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD - 6}" y2="{height}"/>')
    said = f"Images by class and confidence, {len(rows)} classes; the threshold is {threshold:g}"
    return (
        f'<svg class="us-matrix" viewBox="0 0 {WIDTH} {height}" role="group" aria-label="{said}">{"".join(parts)}</svg>'
    )


def shade(number: int, most: int) -> float:
    """How dark a cell is, from 0 to 1: nothing is blank, and one image can be seen."""
    return 0.0 if not number else 0.14 + 0.86 * math.log1p(number) / math.log1p(most)


def _axis(links: Links) -> str:
    """Confidence along the top; each of its steps sets the threshold."""
    parts = []
    for i in range(NUM_FACET_BINS):
        at, x = i / NUM_FACET_BINS, NAMES + i * CELL
        words = f'<text class="tick" x="{x}" y="11" text-anchor="middle">{at:g}</text>' if i % 4 == 0 else ""
        parts.append(
            f'<a href="{escape(links.threshold(at))}" tabindex="-1"><title>Threshold {at:g}</title>'
            f'<rect class="stop" x="{x - CELL / 2}" y="0" width="{CELL}" height="{HEAD - 4}"/>{words}'
            f'<path class="mark" d="M{x} {HEAD - 8} v4"/></a>'
        )
    end, right = NAMES + NUM_FACET_BINS * CELL, WIDTH - 2
    parts.append(f'<text class="tick" x="{end}" y="11" text-anchor="middle">1</text>')
    parts.append(f'<text class="tick" x="{right - 56}" y="11" text-anchor="end">images</text>')
    parts.append(f'<text class="tick" x="{right}" y="11" text-anchor="end">kept</text>')
    return "".join(parts)


def _row(
    row: ClassFacet, y: int, most: int, threshold: float, kept: dict[str, int] | None, links: Links, *, is_chosen: bool
) -> str:
    name = row.label if len(row.label) <= MAX_NAME else f"{row.label[: MAX_NAME - 1]}…"
    middle, right = y + ROW / 2 + 4, WIDTH - 2
    cells = "".join(
        _cell(row, i, number, y, most, threshold, links) for i, number in enumerate(row.by_confidence) if number
    )
    taken = f"{kept.get(row.label, 0):,}" if kept is not None else "…"
    return (
        f'<a href="{escape(links.row(row.label))}"{" aria-current=true" if is_chosen else ""}><title>{escape(row.label)}'
        f'</title><text class="name" x="{NAMES - 8}" y="{middle}" text-anchor="end">{escape(name)}</text></a>'
        f'<rect class="lane" x="{NAMES}" y="{y + 1}" width="{NUM_FACET_BINS * CELL}" height="{ROW - 2}"/>{cells}'
        f'<text class="count" x="{right - 56}" y="{middle}" text-anchor="end">{row.num_images:,}</text>'
        f'<text class="count" x="{right}" y="{middle}" text-anchor="end">{taken}</text>'
    )


def _cell(row: ClassFacet, i: int, number: int, y: int, most: int, threshold: float, links: Links) -> str:
    low, high = i / NUM_FACET_BINS, (i + 1) / NUM_FACET_BINS
    faint = " faint" if high <= threshold + 1e-9 else ""
    said = f"{row.label}, {low:.2f} to {high:.2f}: {number:,} image{'' if number == 1 else 's'}"
    return (
        f'<a href="{escape(links.cell(row.label, i))}" tabindex="-1" aria-label="{escape(said)}"><title>{escape(said)}</title>'
        f'<rect class="cell{faint}" x="{NAMES + i * CELL + 0.5}" y="{y + 1}" width="{CELL - 1}" height="{ROW - 2}" '
        f'fill-opacity="{shade(number, most):.2f}"/></a>'
    )
