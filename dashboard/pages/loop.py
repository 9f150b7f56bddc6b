"""The loop: what turns, what it has brought, and what comes next."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from nicegui import ui

from dashboard import charts, frame, words
from dashboard.frame import Page, View
from understudy.client import Client
from understudy.records import BucketSummary, Championship, GenerationState, GenerationSummary, LoopNext, LoopState


@dataclass(frozen=True)
class Seen:
    """What the page shows of one moment."""

    loop: LoopState
    generations: Sequence[GenerationSummary]  #: the newest first
    buckets: Sequence[BucketSummary]
    champions: Sequence[Championship]  #: the newest first


def _seen(client: Client) -> Seen:
    return Seen(client.loop(), client.generations(), client.buckets(), client.champions())


async def build(view: View) -> None:
    """The page."""
    frame.heading("The loop", "Unlabeled images become a better model, again and again.")
    look: list[Callable[[], Awaitable[None]]] = []

    def draw(seen: Seen) -> None:
        _next(view, seen.loop, look)
        with frame.panel():
            ui.html(cycle(seen), sanitize=False)
        _accuracy(seen)
        _turns(seen)

    look.append(await frame.live(lambda: view.ask(_seen), draw))


# -- what comes next --------------------------------------------------------------------------------


def _next(view: View, loop: LoopState, look: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """What starts next and why, and the way to hold it or let it go on."""

    async def go_on() -> None:
        await frame.act(view, lambda client: client.resume(), "The loop goes on.")
        await look[0]()

    with frame.panel(classes="us-next"), frame.element("div", "us-row"):
        frame.badge("paused" if loop.paused else "turning" if loop.next != LoopNext.PERSON else "at rest", _kind(loop))
        frame.text(f"{loop.why[:1].upper()}{loop.why[1:]}.".replace("`", ""), "us-grow")
        if loop.paused:
            ui.button("Go on", icon="play_arrow", on_click=go_on).props("unelevated")
        else:
            ui.button("Pause", icon="pause", on_click=lambda: _ask_why(view, look)).props("outline")


def _kind(loop: LoopState) -> str:
    if loop.paused:
        return "bad"
    return "busy" if loop.next != LoopNext.PERSON else ""


def _ask_why(view: View, look: Sequence[Callable[[], Awaitable[None]]]) -> None:
    with ui.dialog(value=True) as dialog, ui.card().classes("us-dialog"):
        frame.text("Pause the loop", tag="h2")
        frame.text("Nothing new is labeled and no generation begins; what runs goes on to its end.", "us-soft", "p")
        why = ui.input("Why").props("autofocus outlined dense").style("width: 100%")

        async def pause() -> None:
            dialog.close()
            await frame.act(view, lambda client: client.pause(reason=why.value or "by hand"), "The loop is paused.")
            await look[0]()

        why.on("keydown.enter", pause)
        with frame.element("div", "us-row"):
            ui.button("Pause", on_click=pause).props("unelevated")
            ui.button("Cancel", on_click=dialog.close).props("flat")


# -- the cycle --------------------------------------------------------------------------------------

#: Where each node lies: (x, y) of its middle.
_PLACES = ((150, 70), (430, 50), (710, 70), (710, 330), (430, 350), (150, 330))
_WIDTH, _HEIGHT = 196, 74
#: From each node to the next, and from the last back to the first.
_WAYS = (
    "M248 62 L326 55", "M528 55 L606 62", "M742 107 C790 170 790 230 742 288", "M612 338 L534 345", "M326 345 L254 338",
    "M118 293 C70 230 70 170 118 112",
)  # fmt: skip
_TIPS = ((330, 55, -5), (610, 62, 5), (740, 292, 122), (530, 345, 175), (250, 338, 185), (120, 108, -58))
#: A generation's step, by its first word, to the node that is at work.
_AT_WORK = {"wait": 1, "select": 2, "train": 3, "export": 3, "calibrate": 3, "evaluate": 4, "gate": 4}


def cycle(seen: Seen) -> str:
    """The cycle as SVG: six nodes with their counts, and the way between two that something moves along."""
    nodes, busy = _nodes(seen), _busy(seen)
    parts = [
        f'<path class="way{" on" if busy == i else ""}" d="{way}"/>'
        f'<path class="tip{" on" if busy == i else ""}" d="M0 0 L-11 5.5 L-11 -5.5 Z" '
        f'transform="translate({x} {y}) rotate({angle})"/>'
        for i, (way, (x, y, angle)) in enumerate(zip(_WAYS, _TIPS, strict=True))
    ]
    for i, ((name, said, href), (x, y)) in enumerate(zip(nodes, _PLACES, strict=True)):
        parts.append(
            f'<a href="{href}" class="node{" on" if busy == i else ""}"><rect x="{x - _WIDTH / 2}" '
            f'y="{y - _HEIGHT / 2}" width="{_WIDTH}" height="{_HEIGHT}" rx="12"/>'
            f'<text class="name" x="{x}" y="{y - 5}" text-anchor="middle">{escape(name)}</text>'
            f'<text class="said" x="{x}" y="{y + 18}" text-anchor="middle">{escape(said)}</text></a>'
        )
    parts.append(
        f'<text class="said" x="430" y="188" text-anchor="middle">{"serves now" if seen.loop.champion else ""}</text>'
    )
    parts.append(
        f'<text class="core" x="430" y="216" text-anchor="middle">{escape(seen.loop.champion or "no model yet")}</text>'
    )
    return f'<svg class="us-loop" viewBox="0 0 860 400" role="img" aria-label="{escape(_spoken(nodes))}">{"".join(parts)}</svg>'


def _nodes(seen: Seen) -> list[tuple[str, str, str]]:
    """Name, what is said of it, where it leads; in the order of the cycle."""
    turn = seen.loop.generation
    newest = seen.generations[0] if seen.generations else None
    step = (turn.step or turn.state) if turn else "nothing under way"
    share = f" {turn.done / turn.total:.0%}" if turn and turn.total else ""
    promoted = sum(each.state == GenerationState.PROMOTED for each in seen.generations)
    refused = sum(each.state == GenerationState.REFUSED for each in seen.generations)
    at = f"/generations/{newest.number}" if newest else "/generations"
    return [
        ("Images", f"{seen.loop.num_images:,} in {words.plural(len(seen.buckets), 'bucket')}", "/ingest"),
        ("Pseudo-labels", f"{seen.loop.num_pseudo_labels:,} by the champion", "/pseudo-labels"),
        ("Selection", "confident, then balanced", at),
        ("Student", f"{step}{share}", at),
        ("Gate", f"{promoted} promoted, {refused} refused", "/compare"),
        ("Champion", words.plural(len(seen.champions), "swap"), "/serving"),
    ]


def _busy(seen: Seen) -> int | None:
    """The node that is at work; None: nothing is."""
    turn = seen.loop.generation
    if turn is not None:
        return _AT_WORK.get((turn.step or "").split(" ")[0], 3)
    return 1 if seen.loop.labels.num_running else None


def _spoken(nodes: Sequence[tuple[str, str, str]]) -> str:
    return "; ".join(f"{name}: {said}" for name, said, _ in nodes)


# -- what it has brought ----------------------------------------------------------------------------


def _accuracy(seen: Seen) -> None:
    judged = [each for each in reversed(seen.generations) if each.report is not None]
    with frame.panel("Accuracy by generation", "On the holdout, which no model has trained on; 95 % intervals."):
        if not judged:
            frame.nothing("No generation has been judged yet.", "understudy init FOLDER")
            return
        charts.draw(accuracy_plot(judged), f"Accuracy of {words.plural(len(judged), 'generation')}")


def accuracy_plot(judged: Sequence[GenerationSummary]) -> charts.Options:
    """Each generation's student on the holdout with its interval; the promoted ones in limelight."""
    dots: dict[bool, list[list[Any]]] = {True: [], False: []}
    whiskers, every_bound = [], []
    for each in judged:
        assert each.report is not None
        measured, at = each.report.challenger, str(each.number)
        dots[each.state == GenerationState.PROMOTED].append([at, _percents(measured.accuracy)])
        bounds = (measured.interval.low, measured.interval.high)
        every_bound += [_percents(bound) for bound in bounds]
        whiskers.append([{"coord": [at, _percents(bound)]} for bound in bounds])
    whisker = {
        "silent": True, "symbol": ["none", "none"], "data": whiskers, "lineStyle": {"color": charts.GREY, "type": "solid"},
    }  # fmt: skip
    dot = {"type": "scatter", "symbolSize": 13}
    return charts.options(
        charts.axis("category", data=[str(each.number) for each in judged], name="generation"),
        charts.axis(name="%", min=math.floor(min(every_bound)), max=math.ceil(max(every_bound))),
        [
            {**dot, "name": "promoted", "data": dots[True], "color": charts.CHAMPION, "markLine": whisker},
            {**dot, "name": "not promoted", "data": dots[False], "color": charts.GREY},
        ],
    )


def _percents(share: float) -> float:
    return round(100 * share, 2)


def _turns(seen: Seen) -> None:
    with frame.panel("Generations"):
        if not seen.generations:
            frame.nothing("There is none yet. Labeled images open the first one.", "understudy init FOLDER")
            return
        with frame.table("generation", "state", "student", "accuracy", "why"):
            for each in seen.generations[:12]:
                _turn(each)


def _turn(each: GenerationSummary) -> None:
    kinds = {GenerationState.PROMOTED: "good", GenerationState.REFUSED: "", GenerationState.FAILED: "bad"}
    with frame.row():
        with frame.cell():
            frame.link(f"Generation {each.number}", f"/generations/{each.number}")
        with frame.cell():
            frame.badge(each.state, kinds.get(each.state, "busy"))
        with frame.cell("us-mono"):
            frame.text(each.version or each.job.step or "")
        with frame.cell():
            frame.text(words.percent(each.report.challenger.accuracy) if each.report else "–")
        with frame.cell("us-soft"):
            problem = each.job.problem.detail if each.job.problem else ""
            frame.text("; ".join(each.report.reasons) if each.report else problem)


PAGE = Page("/", "Loop", build, icon="cached")
