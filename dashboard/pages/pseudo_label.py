"""One image, and what every teacher has said of it."""

from collections.abc import Sequence

from dashboard import charts, frame, words
from dashboard.frame import Page, View
from understudy.label_records import PseudoLabel

#: Classes in the plot: those that any teacher thought most of, and none that all thought nothing of.
MAX_CLASSES = 10
MIN_PROBABILITY = 0.01
#: Pixels of the image's longer side.
SIZE = 640


async def build(view: View) -> None:
    """The page."""
    sha256 = view.parts["sha256"]
    told = await view.ask(lambda client: client.labels_of(sha256))
    frame.heading("An image", "What every teacher says of it.")
    with frame.element("div", "us-image"):
        with frame.panel():
            frame.thumbnail(sha256, size=SIZE, alt=f"image {sha256[:12]}, large")
            _facts(sha256, told)
        with frame.element("div", "us-live"):
            _said(told)


def _facts(sha256: str, told: Sequence[PseudoLabel]) -> None:
    for bucket in dict.fromkeys(each.bucket for each in told):
        with frame.element("div", "us-row"):
            frame.text("in bucket", "us-soft")
            frame.link(bucket, frame.address("/pseudo-labels", bucket=bucket))
    frame.text(sha256, "us-mono us-soft us-digest")
    with frame.element("div", "us-row"):
        frame.link("Try it", f"/try?sha256={sha256}", "us-button")
        frame.link("Review", f"/review?sha256={sha256}", "us-button us-quiet")


def _said(told: Sequence[PseudoLabel]) -> None:
    with frame.panel("Probabilities", "What each teacher in turn gave it, the newest in limelight."):
        if not told:
            frame.nothing("No teacher has labeled this image yet.")
            return
        names = classes(told)
        said = "; ".join(f"{each.teacher}: {each.label} {words.percent(each.confidence)}" for each in told)
        charts.draw(plot(told, names), said, height=90 + len(names) * (12 + 13 * len(told)))
    with frame.panel("Labels"), frame.table("teacher", "label", "confidence#", "lead#"):
        for each in reversed(told):
            with frame.row():
                with frame.cell("us-mono"):
                    frame.text(each.teacher)
                with frame.cell(), frame.element("div", "us-row"):
                    here = frame.address("/pseudo-labels", **{"teacher": each.teacher, "class": each.label})
                    frame.link(each.label, here)
                    if each.is_changed:
                        frame.badge(f"was {each.previous_label}", "busy")
                with frame.cell("us-right"):
                    frame.text(words.percent(each.confidence))
                with frame.cell("us-right"):
                    frame.text(words.percent(each.margin))


def classes(told: Sequence[PseudoLabel]) -> list[str]:
    """The classes that any teacher thought most of, the likeliest first."""
    likely: dict[str, float] = {}
    for each in told:
        for one in each.classes:
            likely[one.label] = max(likely.get(one.label, 0.0), one.probability)
    some = [name for name in likely if likely[name] >= MIN_PROBABILITY]
    return sorted(some, key=lambda name: -likely[name])[:MAX_CLASSES]


def plot(told: Sequence[PseudoLabel], names: Sequence[str]) -> charts.Options:
    """For each class a bar a teacher, the newest in limelight."""
    colours = [*([*charts.COLOURS[3:], *charts.COLOURS[:2]] * len(told))[: len(told) - 1], charts.CHAMPION]
    series = []
    for each, colour in zip(told, colours, strict=True):
        given = {one.label: round(100 * one.probability, 2) for one in each.classes}
        bars = {"type": "bar", "name": each.teacher, "data": [given.get(name) for name in names]}
        series.append({**bars, "color": colour, "barMaxWidth": 14, "itemStyle": {"borderRadius": [0, 4, 4, 0]}})
    made = charts.options(
        charts.axis(max=100, name="%"), charts.axis("category", data=list(names), inverse=True), series
    )
    return made | {"grid": {"left": 8, "right": 34, "top": 34, "bottom": 8, "containLabel": True}}


PAGE = Page("/pseudo-labels/{sha256}", "An image", build)
