"""Compare: a challenger and a champion on the same holdout images, the gate's certificate, and overruling it."""

from collections.abc import Sequence
from dataclasses import dataclass

from nicegui import ui

from dashboard import certificate, champions, charts, frame, words
from dashboard.frame import Page, View
from understudy.client import Client, RequestFailed
from understudy.generation_records import ComparedConfusion, ComparedImage, Comparison, PairOutcome
from understudy.records import (
    Championship,
    ClassGain,
    Evaluation,
    GateReport,
    ModelVersion,
    Robustness,
    VersionState,
)

#: Thumbnails on a page; the rest is a click away.
FIRST_IMAGES, MORE_IMAGES = 20, 240
#: A state changes seldom.
EVERY_S = 3.0
#: Kinds of mistakes that are shown; classes of a map.
MAX_MISTAKES, MAX_MAP_CLASSES = 12, 30


@dataclass(frozen=True)
class Pair:
    """Two versions, and what is known of the two. None of a thing: there is none."""

    challenger: ModelVersion
    champion: ModelVersion | None
    report: GateReport | None  #: of the gate, on these two
    comparison: Comparison | None
    why_not: str  #: why there is no comparison
    won: Sequence[ComparedImage] = ()
    lost: Sequence[ComparedImage] = ()

    @property
    def evaluations(self) -> tuple[Evaluation, Evaluation | None]:
        """As the gate measured them, else as their cards have them."""
        if self.report is not None:
            return self.report.challenger, self.report.champion
        return self.challenger.card.evaluation, self.champion.card.evaluation if self.champion else None


@dataclass(frozen=True)
class Standing:
    """What may change while one looks."""

    challenger: VersionState
    champions: Sequence[Championship]


async def build(view: View) -> None:
    """The page."""
    frame.heading("Compare", "A challenger and a champion, asked the same holdout images.")
    models = await view.ask(lambda client: client.models())
    if not models:
        frame.nothing("There is no model yet. Labeled images open the first generation.", "understudy init FOLDER")
        return
    pair = await view.ask(lambda client: _pair(client, view, models))
    _choice(view, models, pair)

    def standing(client: Client) -> Standing:
        return Standing(client.model(pair.challenger.id).state, client.champions())

    await frame.live(lambda: view.ask(standing), lambda now: _standing(view, pair, now), every_s=EVERY_S)
    _proof(pair)
    if pair.comparison is not None:
        _images(view, pair)
        _mistakes(pair.comparison)
    with frame.element("div", "us-grid us-wide"):
        _reliability(*pair.evaluations)
        _robustness(pair)


# -- which two --------------------------------------------------------------------------------------


def _pair(client: Client, view: View, models: Sequence[ModelVersion]) -> Pair:
    """The two that the address names; else the newest challenger, with whom the gate judged it against."""
    by_id = {model.id: model for model in models}
    newest = next((one for one in models if one.generation), models[0])
    challenger = by_id.get(view.query.get("challenger", ""), newest)
    report = client.generation(challenger.generation).report
    if report is not None and report.challenger.version != challenger.id:
        report = None
    judged = report.champion.version if report and report.champion else ""
    champion = by_id.get(view.query.get("champion", "") or judged)
    if champion is None:
        return Pair(challenger, None, report, None, "")
    report = report if champion.id == judged else None
    only = view.query.get("class") or None
    most = MORE_IMAGES if view.query.get("all") else FIRST_IMAGES
    try:
        comparison = client.comparison(challenger.id, champion.id)
        won, lost = (
            list(client.compared_images(challenger.id, champion.id, outcome=each, class_name=only, limit=most))
            for each in (PairOutcome.WON, PairOutcome.LOST)
        )
    except RequestFailed as error:
        if error.status != 404:
            raise
        return Pair(challenger, champion, report, None, str(error))
    return Pair(challenger, champion, report, comparison, "", won, lost)


