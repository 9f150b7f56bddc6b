"""One generation: how far it is, how it learns, what it learns from, what its student sees, and with which recipe."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Any, TypeVar

from nicegui import ui

from dashboard import charts, frame, words
from dashboard.frame import Page, View
from dashboard.pages import generations
from understudy.client import Client, RequestFailed
from understudy.generation_records import GenerationPlan
from understudy.label_records import Selection
from understudy.recipes import FIELDS, Recipe
from understudy.records import Generation, GenerationState, History, TrainingProgress
from understudy.tripwires import Tripwires

T = TypeVar("T")

#: How often a generation that is under way is looked at, and what it has written so far.
EVERY_S, FILES_EVERY_S = 1.0, 4.0
#: More classes than this are looked at in parts.
MAX_CLASSES_AT_ONCE = 40
PICTURES = {
    "augmented.jpg": (
        "As the student sees them",
        "The first images of its training, noised: labeled ones above, pseudo-labeled ones below.",
    ),
    "confusion.png": ("Confusion", "What the student takes for what, on the holdout."),
    "reliability.png": ("Reliability", "How often it is right when it is so sure."),
    "robustness.png": ("Robustness", "Its error under each corruption, by severity."),
}


@dataclass(frozen=True)
class Files:
    """What a generation has written by now. None: not yet, or there is none of it."""

    plan: GenerationPlan | None = None
    selection: Selection | None = None
    history: History | None = None
    pictures: Sequence[str] = ()


class _Looking:
    """Asks for one generation; what cannot change any more is asked for once."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._files: Files | None = None
        self._is_ended = False

    def turn(self, client: Client) -> Generation:
        """How far it is."""
        return client.generation(self._number)

    def files(self, client: Client) -> Files:
        """What it has written."""
        if self._files is not None and self._is_ended:
            return self._files
        is_ended = client.generation(self._number).state.is_ended  # before the files: none is missed
        known = self._files or Files()
        self._files = Files(
            known.plan or _if_there(lambda: client.generation_plan(self._number)),
            known.selection or _if_there(lambda: client.selection(self._number)),
            _if_there(lambda: client.history(self._number)),
            tuple(client.generation_pictures(self._number)),
        )
        self._is_ended = is_ended
        return self._files


