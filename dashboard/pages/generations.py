"""Generations: every turn of the loop, and opening the next one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from nicegui import ui

from dashboard import frame, words
from dashboard.frame import Page, View
from understudy import recipes
from understudy.client import Client
from understudy.errors import RecipeRefused, UnderstudyError
from understudy.recipes import Turn
from understudy.records import Generation, GenerationRequest, GenerationState, GenerationSummary, Interval

#: What a state looks like; any other is under way.
KINDS = {GenerationState.PROMOTED: "champion", GenerationState.REFUSED: "", GenerationState.FAILED: "bad"}
#: Where nothing is chosen.
AS_BEFORE = ""


@dataclass(frozen=True)
class Seen:
    """What the page shows of one moment."""

    generations: Sequence[GenerationSummary]  #: the newest first


def _seen(client: Client) -> Seen:
    return Seen(client.generations())


async def build(view: View) -> None:
    """The page."""
    with frame.element("div", "us-row us-between"):
        frame.heading("Generations", "Each teaches a student on what the champion labeled, and the gate judges it.")
        ui.button("Open a generation", icon="add", on_click=lambda: _open(view))
    await frame.live(lambda: view.ask(_seen), _draw)


def _draw(seen: Seen) -> None:
    with frame.panel():
        if not seen.generations:
            frame.nothing("There is none yet. Labeled images open the first one.", "understudy init FOLDER")
            return
        low, high = _scale(seen.generations)
        with frame.table("generation", "state", "student", "teacher", "accuracy on the holdout", "gain", "took"):
            for each in seen.generations:
                _line(each, low, high)


def _line(each: GenerationSummary, low: float, high: float) -> None:
    with frame.row():
        with frame.cell("us-nowrap"):
            frame.link(f"Generation {each.number}", f"/generations/{each.number}")
        with frame.cell():
            state(each)
        with frame.cell("us-mono us-nowrap"):
            frame.text(each.version or "–")
        with frame.cell("us-mono us-nowrap us-soft"):
            frame.text(each.teacher or "labels alone")
        with frame.cell("us-nowrap"):
            if each.report:
                measured = each.report.challenger
                is_promoted = each.state == GenerationState.PROMOTED
                picture = whisker(measured.interval, measured.accuracy, low, high, is_lit=is_promoted)
                with frame.element("span", "us-row us-tight"):
                    frame.text(words.percent(measured.accuracy), "us-figure-inline")
                    ui.html(picture, sanitize=False, tag="span")
            else:
                frame.text(_at_work(each), "us-soft")
        with frame.cell("us-nowrap"):
            gain = each.report.gain if each.report else None
            frame.text(words.points(gain.difference) if gain else "–")
        with frame.cell("us-nowrap us-soft"):
            frame.text(words.duration(each.ended_at - each.created_at) if each.ended_at else "")


def state(each: Generation | GenerationSummary) -> None:
    """The state of a generation as a badge."""
    frame.badge(each.state, KINDS.get(each.state, "busy"))


def _at_work(each: GenerationSummary) -> str:
    if each.job.problem:
        return each.job.problem.code
    share = f", {each.job.done / each.job.total:.0%}" if each.job.total else ""
    return f"{each.job.step or 'waits for the trainer'}{share}"


def _scale(generations: Sequence[GenerationSummary]) -> tuple[float, float]:
    """From where to where accuracies are drawn, the same for all."""
    intervals = [each.report.challenger.interval for each in generations if each.report]
    if not intervals:
        return 0.0, 1.0
    return min(one.low for one in intervals), max(one.high for one in intervals)


def whisker(interval: Interval, value: float, low: float, high: float, *, is_lit: bool) -> str:
    """An interval and what was measured, as a line of SVG 120 px wide."""
    width = max(high - low, 1e-9)
    left, right, dot = (6 + 108 * (each - low) / width for each in (interval.low, interval.high, value))
    said = f"95 % interval {words.percent(interval.low)} to {words.percent(interval.high)}"
    return (
        f'<svg class="us-whisker{" lit" if is_lit else ""}" viewBox="0 0 120 16" role="img" aria-label="{escape(said)}">'
        f'<line x1="{left:.1f}" x2="{right:.1f}" y1="8" y2="8"/><circle cx="{dot:.1f}" cy="8" r="4.5"/></svg>'
    )


# -- opening one ------------------------------------------------------------------------------------


async def _open(view: View) -> None:
    with ui.context.client.content:
        request = await _asked_for()
        if request is None:
            return
        opened = await frame.act(view, lambda client: client.generate(request), "The generation is open")
        if opened is not None:
            ui.navigate.to(f"/generations/{opened.number}")


async def _asked_for() -> GenerationRequest | None:
    """What the next generation shall be. None: it was thought better of."""
    choices = {AS_BEFORE: "as the generation before"} | {name: name for name in recipes.RECIPES}
    with ui.dialog() as dialog, ui.card().classes("us-dialog"):
        frame.text("Open a generation", tag="h2")
        frame.text("Label what is not labeled yet, select, train a student, let the gate judge it.", "us-soft", "p")
        recipe = ui.select(choices, value=AS_BEFORE, label="Recipe").props("outlined")
        meant = ui.label("").classes("us-soft us-small")
        student = ui.input("Student (architecture)", placeholder="the recipe's own").props("outlined")
        replaced = ui.textarea("Fields to replace, one on a line", placeholder="threshold=0.7\nstudent_steps=800")
        replaced.props("outlined autogrow input-class=us-mono")
        seed = ui.number("Seed", value=0, min=0, max=2**31 - 1, precision=0).props("outlined")
        refused = frame.element("div")

        def choose() -> None:
            meant.set_text(_purpose(recipe.value))

        def submit() -> None:
            refused.clear()
            try:
                dialog.submit(request_of(recipe.value, student.value, replaced.value, seed.value))
            except UnderstudyError as error:
                with refused:
                    frame.problem(error)

        recipe.on_value_change(choose)
        with frame.element("div", "us-row us-end"):
            ui.button("Cancel", on_click=lambda: dialog.submit(None)).props("flat")
            ui.button("Open it", on_click=submit)
    answer: GenerationRequest | None = await dialog
    dialog.delete()
    return answer


def _purpose(recipe: str) -> str:
    make = recipes.RECIPES.get(recipe)
    return (make.__doc__ or "").split("\n")[0] if make else ""


def request_of(recipe: str, student: str, replaced: str, seed: float | None) -> GenerationRequest:
    """The request that a form says. Raises RecipeRefused for what no recipe takes."""
    overrides = fields_of(replaced)
    chosen = recipe or None
    if chosen is not None:
        # As far as is known here: what depends on the catalog, the service refuses.
        recipes.recipe(chosen, overrides, Turn(generation=1, student=student.strip() or None))
    return GenerationRequest(recipe=chosen, student=student.strip() or None, overrides=overrides, seed=int(seed or 0))


def fields_of(lines: str) -> dict[str, Any]:
    """``field=value`` lines as fields: a value is JSON (``0.5``, ``null``), else text. Raises RecipeRefused."""
    fields: dict[str, Any] = {}
    for line in filter(None, map(str.strip, lines.splitlines())):
        name, is_there, value = (part.strip() for part in line.partition("="))
        if not (name and is_there):
            raise RecipeRefused(f"{line!r} is not FIELD=VALUE, as in threshold=0.5")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return fields


PAGE = Page("/generations", "Generations", build, icon="school")
