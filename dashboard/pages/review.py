"""Review: people say what images are, those first where it helps most; and how right the labels are, by a blind audit."""

from collections.abc import Awaitable, Callable, Sequence

from dashboard import frame
from dashboard.frame import Page, View
from dashboard.review import audit, desk, grid, keys
from dashboard.review.feed import AUDIT, FILTERS, Feed
from understudy.records import BucketSummary

#: What the queue may be ranked by, and what is said of it.
ORDERS = {
    "uncertain": ("Uncertain", "Labels that hardly lead the second class: here a word teaches most."),
    "disagreement": (
        "Disagreement",
        "The teacher and the one before called these otherwise, and one of them was wrong.",
    ),
    AUDIT: ("Blind audit", "A fair sample of what a selection takes. Say what each is, without knowing the label."),
}
#: Decided elsewhere too; so often the precision is looked at again while nobody answers here.
AUDIT_EVERY_S = 20.0


async def build(view: View) -> None:
    """The page."""
    by = view.query.get("by") or "uncertain"
    is_grid = view.query.get("view") == "grid" and by != AUDIT
    feed = Feed(view, by)
    frame.heading("Review", ORDERS.get(by, ORDERS["uncertain"])[1])
    _tabs(view, by, is_grid=is_grid)
    items = await feed.open(grid.PART if is_grid else desk.PART)
    _filters(view, feed, await view.ask(lambda client: client.buckets()))
    if is_grid:
        grid.Grid(view, feed).open(items)
    else:
        place = frame.element("div", "us-live")
        look = await _precision(view, feed) if feed.is_audit else _nothing_else
        with place:
            desk.Desk(view, feed, look).open(items)
    _consequences(is_audit=feed.is_audit)
    keys.listen()


def _tabs(view: View, by: str, *, is_grid: bool) -> None:
    with frame.element("div", "us-row us-tabs"):
        with frame.element("div", "us-tabs-row us-grow", role="group", aria_label="Which images come first"):
            for name, (title, _) in ORDERS.items():
                _tab(
                    title,
                    view.link(by=name, **{"class": None if name == AUDIT else view.query.get("class")}),
                    name == by,
                )
        if by != AUDIT:
            with frame.element("div", "us-tabs-row", role="group", aria_label="How many at once"):
                _tab("One at a time", view.link(view=None), not is_grid)
                _tab("Grid", view.link(view="grid"), is_grid)


def _tab(title: str, to: str, is_here: bool) -> None:
    here = {"aria_current": "page"} if is_here else {}
    with frame.element("a", "us-tab", href=to, **here):
        frame.text(title)


def _filters(view: View, feed: Feed, buckets: Sequence[BucketSummary]) -> None:
    """A form, so that what is chosen is in the address."""
    with frame.element("form", "us-row us-which", action=view.path, method="get", aria_label="Which images") as form:
        for name in ("by", "view", "teacher"):
            if view.query.get(name):
                frame.element("input", type="hidden", name=name, value=view.query[name])
        _choice("Bucket", "bucket", [each.name for each in buckets], view)
        if feed.is_audit:
            with frame.element("label", "us-pick"):
                frame.text("Least confidence", "us-soft")
                frame.element(
                    "input", name="threshold", type="number", min=0, max=1, step="any",
                    value=view.query.get("threshold") or f"{feed.audit_threshold:g}",
                )  # fmt: skip
        else:
            _choice("Label", "class", feed.classes, view)
        with frame.element("button", "us-do", type="submit"):
            frame.text("Show")
        if any(view.query.get(name) for name in FILTERS):
            frame.link("Show all", view.link(**dict.fromkeys(FILTERS)))
    form.on("change", js_handler="(event) => { if (event.target.tagName === 'SELECT') event.target.form.submit(); }")


def _choice(label: str, name: str, choices: Sequence[str], view: View) -> None:
    chosen = view.query.get(name, "")
    with frame.element("label", "us-pick"):
        frame.text(label, "us-soft")
        with frame.element("select", name=name):
            for value in ("", *choices):
                with frame.element("option", value=value) as option:
                    frame.text(value or "all")
                if value == chosen:
                    option.props["selected"] = True


async def _precision(view: View, feed: Feed) -> Callable[[], Awaitable[None]]:
    """The figures of the audit; gives what looks at them again."""
    return await frame.live(
        lambda: view.ask(lambda client: client.audit(teacher=feed.teacher, threshold=feed.audit_threshold)),
        audit.draw,
        every_s=AUDIT_EVERY_S,
    )


async def _nothing_else() -> None:
    """Nothing else shows what was said."""


def _consequences(*, is_audit: bool) -> None:
    said = [
        "What you accept or correct joins the labeled set of the next generation, as the class you said; what you reject "
        "trains nothing.",
        "Your word outranks every teacher: no selection takes a teacher's label of an image that you reviewed.",
        "A generation that has begun keeps to its plan. Undoing counts from the next one on.",
        "No decision changes the holdout. Images that no student has learned from can join it: `understudy corrections "
        "--to FOLDER --format folder`, then `understudy init --holdout FOLDER`.",
    ]
    if is_audit:
        said.insert(0, "Leave no image out: to skip the hard ones makes the labels look better than they are.")
    with frame.panel("What becomes of it"), frame.element("ul", "us-becomes us-soft"):
        for each in said:
            frame.text(each, tag="li")


PAGE = Page("/review", "Review", build, icon="rate_review")
