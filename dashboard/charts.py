"""Plots in the colours of the pages, readable by day and by night. What they show is computed elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nicegui import ui

CHAMPION, CHALLENGER, LABELS, GREY = "#d99a00", "#b3365b", "#2a8c82", "#8f8a99"
#: Told apart also by those who see no red and green.
COLOURS = (CHALLENGER, LABELS, CHAMPION, "#5b7db8", "#8a5fb0", GREY)

_WORDS = {"color": GREY, "fontSize": 12}
_LINE = {"lineStyle": {"color": "rgba(140,135,150,.28)"}}

Options = dict[str, Any]


def axis(kind: str = "value", **more: Any) -> Options:
    """An axis: ``value``, ``category``, ``time`` or ``log``."""
    return {
        "type": kind,
        "axisLabel": dict(_WORDS),
        "axisLine": dict(_LINE),
        "splitLine": _LINE if kind != "category" else {"show": False},
        "nameTextStyle": dict(_WORDS),
        **more,
    }


def options(x: Options, y: Options | Sequence[Options], series: Sequence[Options], **more: Any) -> Options:
    """A plot of series over two axes."""
    return {
        "animation": False,
        "color": list(COLOURS),
        "grid": {"left": 52, "right": 22, "top": 34, "bottom": 34},
        "legend": {"textStyle": dict(_WORDS), "top": 0, "type": "scroll", "icon": "roundRect"},
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": x,
        "yAxis": y,
        "series": list(series),
        **more,
    }


def line(name: str, values: Sequence[Any], **more: Any) -> Options:
    """A line through (x, y) pairs, or through one value a category."""
    return {"type": "line", "name": name, "data": list(values), "showSymbol": False, **more}


def draw(
    plot: Options, described: str, *, height: int = 260, on_click: Callable[[Any], Any] | None = None
) -> ui.echart:
    """Put a plot on the page; ``described`` is for those who cannot see it."""
    chart = ui.echart(plot, on_point_click=on_click, renderer="svg")
    chart.style(f"width: 100%; height: {height}px")
    chart.props["role"], chart.props["aria-label"] = "img", described
    return chart


def stacked_bar(parts: Mapping[str, tuple[int, str]]) -> None:
    """One bar of parts that sum to the whole: name → (number, colour). Nothing of nothing draws nothing."""
    total = sum(number for number, _ in parts.values())
    with ui.element("div").classes("us-bar") as bar:
        bar.props["role"] = "img"
        bar.props["aria-label"] = ", ".join(f"{number:,} {name}" for name, (number, _) in parts.items())
        for name, (number, colour) in parts.items():
            if number:
                piece = ui.element("div").style(f"width: {100 * number / total:.3f}%; background: {colour}")
                piece.props["title"] = f"{number:,} {name}"
