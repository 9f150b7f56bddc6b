"""Serving: what is asked, how fast it is answered, and by whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any

from nicegui import ui

from dashboard import champions, charts, frame, words
from dashboard.frame import Page, View
from dashboard.traffic import KEPT_S, Sample, Span, Traffic, spans
from understudy.client import Client
from understudy.records import Championship, Deployment, DeploymentState

#: Figures are of so long; plots go back as far as anybody has looked.
FIGURES_S, BATCHES_S = 60.0, 600.0
#: Points of a plot.
MAX_POINTS = 180
#: Drawn anew this often; sampled by ``traffic``.
EVERY_S = 2.0

Times = Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Seen:
    """What changes seldom."""

    champions: Sequence[Championship]
    deployments: Sequence[Deployment]


def _seen(client: Client) -> Seen:
    return Seen(client.champions(), client.deployments())


async def build(view: View) -> None:
    """The page."""
    await view.ask(_seen)  # before anything of the samples: they are for who may ask the service
    traffic = view.system.traffic
    traffic.watch(view.system)
    if not traffic.samples:
        await traffic.look(view.system)
    frame.heading("Serving", "What the champion is asked, in all processes of the service together.")
    marquee = frame.element("section", "us-panel us-marquee")
    with frame.element("div", "us-grid us-wide"):
        plots = _Plots(traffic)

    def stands(seen: Seen) -> None:
        plots.history = seen.champions
        _standing(view, seen)

    def show() -> None:
        traffic.watch(view.system)
        marquee.clear()
        with marquee:
            _figures(traffic)
        plots.show()

    await frame.live(lambda: view.ask(_seen), stands)
    show()
    ui.timer(EVERY_S, show, immediate=False)


# -- figures ----------------------------------------------------------------------------------------


def _figures(traffic: Traffic) -> None:
    newest = traffic.samples[-1]
    last = traffic.last(FIGURES_S)
    with frame.element("div", "us-row us-between"):
        with frame.element("div", "us-figure"):
            frame.text(", ".join(newest.serving) or "no model yet", "us-value us-limelight")
            frame.text(_runs(newest), "us-soft")
        with frame.element("div", "us-figures"):
            for value, label in figures(newest, last):
                frame.figure(value, label)


def _runs(sample: Sample) -> str:
    return f"serves in {words.plural(round(sample.processes), 'process', 'processes')}"


def figures(newest: Sample, last: Span | None) -> list[tuple[str, str]]:
    """Values and what they are; of rates and latencies those of the last minute."""
    total = words.count(round(sum(newest.answers.values())))
    if last is None:
        return [(total, "requests in all")]
    latencies = [(_ms(last.percentile_ms(share)), f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99)]
    return [
        (total, "requests in all"),
        (f"{last.requests / last.seconds:.1f}", "requests/s"),
        *latencies,
        (words.count(round(newest.queue)), "images wait"),
        (words.count(round(sum(last.refusals.values()))), "refused, last minute"),
        (words.count(round(newest.capacity)), "images/s possible"),
    ]


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


# -- plots ------------------------------------------------------------------------------------------


class _Plots:
    """The plots of a page. They change in place, so that what somebody points at stays."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.history: Sequence[Championship] = ()
        self._requests = _plot("Requests", "answered a second; a mark is a swap", "Requests a second over time")
        self._latency = _plot("Latency", "of requests that ask a model, in milliseconds", "Latency over time")
        self._versions = _plot("Images by version", "classified a second", "Images a second by version over time")
        self._batches = _plot("Batch sizes", "batches of the last ten minutes, by images", "Batches by their size")
        self._queue = _plot("Queue", "images that wait, and requests in flight", "Queue over time")
        self._refused = _plot("Refusals", "images, requests and connections of the last hour, by why", "Refusals")

    def show(self) -> None:
        """Bring all up to date."""
        samples = self._traffic.samples
        over = spans(samples, MAX_POINTS)
        swaps = swap_marks(self.history, samples[0].at if samples else 0.0)
        _fill(self._requests, requests_plot(over, swaps))
        _fill(self._latency, latency_plot(over, swaps))
        _fill(self._versions, versions_plot(over, swaps))
        _fill(self._batches, batches_plot(self._traffic.last(BATCHES_S)))
        _fill(self._queue, queue_plot(samples))
        _fill(self._refused, refusals_plot(self._traffic.last(KEPT_S)))