def _choice(view: View, models: Sequence[ModelVersion], pair: Pair) -> None:
    named = {model.id: f"{model.id} · {'serves' if model.is_champion else model.state}" for model in models}
    with frame.element("div", "us-row us-versus"):
        challenger = ui.select(named, value=pair.challenger.id, label="Challenger").props("outlined dense")
        challenger.on_value_change(lambda chosen: view.go(challenger=chosen.value, champion=None, **_ALL))
        frame.text("against", "us-soft")
        others = {name: words for name, words in named.items() if name != pair.challenger.id}
        champion = ui.select(others, value=pair.champion.id if pair.champion else None, label="Champion")
        champion.props("outlined dense")
        champion.on_value_change(lambda chosen: view.go(challenger=pair.challenger.id, champion=chosen.value, **_ALL))


#: Choices that belong to one pair.
_ALL = {"class": None, "all": None}


# -- the verdict ------------------------------------------------------------------------------------


def _standing(view: View, pair: Pair, now: Standing) -> None:
    if pair.report is not None:
        certificate.draw(pair.report, against(pair.report, now.champions))
    else:
        with frame.panel():
            frame.text(
                "The gate has not judged these two against each other: what follows is counted, and nothing is proved.",
                "us-soft",
                "p",
            )
    serving = now.champions[0].version if now.champions else None
    with frame.element("div", "us-row"):
        if now.challenger == VersionState.REFUSED:
            champions.promote_button(view, pair.challenger.id)
        served = {each.version for each in now.champions}
        for each in (pair.challenger, pair.champion):
            if each is not None and each.id in served and each.id != serving:
                champions.roll_back_button(view, each.id, words_on_it=f"Roll back to {each.id}")
        if serving:
            frame.text(f"{serving} serves", "us-badge us-champion")


def against(report: GateReport, history: Sequence[Championship]) -> str:
    """What a person decided of a version that was refused; empty: nobody did."""
    if report.is_proved:
        return ""
    of_it = [each for each in reversed(history) if each.version == report.challenger.version]
    if not of_it:
        return ""
    first = of_it[0]
    return f"Promoted against this verdict by {first.actor} at {words.moment(first.at)}: {first.reason}"


def _proof(pair: Pair) -> None:
    counts = _counts(pair)
    if counts is None:
        if pair.why_not:
            with frame.panel():
                frame.nothing(pair.why_not)
        return
    gain = pair.report.gain if pair.report else None
    both_right, won, lost, both_wrong = counts
    difference = gain.difference if gain else (won - lost) / max(1, sum(counts))
    with frame.element("div", "us-grid us-wide"):
        with frame.panel("The same images, twice", "Only those on which one alone is right can tell the two apart."):
            _square(both_right, won, lost, both_wrong)
        with frame.panel("Difference in accuracy", "With its 95 % interval, in points; the p-value decides."):
            ui.html(certificate.interval(difference, gain.interval if gain else None), sanitize=False)
            if gain and pair.report:
                p, limit = certificate.number(gain.p_value), certificate.number(pair.report.alpha)
                with frame.element("div", "us-figures us-center"):
                    frame.figure(p, "p, exact one-sided McNemar", "us-mid")
                    frame.figure(f"≤ {limit}", "limit at this look", "us-mid")
    if classes := _classes(pair):
        _by_class(classes, pair.report.classes if pair.report else ())


def _counts(pair: Pair) -> tuple[int, int, int, int] | None:
    """Both right, won, lost, both wrong."""
    if pair.report and (gain := pair.report.gain):
        return gain.both_right, gain.only_challenger_right, gain.only_champion_right, gain.both_wrong
    if pair.comparison:
        counted = pair.comparison
        return counted.both_right, counted.won, counted.lost, counted.both_wrong
    return None


def _square(both_right: int, won: int, lost: int, both_wrong: int) -> None:
    with frame.element("table", "us-square"):
        with frame.element("thead"), frame.element("tr"):
            frame.text("", tag="th")
            frame.text("champion right", tag="th").props["scope"] = "col"
            frame.text("champion wrong", tag="th").props["scope"] = "col"
        with frame.element("tbody"):
            for name, first, second in (
                ("challenger right", (both_right, "", "both right"), (won, "us-won", "won")),
                ("challenger wrong", (lost, "us-lost", "lost"), (both_wrong, "", "both wrong")),
            ):
                with frame.element("tr"):
                    frame.text(name, tag="th").props["scope"] = "row"
                    for number, kind, said in (first, second):
                        with frame.element("td", kind):
                            frame.text(f"{number:,}", "us-value")
                            frame.text(said, "us-soft us-small us-block")