def _if_there(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except RequestFailed as error:
        if error.status != 404:
            raise
        return None


async def build(view: View) -> None:
    """The page."""
    part = view.parts.get("number", "")
    number = int(part) if part.isascii() and part.isdigit() and len(part) < 10 else -1
    if number < 0:
        frame.nothing(f"{part} is no generation's number.")
        return
    looking, curves = _Looking(number), _Curves()

    def head(turn: Generation) -> None:
        _head(turn)
        curves.add(turn.job.metrics)

    def rest(files: Files) -> None:
        if files.selection is not None:
            _selection(files.selection, files.plan)
        _pictures(number, files.pictures)
        if files.plan is not None:
            _recipe(files.plan)

    async def written() -> Files:
        files = await view.ask(looking.files)
        curves.take(files.history)
        # The curves change in place: as long as nothing else does, nothing is drawn anew.
        return Files(files.plan, files.selection, None, files.pictures)

    await frame.live(lambda: view.ask(looking.turn), head, every_s=EVERY_S)
    curves.place()
    await frame.live(written, rest, every_s=FILES_EVERY_S)


# -- how far it is ----------------------------------------------------------------------------------

#: A step's first word in the job, and what it is called here; in the order in which they are done.
STEPS = (
    ("", "Plan"),
    ("wait", "Labels"),
    ("select", "Selection"),
    ("train", "Training"),
    ("calibrate", "Calibration"),
    ("export", "Export"),
    ("evaluate", "Evaluation"),
    ("gate", "Gate"),
)
#: These are not done where there is no teacher.
OF_A_TEACHER = {"wait", "select"}
#: Words of the job that belong to another step's.
SAME = {"make": "export"}


def _head(turn: Generation) -> None:
    with frame.element("div", "us-row us-between"):
        with frame.element("div", "us-row"):
            frame.text(f"Generation {turn.number}", tag="h1")
            generations.state(turn)
        with frame.element("div", "us-row"):
            if turn.number:
                frame.link("← before", f"/generations/{turn.number - 1}", "us-soft")
            if turn.version:
                frame.link("Compare with the champion", f"/compare?challenger={turn.version}")
    with frame.panel():
        _steps(turn)
        if turn.job.problem:
            frame.problem(Exception(turn.job.problem.detail))
        elif turn.report:
            frame.text("; ".join(turn.report.reasons), "us-soft", "p")
        _figures(turn)


def place_of(turn: Generation) -> int:
    """The step that a generation is at, an index into those that it has; all of them, if it is judged."""
    names = [name for name, _ in steps_of(turn)]
    if turn.state in (GenerationState.PROMOTED, GenerationState.REFUSED):
        return len(names)
    word = (turn.job.step or "").split(" ")[0]
    word = SAME.get(word, word)
    return names.index(word) if word in names else 0


def steps_of(turn: Generation) -> list[tuple[str, str]]:
    """The steps that a generation has."""
    return [each for each in STEPS if turn.teacher or each[0] not in OF_A_TEACHER]


def _steps(turn: Generation) -> None:
    at = place_of(turn)
    with frame.element("ol", "us-steps", aria_label="Steps"):
        for i, (_, title) in enumerate(steps_of(turn)):
            kind = "done" if i < at else "todo" if i > at else "failed" if turn.state.is_ended else "now"
            here = {"aria_current": "step"} if kind == "now" else {}
            with frame.element("li", f"us-step us-step-{kind}", **here):
                frame.text(title, "us-step-name")
                frame.text(_said_of(turn, kind), "us-soft us-small")


def _said_of(turn: Generation, kind: str) -> str:
    if kind != "now":
        return {"done": "done", "todo": "to come", "failed": "failed"}[kind]
    if turn.state == GenerationState.QUEUED:
        return "waits for the trainer"
    if not turn.job.total:
        return turn.job.step or "begins"
    return f"{turn.job.done:,} of {turn.job.total:,}"


def _figures(turn: Generation) -> None:
    with frame.element("div", "us-figures"):
        if not turn.state.is_ended and turn.job.metrics:
            for value, label in training_figures(turn.job.metrics):
                frame.figure(value, label, "us-mid")
        if turn.report:
            measured = turn.report.challenger
            frame.figure(
                words.percent(measured.accuracy), f"right, of {measured.num_images:,} of the holdout", "us-mid"
            )
            if turn.report.gain:
                frame.figure(words.points(turn.report.gain.difference), "beyond the champion", "us-mid")
        if turn.version:
            frame.figure(turn.version, "student", "us-mid")
        frame.figure(turn.teacher or "labels alone", "teacher", "us-mid")
        if turn.ended_at:
            frame.figure(words.duration(turn.ended_at - turn.created_at), "from opening to verdict", "us-mid")


def training_figures(now: TrainingProgress) -> list[tuple[str, str]]:
    """Values of a training that goes on, and what they are."""
    ema = "–" if now.ema_accuracy is None else words.percent(now.ema_accuracy)
    seen = f"EMA at step {now.ema_step:,}, {now.ema_images:,} images" if now.ema_step is not None else "EMA"
    return [
        (f"{now.step:,} / {now.num_steps:,}", "steps"),
        (f"{now.loss:.3f}", "loss"),
        (ema, seen),
        ("–" if now.images_per_second is None else f"{now.images_per_second:,.0f}", "images/s"),
        ("–" if now.eta_s is None else words.duration(now.eta_s), "left of the training"),
    ]


# -- the curves -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    labeled: float
    pseudo: float | None
    rate: float
    speed: float | None


@dataclass
class _Curves:
    """Plots that grow in place: what is written about once a minute, and between it what was seen here."""

    points: dict[int, _Point] = field(default_factory=dict)  #: by step
    accuracy: dict[int, float] = field(default_factory=dict)
    num_steps: int = 0
    _charts: Sequence[ui.echart] = ()

    def add(self, now: TrainingProgress | None) -> None:
        """The newest figures."""
        if now is None:
            return
        self.num_steps = now.num_steps
        self.points[now.step] = _Point(now.labeled_loss, now.pseudo_loss, now.learning_rate, now.images_per_second)
        if now.ema_step is not None and now.ema_accuracy is not None:
            self.accuracy[now.ema_step] = now.ema_accuracy
        self._show()

    def take(self, history: History | None) -> None:
        """What was written: it replaces what was seen until then."""
        if history is None:
            return
        written = {
            line.step: _Point(line.labeled_loss, line.pseudo_loss, line.learning_rate, line.images_per_second)
            for line in history.lines
        }
        last = max(written, default=0)
        self.points = written | {step: point for step, point in self.points.items() if step > last}
        self.accuracy |= {one.step: one.accuracy for one in history.validations}
        self.num_steps = history.num_steps
        self._show()

    def place(self) -> None:
        """Put the plots where they stand from now on."""
        with frame.panel("Training"), frame.element("div", "us-grid us-thirds"):
            self._charts = [
                charts.draw({"series": []}, described, height=230)
                for described in (
                    "Loss on labeled and on pseudo-labeled images, by step",
                    "Accuracy of the averaged student on the calibration half of the holdout, by step",
                    "Learning rate and images a second, by step",
                )
            ]
        self._show()

    def _show(self) -> None:
        made = (loss_plot(self), accuracy_plot(self), speed_plot(self))
        for chart, plot in zip(self._charts, made, strict=False):
            chart.options.clear()
            chart.options.update(plot)
            chart.update()

    def by_step(self, value: Callable[[_Point], float | None]) -> list[tuple[int, float]]:
        """One figure by step, where there is one."""
        found = ((step, value(point)) for step, point in sorted(self.points.items()))
        return [(step, round(number, 6)) for step, number in found if number is not None]


def _steps_axis(curves: _Curves) -> charts.Options:
    return charts.axis(min=0, max=curves.num_steps or 1, name="step", nameGap=6, splitLine={"show": False})


def loss_plot(curves: _Curves) -> charts.Options:
    """What is minimised."""
    series = [charts.line("loss, labeled", curves.by_step(lambda point: point.labeled), color=charts.LABELS)]
    if pseudo := curves.by_step(lambda point: point.pseudo):
        series.append(charts.line("loss, pseudo-labeled", pseudo, color=charts.CHALLENGER))
    return charts.options(_steps_axis(curves), charts.axis(scale=True, splitNumber=4), series)


def accuracy_plot(curves: _Curves) -> charts.Options:
    """The averaged student, for show."""
    seen = [(step, round(100 * share, 2)) for step, share in sorted(curves.accuracy.items())]
    series = [charts.line("EMA accuracy, %", seen, color=charts.CHAMPION, showSymbol=True, symbolSize=8)]
    shares = [share for _, share in seen] or [0.0, 100.0]
    low, high = max(0, floor(min(shares)) - 2), min(100, ceil(max(shares)) + 2)  # one dot alone has no scale
    return charts.options(_steps_axis(curves), charts.axis(min=low, max=high, splitNumber=4), series)


def speed_plot(curves: _Curves) -> charts.Options:
    """What the optimiser does, and how fast."""
    series = [
        charts.line("images/s", curves.by_step(lambda point: point.speed), color="#5b7db8"),
        charts.line("learning rate", curves.by_step(lambda point: point.rate), color=charts.GREY, yAxisIndex=1),
    ]
    speed, rate = charts.axis(min=0, splitNumber=4), charts.axis(min=0, splitNumber=4, splitLine={"show": False})
    return charts.options(_steps_axis(curves), [speed, rate], series)


# -- what it learns from ----------------------------------------------------------------------------


def _selection(chosen: Selection, plan: GenerationPlan | None) -> None:
    with frame.panel("Selection", _in_words(chosen)):
        charts.draw(selection_plot(chosen), f"Images of {len(chosen.per_class)} classes before and after the balance")
        for warning in chosen.warnings:
            frame.text(warning, "us-soft", "p")
        with frame.element("div", "us-grid"):
            if chosen.tripwires and plan:
                _tripwires(chosen.tripwires, plan.recipe)
            _yields(chosen, plan)


def _in_words(chosen: Selection) -> str:
    kept = f"{chosen.num_kept:,} of {words.plural(chosen.num_labels, 'pseudo-label')}"
    over = f"{chosen.num_candidates:,} are over {_threshold(chosen)}"
    lacking = f"; too few of {', '.join(chosen.starved[:5])}" if chosen.starved else ""
    none = f"; none of {', '.join(chosen.empty[:5])}" if chosen.empty else ""
    return f"{kept} are kept, {chosen.num_rows:,} with copies; {over}{lacking}{none}."


def _threshold(chosen: Selection) -> str:
    if chosen.thresholds == "fixed":
        return f"the threshold {chosen.threshold:g}"
    return f"their class's threshold ({chosen.thresholds})"


def selection_plot(chosen: Selection) -> charts.Options:
    """Of each class: over the threshold, kept by the balance, with copies; a line where the balance wants to be."""
    names, yields = list(chosen.per_class), list(chosen.per_class.values())
    bar = {"type": "bar", "barMaxWidth": 16, "barGap": "8%", "itemStyle": {"borderRadius": [3, 3, 0, 0]}}
    wanted = {
        "type": "scatter", "name": "wanted", "symbol": "rect", "symbolSize": [34, 2], "color": charts.CHALLENGER,
        "data": [one.target for one in yields], "z": 5,
    }  # fmt: skip
    series = [
        bar | {"name": "over the threshold", "data": [one.available for one in yields], "color": charts.GREY},
        bar | {"name": "kept", "data": [one.kept for one in yields], "color": charts.LABELS},
        bar | {"name": "with copies", "data": [one.rows for one in yields], "color": charts.CHAMPION},
        wanted,
    ]
    plot = charts.options(charts.axis("category", data=names), charts.axis(), series)
    if len(names) > MAX_CLASSES_AT_ONCE:
        share = 100 * MAX_CLASSES_AT_ONCE / len(names)
        plot |= {"dataZoom": [{"type": "slider", "start": 0, "end": share, "height": 16, "bottom": 4}]}
        plot["grid"] |= {"bottom": 58}
    return plot


def _tripwires(seen: Tripwires, recipe: Mapping[str, Any]) -> None:
    with frame.element("div"):
        frame.text("Tripwires", tag="h3")
        with frame.table("sign of a collapse", "seen#", "limit#", ""):
            for name, value, limit, is_least in (
                ("share that is kept", seen.kept_share, recipe.get("min_kept_share"), True),
                ("shift to one class", seen.class_shift, recipe.get("max_class_shift"), False),
                (_agreement(seen), seen.agreement, recipe.get("min_agreement"), True),
            ):
                with frame.row():
                    with frame.cell():
                        frame.text(name)
                    with frame.cell("us-right"):
                        frame.text(words.percent(value))
                    with frame.cell("us-right us-soft"):
                        frame.text("–" if limit is None else f"{'≥' if is_least else '≤'} {words.percent(limit)}")
                    with frame.cell("us-right"):
                        _sprung(value, limit, is_least=is_least)


def _agreement(seen: Tripwires) -> str:
    return f"agreement with {seen.compared_with}" if seen.compared_with else "agreement with the teacher before"


def _sprung(value: float | None, limit: float | None, *, is_least: bool) -> None:
    if value is None or limit is None:
        frame.badge("not checked")
    elif value < limit if is_least else value > limit:
        frame.badge("sprung", "bad")
    else:
        frame.badge("quiet", "good")


def _yields(chosen: Selection, plan: GenerationPlan | None) -> None:
    with frame.element("details", "us-more"):
        frame.text("Class by class", tag="summary")
        with frame.table("class", "labeled#", "from#", "over it#", "wanted#", "kept#", "with copies#"):
            for name, one in chosen.per_class.items():
                with frame.row():
                    with frame.cell():
                        frame.text(name)
                    labeled = plan.labeled_counts.get(name, 0) if plan else None
                    least = "none" if one.threshold is None else f"{one.threshold:.3g}"
                    for number in (words.count(labeled), least, one.available, one.target, one.kept, one.rows):
                        with frame.cell("us-right"):
                            frame.text(words.count(number) if isinstance(number, int) else number)


# -- what the student sees, and how it did ----------------------------------------------------------


def _pictures(number: int, names: Sequence[str]) -> None:
    shown = [name for name in PICTURES if name in names]
    if not shown:
        return
    with frame.element("div", "us-grid us-thirds"):
        for name in shown:
            title, said = PICTURES[name]
            with frame.panel(title, said, "us-all" if name == "augmented.jpg" else ""):
                address = f"/generations/{number}/pictures/{name}"
                with frame.element("a", href=address, target="_blank", aria_label=f"{title}, at full size"):
                    crisp = "us-drawn us-crisp" if name == "augmented.jpg" else "us-drawn"
                    frame.element("img", crisp, src=address, alt=said, loading="lazy")


# -- its recipe -------------------------------------------------------------------------------------


def _recipe(plan: GenerationPlan) -> None:
    told, usual = recipe_fields(plan.recipe)
    said = f"{plan.recipe.get('name')}: {plan.student}, {plan.num_parameters:,} parameters, seed {plan.seed}"
    with frame.panel("Recipe", said):
        _fields(told)
        with frame.element("details", "us-more"):
            frame.text(f"{words.plural(len(usual), 'field')} as in every recipe", tag="summary")
            _fields(usual)


@dataclass(frozen=True)
class Told:
    """A field of a recipe as it is told."""

    name: str
    value: str
    why: str  #: replaced, or of the recipe; empty: as usual
    meaning: str


def recipe_fields(recipe: Mapping[str, Any]) -> tuple[list[Told], list[Told]]:
    """The fields that are not as usual, those that were replaced first; and all others. Names that are gone, too."""
    asked = recipe.get("asked") or {}
    told: list[Told] = []
    for name, value in recipe.items():
        if name in ("name", "asked"):
            continue
        known = Recipe.model_fields.get(name) if name in FIELDS else None
        why = "replaced" if name in asked else "" if known and _is_usual(known.default, value) else "of the recipe"
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        told.append(Told(name, shown, why, (known.description or "") if known else ""))
    unusual = [one for one in told if one.why]
    unusual.sort(key=lambda one: one.why != "replaced")
    return unusual, [one for one in told if not one.why]


def _is_usual(default: Any, value: Any) -> bool:
    return bool(default == value or (isinstance(default, tuple) and list(default) == value))


def _fields(told: Sequence[Told]) -> None:
    with frame.table("field", "value", "", "meaning"):
        for one in told:
            with frame.row():
                with frame.cell("us-mono us-nowrap"):
                    frame.text(one.name)
                with frame.cell("us-mono"):
                    frame.text(one.value)
                with frame.cell("us-nowrap"):
                    if one.why:
                        frame.badge(one.why, "busy" if one.why == "replaced" else "")
                with frame.cell("us-soft us-sentence"):
                    frame.text(one.meaning)


PAGE = Page("/generations/{number}", "Generation", build)
