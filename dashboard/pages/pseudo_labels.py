"""The pseudo-labels: how many of what and how sure, where a threshold cuts, and the images themselves.

The images come first; what counts all of them is asked for when they are there.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nicegui import ui

from dashboard import frame, matrix, words
from dashboard.frame import Page, View
from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.label_records import (
    NUM_FACET_BINS,
    ClassFacet,
    LabelFacets,
    PreviewRequest,
    PseudoLabel,
    SelectionPreview,
)
from understudy.records import BucketSummary

PER_PAGE = 60
#: Classes that are seen together.
ROWS = 40
#: So many pages back there is a link; from farther on, to the first.
MAX_TRAIL = 12
DEFAULT_THRESHOLD = 0.3

#: What images are put in order by: said, sort and order.
SORTS = {
    "confident": ("surest first", "confidence", "desc"),
    "unsure": ("least sure first", "confidence", "asc"),
    "clear": ("clearest lead first", "margin", "desc"),
    "close": ("closest call first", "margin", "asc"),
    "changed": ("changed first", "changed", "desc"),
}
#: Choices of images, as the address and the service both call them.
FILTERS = ("teacher", "bucket", "class", "min_confidence", "max_confidence", "min_margin", "max_margin", "changed")


@dataclass(frozen=True)
class Grid:
    """A page of images."""

    labels: Sequence[PseudoLabel]
    following: str | None


async def build(view: View) -> None:
    """The page."""
    frame.heading("Pseudo-labels", "What the teacher says of images that nobody has labeled, and how sure it is.")
    buckets, grid = await asyncio.gather(
        view.ask(lambda client: client.buckets()), view.ask(lambda client: _grid(client, view))
    )
    with frame.element("div", "us-labels"):
        with frame.element("div", "us-labels-side"), frame.panel():
            counted = frame.element("div", "us-live us-counted")
            with counted:
                frame.text("Counting …", "us-soft")
        with frame.panel():
            _filters(view, buckets)
            _images(view, grid)
    ui.timer(0.05, lambda: _count(view, counted), once=True)


def _grid(client: Client, view: View) -> Grid:
    asked = {name: view.query[name] for name in FILTERS if view.query.get(name)}
    _, sort, order = SORTS.get(view.query.get("sort", ""), SORTS["confident"])
    cursor = view.query.get("cursor") or None
    return Grid(*client.pseudo_label_page(limit=PER_PAGE, sort=sort, order=order, cursor=cursor, **asked))


# -- the images -------------------------------------------------------------------------------------


def _filters(view: View, buckets: Sequence[BucketSummary]) -> None:
    """A form, so that what is chosen is in the address."""
    asked = view.query
    with frame.element("form", "us-filters", action=view.path, method="get", aria_label="Which images"):
        for name in ("teacher", "threshold", "by", "find", "from"):
            if asked.get(name):
                frame.element("input", type="hidden", name=name, value=asked[name])
        with _field("Class"):
            frame.element("input", name="class", value=asked.get("class", ""), list="us-classes", autocomplete="off")
        _choice("Bucket", "bucket", [("", "all"), *((each.name, each.name) for each in buckets)], asked)
        _choice("Order", "sort", [(name, said) for name, (said, _, _) in SORTS.items()], asked)
        _bounds("Confidence", "confidence", asked)
        _bounds("Margin", "margin", asked)
        _choice("Last teacher", "changed", [("", "any"), ("true", "said another"), ("false", "said the same")], asked)
        with frame.element("button", "us-button", type="submit"):
            frame.text("Show")
        if any(asked.get(name) for name in FILTERS[1:]):
            frame.link("Show all", _afresh(view, **dict.fromkeys(FILTERS[1:])), "us-plain")


def _field(label: str) -> ui.element:
    with frame.element("label", "us-field") as field:
        frame.text(label, "us-soft")
    return field


def _choice(label: str, name: str, choices: Sequence[tuple[str, str]], asked: Mapping[str, str]) -> None:
    with _field(label), frame.element("select", name=name):
        for value, said in choices:
            with frame.element("option", value=value) as option:
                frame.text(said)
            if asked.get(name, "") == value:
                option.props["selected"] = True


def _bounds(label: str, name: str, asked: Mapping[str, str]) -> None:
    with _field(label), frame.element("span", "us-bounds"):
        for end, said, edge in (("min", "from", "0"), ("max", "to", "1")):
            frame.element(
                "input", type="number", step="any", min=0, max=1, name=f"{end}_{name}", placeholder=edge,
                value=asked.get(f"{end}_{name}", ""), aria_label=f"{label} {said}",
            )  # fmt: skip


def _images(view: View, grid: Grid) -> None:
    if not grid.labels:
        if view.query.get("cursor") or any(view.query.get(name) for name in FILTERS):
            frame.nothing("No image is like that.")
        else:
            frame.nothing("No image has a pseudo-label yet.", "understudy ingest FOLDER")
        return
    with frame.element("div", "us-thumbs us-labeled", id="images"):
        for label in grid.labels:
            _thumb(label)
    _pages(view, grid)


def _thumb(label: PseudoLabel) -> None:
    with frame.element("a", "us-thumb", href=f"/pseudo-labels/{label.sha256}"):
        frame.thumbnail(label.sha256, size=160)
        with frame.element("span", "us-caption"):
            frame.text(label.label, "us-name")
            frame.text(words.percent(label.confidence), "us-soft")
        if label.is_changed:
            frame.text(f"was {label.previous_label}", "us-was")


def _pages(view: View, grid: Grid) -> None:
    """The cursors of the pages before are in the address, since a cursor leads only onward."""
    here, trail = view.query.get("cursor", ""), _trail(view)
    with frame.element("nav", "us-row us-pages", aria_label="Pages of images"):
        if here:
            back = trail[-1] if trail else ""
            frame.link("First", _afresh(view))
            frame.link("Previous", view.link(cursor=back or None, trail=".".join(trail[:-1]) or None))
        if grid.following:
            kept = ".".join([*trail, here][-MAX_TRAIL:] if here else [])
            frame.link("Next", view.link(cursor=grid.following, trail=kept or None))


def _trail(view: View) -> list[str]:
    return [each for each in view.query.get("trail", "").split(".") if each]


def _afresh(view: View, **changed: object) -> str:
    """The first page with other choices."""
    return view.link(**{"cursor": None, "trail": None} | changed)


# -- the counts -------------------------------------------------------------------------------------


async def _count(view: View, place: ui.element) -> None:
    """Draw the matrix when its counts are there, and what a selection keeps when that is known."""
    teacher, bucket = view.query.get("teacher") or None, view.query.get("bucket") or None
    try:
        facets = await view.ask(lambda client: client.label_facets(teacher=teacher, bucket=bucket))
    except UnderstudyError as error:
        place.clear()
        with place:
            frame.problem(error)
        return
    _redraw(view, place, facets, None)
    asked = PreviewRequest(threshold=threshold(view), teacher=facets.teacher)
    try:
        preview = await view.ask(lambda client: client.preview(asked))
    except UnderstudyError as error:  # as for who may look and no more
        with place:
            frame.problem(error)
        return
    _redraw(view, place, facets, preview)


def _redraw(view: View, place: ui.element, facets: LabelFacets, preview: SelectionPreview | None) -> None:
    place.clear()
    with place:
        _teachers(view, facets)
        _cut(view, facets, preview)
        _matrix(view, facets, preview)
        with frame.element("datalist", id="us-classes"):
            for each in facets.by_class:
                frame.element("option", value=each.label)


def threshold(view: View) -> float:
    """The threshold that is chosen; what is none is the usual one."""
    try:
        chosen = float(view.query.get("threshold", DEFAULT_THRESHOLD))
    except ValueError:
        return DEFAULT_THRESHOLD
    return chosen if 0 <= chosen < 1 else DEFAULT_THRESHOLD


def _teachers(view: View, facets: LabelFacets) -> None:
    with frame.element("div", "us-row", role="group", aria_label="Teacher"):
        for teacher, number in facets.by_teacher.items():
            here = {"aria_current": "true"} if teacher == facets.teacher else {}
            with frame.element("a", "us-chip", href=_afresh(view, teacher=teacher), **here):
                frame.text(teacher, "us-mono")
                frame.text(words.count(number), "us-soft")


def _cut(view: View, facets: LabelFacets, preview: SelectionPreview | None) -> None:
    """The threshold, and what it keeps and drops."""
    with frame.element("div", "us-figures"):
        frame.figure(words.count(preview.num_candidates if preview else None), "over the line")
        frame.figure(words.count(num_dropped(facets, preview) if preview else None), "dropped")
        frame.figure(words.count(preview.num_kept if preview else None), "kept, balanced")
        frame.figure(words.percent(preview.precision if preview else None), "expected right")
    if view.query.get("bucket"):
        frame.text("These figures are of all buckets, since a selection takes from all.", "us-soft", "p")
    with frame.element("form", "us-row us-threshold", action=view.path, method="get"):
        for name, value in view.query.items():
            if name != "threshold":
                frame.element("input", type="hidden", name=name, value=value)
        with frame.element("label", "us-row"):
            frame.text("Threshold", "us-soft")
            frame.element("input", type="number", name="threshold", min=0, max=0.999, step="any", value=threshold(view))
        with frame.element("button", "us-button", type="submit"):
            frame.text("Draw")
    for sentence in preview.collapses if preview else ():
        frame.text(sentence, "us-problem", "p")


def num_dropped(facets: LabelFacets, preview: SelectionPreview) -> int:
    """Images that are not over their threshold, or that a human has labeled, in all buckets."""
    share = preview.tripwires.kept_share if preview.tripwires else 0.0
    every = round(preview.num_candidates / share) if share else facets.by_teacher.get(facets.teacher, 0)
    return every - preview.num_candidates


def _matrix(view: View, facets: LabelFacets, preview: SelectionPreview | None) -> None:
    rows, first = shown(facets.by_class, view), _first_row(view)
    if len(facets.by_class) > ROWS or view.query.get("find"):
        with frame.element("form", "us-row", action=view.path, method="get", role="search"):
            for name, value in view.query.items():
                if name not in ("find", "from"):
                    frame.element("input", type="hidden", name=name, value=value)
            find = {"name": "find", "value": view.query.get("find", ""), "aria_label": "Find a class"}
            frame.element("input", type="search", placeholder="Find a class", **find)
            with frame.element("button", "us-button", type="submit"):
                frame.text("Find")
    is_by_name = view.query.get("by") == "name"
    with frame.element("div", "us-row us-soft"):
        frame.link("Sort by images", view.link(by=None)) if is_by_name else frame.link(
            "Sort by name", view.link(by="name")
        )
        if first:
            frame.link("Classes before", view.link(**{"from": max(0, first - ROWS) or None}))
        if first + ROWS < len(rows):
            frame.link("Classes after", view.link(**{"from": first + ROWS}))
        if len(rows) > ROWS:
            frame.text(f"{first + 1}–{min(first + ROWS, len(rows))} of {words.plural(len(rows), 'class', 'classes')}")
    kept = (
        {name: one.kept for name, one in preview.per_class.items()}
        if preview and not view.query.get("bucket")
        else None
    )
    links = matrix.Links(
        cell=lambda name, i: _afresh(
            view, **{"class": name, "min_confidence": i / NUM_FACET_BINS, "max_confidence": (i + 1) / NUM_FACET_BINS}
        ),
        row=lambda name: _afresh(view, **{"class": name, "min_confidence": None, "max_confidence": None}),
        threshold=lambda at: view.link(threshold=at),
    )
    here = rows[first : first + ROWS]
    if not here:
        frame.nothing("No class is called that.")
        return
    ui.html(matrix.drawn(here, threshold(view), kept, links, view.query.get("class", "")), sanitize=False)


def shown(every: Sequence[ClassFacet], view: View) -> list[ClassFacet]:
    """The classes whose name has what is looked for, in the order that is asked for."""
    wanted = view.query.get("find", "").casefold()
    found = [each for each in every if wanted in each.label.casefold()]
    if view.query.get("by") == "name":
        return sorted(found, key=lambda each: each.label)
    return sorted(found, key=lambda each: -each.num_images)


def _first_row(view: View) -> int:
    said = view.query.get("from", "")
    return int(said) if said.isdecimal() and len(said) < 9 else 0


PAGE = Page("/pseudo-labels", "Pseudo-labels", build, icon="sell")