@dataclass(frozen=True)
class _Class:
    name: str
    num_images: int
    won: int
    lost: int
    is_worse: bool

    @property
    def difference(self) -> float:
        return (self.won - self.lost) / max(1, self.num_images)


def _classes(pair: Pair) -> list[_Class]:
    """Every class, the greatest loss first."""
    if pair.report and pair.report.classes:
        found = [
            _Class(one.name, one.num_images, one.only_challenger_right, one.only_champion_right, one.is_worse)
            for one in pair.report.classes
        ]
    elif pair.comparison:
        found = [_Class(one.name, one.num_images, one.won, one.lost, False) for one in pair.comparison.classes]
    else:
        return []
    return sorted(found, key=lambda one: (one.difference, one.name))


def _by_class(classes: Sequence[_Class], judged: Sequence[ClassGain]) -> None:
    worse = [one.name for one in classes if one.is_worse]
    proved = f"Proved worse: {', '.join(worse)}." if worse else "No loss of a class is proved." if judged else ""
    with frame.panel("Class by class", f"Difference of recall, in points. {proved}"):
        height = max(160, min(900, 26 * len(classes) + 50))
        charts.draw(class_plot(classes), f"Difference of recall of {len(classes)} classes", height=height)
        with frame.element("details", "us-more"):
            frame.text("As a table", tag="summary")
            tested = {one.name: one for one in judged}
            with frame.table("class", "images#", "won#", "lost#", "difference#", "p of a loss#", "limit#"):
                for one in classes:
                    test = tested.get(one.name)
                    values = (
                        f"{one.num_images:,}", f"{one.won:,}", f"{one.lost:,}", words.points(one.difference),
                        certificate.number(test.p_value if test else None), certificate.number(test.limit if test else None),
                    )  # fmt: skip
                    with frame.row():
                        with frame.cell():
                            frame.text(one.name, "us-bad" if one.is_worse else "")
                        for value in values:
                            with frame.cell("us-right us-nowrap"):
                                frame.text(value)


def class_plot(classes: Sequence[_Class]) -> charts.Options:
    """A bar a class: gains to the right, losses to the left, proved ones in red."""
    bars = [
        {
            "value": round(100 * one.difference, 2),
            "itemStyle": {
                "color": "#b3261e" if one.is_worse else charts.LABELS if one.difference > 0 else charts.GREY,
                "borderRadius": [0, 4, 4, 0] if one.difference > 0 else [4, 0, 0, 4],
            },
        }
        for one in classes
    ]
    names = charts.axis("category", data=[one.name for one in classes], axisTick={"show": False}, inverse=True)
    names["axisLabel"] |= {"width": 120, "overflow": "truncate", "interval": 0}
    plot = charts.options(
        charts.axis(name="points", nameLocation="middle", nameGap=24),
        names,
        [{"type": "bar", "name": "difference of recall, points", "data": bars, "barMaxWidth": 14}],
    )
    return plot | {
        "legend": {"show": False},
        "grid": {"left": 8, "right": 22, "top": 8, "bottom": 40, "containLabel": True},
    }


# -- images -----------------------------------------------------------------------------------------


def _images(view: View, pair: Pair) -> None:
    assert pair.comparison is not None, "there are images where there is a comparison"
    only = view.query.get("class", "")
    with frame.element("div", "us-row us-between"):
        frame.text(f"Images of the holdout{f': {only}' if only else ''}", tag="h2")
        names = {"": "every class"} | {one.name: one.name for one in pair.comparison.classes}
        chosen = ui.select(names, value=only if only in names else "", label="Class").props("outlined dense")
        chosen.on_value_change(lambda event: view.go(**{"class": event.value or None}))
    with frame.element("div", "us-grid us-wide"):
        for title, said, found, kind, of_all in (
            ("Won", "the challenger alone is right", pair.won, "us-won", pair.comparison.won),
            ("Lost", "the champion alone is right", pair.lost, "us-lost", pair.comparison.lost),
        ):
            with frame.panel(f"{title}: {of_all:,}", said, kind):
                if not found:
                    frame.nothing("None." if not only else f"None of {only}.")
                with frame.element("div", "us-thumbs us-small-thumbs"):
                    for each in found:
                        _image(each)
    is_all = bool(view.query.get("all"))
    if not is_all and max(len(pair.won), len(pair.lost)) == FIRST_IMAGES:
        frame.link("Show more", view.link(all=1))
    frame.text("Who tunes recipes by these images learns the holdout by heart: look, and leave it.", "us-soft us-small")