def _plot(title: str, said: str, described: str) -> ui.echart:
    with frame.panel(title, said):
        return charts.draw({"series": []}, described, height=210)


def _fill(chart: ui.echart, plot: charts.Options) -> None:
    chart.options.clear()
    chart.options.update(plot)
    chart.update()


def _over_time(series: Sequence[charts.Options], swaps: charts.Options) -> charts.Options:
    first, *others = series
    return charts.options(
        charts.axis("time", splitLine={"show": False}, axisLabel={"color": charts.GREY, "hideOverlap": True}),
        charts.axis(min=0, splitNumber=3),
        [first | {"markLine": swaps}, *others],
    )


def swap_marks(history: Sequence[Championship], since: float) -> charts.Options:
    """A line at each moment when another version became the champion."""
    marks = [{"xAxis": _at(each.at), "name": each.version} for each in history if each.at >= since]
    label = {"formatter": "{b}", "color": charts.CHAMPION, "fontSize": 11, "position": "insideEndTop"}
    return {
        "silent": True, "symbol": "none", "data": marks, "label": label,
        "lineStyle": {"color": charts.CHAMPION, "type": "solid", "width": 1.5},
    }  # fmt: skip


def requests_plot(over: Sequence[Span], swaps: charts.Options) -> charts.Options:
    """Requests a second: answered well, and refused or failed."""
    good = [(_at(span.at), round((span.requests - span.failed) / span.seconds, 2)) for span in over]
    bad = [(_at(span.at), round(span.failed / span.seconds, 2)) for span in over]
    shaded = {"areaStyle": {"opacity": 0.18}}
    series = [
        charts.line("answered", good, color=charts.LABELS, **shaded),
        charts.line("refused or failed", bad, color=charts.CHALLENGER, **shaded),
    ]
    return _over_time(series, swaps)


def latency_plot(over: Sequence[Span], swaps: charts.Options) -> charts.Options:
    """Percentiles; nothing where nobody asked."""
    kinds = ((0.5, "p50", charts.LABELS), (0.95, "p95", charts.CHAMPION), (0.99, "p99", charts.CHALLENGER))
    series = [
        charts.line(name, [(_at(span.at), _rounded(span.percentile_ms(share))) for span in over], color=colour)
        for share, name, colour in kinds
    ]
    return _over_time(series, swaps)


def versions_plot(over: Sequence[Span], swaps: charts.Options) -> charts.Options:
    """Images a second of each version that was asked in this time, one upon the other."""
    asked = sorted({name for span in over for name, number in span.images.items() if number})
    series = [
        charts.line(
            name,
            [(_at(span.at), round(span.images.get(name, 0.0) / span.seconds, 2)) for span in over],
            stack="all",
            color=charts.COLOURS[i % len(charts.COLOURS)],  # said, or that of what stood there before remains
            areaStyle={"opacity": 0.3},
        )
        for i, name in enumerate(asked)
    ] or [charts.line("nobody asks", [(_at(span.at), 0) for span in over], color=charts.GREY)]
    return _over_time(series, swaps)