def _image(each: ComparedImage) -> None:
    said = f"{each.truth}: the challenger says {each.challenger}, the champion {each.champion}"
    with frame.element("figure", "us-thumb us-pair"):
        frame.thumbnail(each.sha256, size=160, alt=said)
        with frame.element("figcaption"):
            frame.text(each.truth, "us-strong us-block")
            for answer, sure in (
                (each.challenger, each.challenger_confidence),
                (each.champion, each.champion_confidence),
            ):
                kind = "us-right-answer" if answer == each.truth else "us-wrong-answer"
                frame.text(f"{answer} {words.percent(sure, 0)}", f"us-block us-small {kind}")


# -- mistakes ---------------------------------------------------------------------------------------


def _mistakes(comparison: Comparison) -> None:
    changed = [one for one in comparison.confusions if one.challenger != one.champion]
    with frame.panel("Mistakes that changed", "What is taken for what: fewer is green, more is red."):
        if not changed:
            frame.nothing("Both make the same mistakes as often.")
            return
        with frame.element("div", "us-grid us-wide"):
            charts.draw(confusion_plot(changed), "Changes of the confusion matrix", height=380)
            with frame.table("is", "is taken for", "champion#", "challenger#", "change#"):
                for one in changed[:MAX_MISTAKES]:
                    with frame.row():
                        for name in (one.truth, one.answer):
                            with frame.cell():
                                frame.text(name)
                        change = one.challenger - one.champion
                        for value, kind in (
                            (f"{one.champion:,}", ""),
                            (f"{one.challenger:,}", ""),
                            (f"{change:+,}", "us-worse" if change > 0 else "us-better"),
                        ):
                            with frame.cell("us-right"):
                                frame.text(value, kind)


def confusion_plot(changed: Sequence[ComparedConfusion]) -> charts.Options:
    """The challenger's mistakes less the champion's, by truth and answer; the classes that changed most."""
    weight: dict[str, int] = {}
    for one in changed:
        for name in (one.truth, one.answer):
            weight[name] = weight.get(name, 0) + abs(one.challenger - one.champion)
    names = sorted(sorted(weight, key=lambda name: -weight[name])[:MAX_MAP_CLASSES])
    place = {name: i for i, name in enumerate(names)}
    cells = [
        [place[one.answer], place[one.truth], one.challenger - one.champion]
        for one in changed
        if one.truth in place and one.answer in place
    ]
    most = max((abs(cell[2]) for cell in cells), default=1)
    across = charts.axis("category", data=names, name="answer", nameLocation="middle", nameGap=30)
    down = charts.axis("category", data=names, name="truth", inverse=True)
    series = {"type": "heatmap", "name": "more mistakes", "data": cells, "label": {"show": True, "color": "#1d1a24"}}
    plot = charts.options(
        across, down, [series | {"itemStyle": {"borderRadius": 3, "borderWidth": 2, "borderColor": "transparent"}}]
    )
    plot |= {"tooltip": {"trigger": "item", "confine": True}, "legend": {"show": False}}
    plot["grid"] = {"left": 8, "right": 12, "top": 26, "bottom": 44, "containLabel": True}
    plot["visualMap"] = {
        "show": False, "min": -most, "max": most, "inRange": {"color": ["#2a8c82", "#efe9dd", "#d4506f"]},
    }  # fmt: skip
    return plot


# -- how sure, and under what -----------------------------------------------------------------------