def queue_plot(samples: Sequence[Sample]) -> charts.Options:
    """What waits, and what is being answered."""
    some = samples[:: max(1, len(samples) // MAX_POINTS)]
    series = [
        charts.line(
            "images that wait", [(_at(one.at), one.queue) for one in some], step="end", color=charts.CHALLENGER
        ),
        charts.line("requests in flight", [(_at(one.at), one.in_flight) for one in some], step="end", color="#5b7db8"),
    ]
    return _over_time(series, {"data": []})


def batches_plot(last: Span | None) -> charts.Options:
    """How many batches there were of each size."""
    sizes = last.batch_sizes() if last else {}
    names, lower = [], 1.0
    for bound in sizes:
        names.append(_range(lower, bound))
        lower = bound + 1
    return _bars(names, [round(number) for number in sizes.values()], "batches", charts.LABELS)


def _range(lower: float, upper: float) -> str:
    if isinf(upper):
        return f"{lower:.0f}+"
    return f"{upper:.0f}" if lower == upper else f"{lower:.0f}–{upper:.0f}"


def refusals_plot(last: Span | None) -> charts.Options:
    """What was refused, by why."""
    found = {name: round(number) for name, number in (last.refusals if last else {}).items() if number}
    plot = _bars(list(found), list(found.values()), "refused", charts.CHALLENGER)
    plot["graphic"] = {
        "type": "text", "left": "center", "top": "middle",
        "style": {"text": "" if found else "nothing was refused", "fill": charts.GREY, "fontSize": 13},
    }  # fmt: skip
    return plot


def _bars(names: Sequence[str], numbers: Sequence[Any], unit: str, colour: str) -> charts.Options:
    bars = {
        "type": "bar", "name": unit, "data": list(numbers), "color": colour, "barMaxWidth": 46,
        "itemStyle": {"borderRadius": [4, 4, 0, 0]},
    }  # fmt: skip
    across = charts.axis("category", data=list(names))
    across["axisLabel"] |= {"interval": 0, "hideOverlap": True}
    plot = charts.options(across, charts.axis(minInterval=1, splitNumber=3), [bars])
    return plot | {"legend": {"show": False}}


def _at(seconds: float) -> int:
    return round(1000 * seconds)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


# -- versions ---------------------------------------------------------------------------------------


def _standing(view: View, seen: Seen) -> None:
    with frame.panel("Shadow and canary", "A challenger on a share of the live traffic, beside the champion."):
        if seen.deployments:
            _deployments(view, seen.deployments)
        else:
            frame.nothing("No challenger has been on live traffic.", "understudy deploy VERSION --shadow")
    with frame.panel("Champions", "Who served since when, who decided it, and why. A former one may serve again."):
        if seen.champions:
            champions.history(view, seen.champions)
        else:
            frame.nothing("No model has been promoted yet.", "understudy init FOLDER")


def _deployments(view: View, deployments: Sequence[Deployment]) -> None:
    kinds = {DeploymentState.ACTIVE: "busy", DeploymentState.WITHDRAWN: "bad", DeploymentState.ENDED: ""}
    with frame.table("challenger", "as", "state", "images#", "agree", "failed", "latency", "why", ""):
        for each in deployments[:20]:
            with frame.row():
                with frame.cell("us-mono us-nowrap"):
                    frame.text(each.version)
                with frame.cell("us-nowrap"):
                    frame.text(f"{each.kind}, {words.percent(each.share, 0)}")
                with frame.cell():
                    frame.badge(each.state, kinds[each.state])
                with frame.cell("us-right"):
                    frame.text(words.count(each.counts.challenger_images))
                with frame.cell("us-nowrap"):
                    frame.text(_agreement(each))
                with frame.cell("us-nowrap"):
                    frame.text(f"{each.counts.challenger_errors} / {each.counts.champion_errors}")
                with frame.cell("us-nowrap"):
                    frame.text(f"{_ms(each.challenger_latency_ms)} / {_ms(each.champion_latency_ms)}")
                with frame.cell("us-soft us-sentence"):
                    frame.text(each.reason or words.ago(each.created_at))
                with frame.cell("us-right us-nowrap"):
                    if each.state == DeploymentState.ACTIVE:
                        champions.end_button(view, each)
    frame.text("Failed requests and mean latency: the challenger's / the champion's.", "us-soft us-small", "p")


def _agreement(each: Deployment) -> str:
    if each.agreement is None:
        return "–"
    return f"{words.percent(each.agreement)} of {words.count(each.counts.compared_images)}"


PAGE = Page("/serving", "Serving", build, icon="bolt")