def _reliability(challenger: Evaluation, champion: Evaluation | None) -> None:
    with frame.panel("Reliability", "How often each is right when it is so sure; on the line is honest."):
        charts.draw(reliability_plot(challenger, champion), "Accuracy by confidence of both versions", height=300)
        with frame.element("div", "us-figures"):
            for each, name in ((challenger, "challenger"), (champion, "champion")):
                if each is not None:
                    frame.figure(f"{each.calibration_error:.3f}", f"calibration error, {name}", "us-mid")


def reliability_plot(challenger: Evaluation, champion: Evaluation | None) -> charts.Options:
    """Accuracy in each bin of confidence; a dot is larger where there are more images."""
    series = [charts.line("honest", [[0, 0], [100, 100]], color=charts.GREY, lineStyle={"type": "dashed", "width": 1})]
    for each, colour, name in ((champion, charts.CHAMPION, "champion"), (challenger, charts.CHALLENGER, "challenger")):
        if each is None:
            continue
        most = max((one.num_images for one in each.reliability), default=1) or 1
        dots = [
            {
                "value": [round(50 * (one.low + one.high), 1), round(100 * one.num_correct / one.num_images, 1)],
                "symbolSize": round(5 + 13 * (one.num_images / most) ** 0.5),
            }
            for one in each.reliability
            if one.num_images
        ]
        series.append(charts.line(name, dots, color=colour, showSymbol=True, symbol="circle"))
    across = charts.axis(min=0, max=100, name="confidence, %", nameLocation="middle", nameGap=24)
    plot = charts.options(across, charts.axis(min=0, max=100), series)
    plot["grid"] |= {"bottom": 44}
    return plot


def _robustness(pair: Pair) -> None:
    with frame.panel("Robustness", "Share of wrong answers under each corruption of the same sample, in percent."):
        ours = pair.comparison.challenger_robustness if pair.comparison else None
        if ours is None:
            frame.nothing("Not measured: the recipe asks for no corrupted images.", "robustness_images=400")
            return
        theirs = pair.comparison.champion_robustness if pair.comparison else None
        height = 90 + 21 * len(ours.errors)
        charts.draw(robustness_plot(ours, theirs), "Error of both versions by corruption and severity", height=height)
        with frame.element("div", "us-figures"):
            for each, name in ((ours, "challenger"), (theirs, "champion")):
                if each is not None:
                    frame.figure(words.percent(each.mean_error), f"mean error, {name}", "us-mid")
                    frame.figure(words.percent(each.clean_error), "on the images as they are", "us-mid")


def robustness_plot(ours: Robustness, theirs: Robustness | None) -> charts.Options:
    """A row a corruption, a column a severity: the challenger's, then the champion's."""
    rows = list(ours.errors)
    columns: list[str] = []
    cells: list[list[int]] = []
    for one, name in ((ours, "challenger"), (theirs, "champion")):
        if one is None:
            continue
        first, num = len(columns), max(map(len, one.errors.values()), default=0)
        columns += [
            f"{name}\n{severity}" if severity == (num + 1) // 2 else f"\n{severity}" for severity in range(1, num + 1)
        ]
        cells += [
            [first + x, y, round(100 * error)]
            for y, row in enumerate(rows)
            for x, error in enumerate(one.errors.get(row, ()))
        ]
    across = charts.axis("category", data=columns, position="top", axisTick={"show": False})
    across["axisLabel"] |= {"interval": 0, "lineHeight": 15}
    down = charts.axis("category", data=[name.replace("_", " ") for name in rows], inverse=True)
    down["axisLabel"] |= {"interval": 0}
    series = {
        "type": "heatmap", "name": "error, %", "data": cells, "label": {"show": True, "color": "#1d1a24", "fontSize": 11},
        "itemStyle": {"borderWidth": 1, "borderColor": "transparent", "borderRadius": 2},
    }  # fmt: skip
    plot = charts.options(across, down, [series])
    plot |= {"tooltip": {"trigger": "item", "confine": True}, "legend": {"show": False}}
    plot["grid"] = {"left": 8, "right": 12, "top": 46, "bottom": 8, "containLabel": True}
    plot["visualMap"] = {
        "show": False, "min": 0, "max": 100, "inRange": {"color": ["#d9ece8", "#efe0b0", "#dc7a8e"]},
    }  # fmt: skip
    return plot


PAGE = Page("/compare", "Compare", build, icon="balance")
