"""``understudy watch``: what it shows of a generation on a terminal, in a pipe and as JSON, over a real service."""

import io
import json
from collections.abc import Callable, Sequence

import pytest
from rich.console import Console
from typer.testing import CliRunner

from understudy.catalog import Catalog, claims, generations, jobs, versions
from understudy.catalog.tables import JobRow
from understudy.cli import commands, watch
from understudy.errors import NotFound, UnderstudyError
from understudy.records import (
    GateReport,
    Generation,
    GenerationRequest,
    Job,
    JobKind,
    JobState,
    Problem,
    TrainingProgress,
)
from understudy.store import Store
from understudy.testing import picture, tiny_artifact, tiny_evaluation

Opened = tuple[Catalog, Store]
METRICS = TrainingProgress(
    step=120,
    num_steps=400,
    loss=2.114,
    labeled_loss=1.062,
    pseudo_loss=1.052,
    learning_rate=0.0041,
    images_per_second=1890.4,
    eta_s=79.2,
    ema_accuracy=0.83,
    ema_step=100,
    ema_images=240,
)
FIGURES = (
    "loss 2.114 (labeled 1.062, pseudo 1.052), EMA 83.0% on 240 images at step 100, 1,890 images/s, 1 min 19 s left"
)


def at(step: str | None, done: int = 0, total: int | None = None, **values: object) -> Generation:
    """Generation 3 as the service shows it."""
    state = values.pop("state", "running")
    job = Job(
        id="j", kind=JobKind.GENERATION, state=JobState.RUNNING, step=step, done=done, total=total, created_at=0,
        updated_at=values.pop("updated_at", 0.0), metrics=values.pop("metrics", None), problem=values.pop("problem", None),
    )  # fmt: skip
    request = GenerationRequest()
    return Generation(number=3, state=state, request=request, teacher=None, job=job, created_at=0, **values)


STORY = [
    at(None, state="queued"),
    at("select", 0, 4),
    at("train", 1, 400, metrics=METRICS.model_copy(update={"images_per_second": None, "eta_s": None})),
    at("train", 2, 400, metrics=METRICS),
    at("train", 120, 400, metrics=METRICS),
    at("export", 0, 1, metrics=METRICS),
]


class Telling:
    """Stands where a client does, and tells a story."""

    def __init__(self, story: Sequence[Generation]) -> None:
        self.story = story

    def wait_for_generation(self, number: int, on_progress: Callable[[Generation], None]) -> Generation:
        for generation in self.story:
            on_progress(generation)
        return self.story[-1]


FAILED = at("train", 130, 400, state="failed", problem={"code": "diverged", "detail": "lower learning_rate=0.1"})


def shown(story: Sequence[Generation], *, terminal: bool) -> str:
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with pytest.raises(UnderstudyError, match=r"generation 3 failed: lower learning_rate=0\.1"):
        watch.follow_generation(Telling([*story, FAILED]), 3, screen)  # type: ignore[arg-type]
    return screen.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_pipe_gets_a_line_a_step_and_a_line_a_tenth_of_it():
    """Whole lines, with the figures where there are any."""
    lines = shown(STORY, terminal=False).splitlines()

    first = FIGURES.rsplit(", ", 2)[0]
    assert lines == [
        "generation 3: queued",
        "generation 3: select 0/4",
        f"generation 3: train 1/400, {first}",
        f"generation 3: train 120/400, {FIGURES}",
        "generation 3: export 0/1",
        "generation 3: train 130/400",
    ]


def test_a_terminal_gets_a_bar_a_step_and_the_figures_below():
    """The steps that are passed stay to be seen."""
    last = shown(STORY, terminal=True).split("generation 3: queued")[-1]

    assert all(f"generation 3: {step}" in last for step in ("select", "train", "export"))
    assert FIGURES in last
    assert "130/400" in last


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599.6, "1 h 00 min"), (90_000, "25 h 00 min")],
)
def test_durations_are_said_as_people_do(seconds: float, words: str):
    """Seconds, then minutes, then hours."""
    assert watch._duration(seconds) == words


def test_a_first_teacher_has_shorter_figures():
    """No pseudo-labels, no validation yet, and at the end no time left."""
    metrics = METRICS.model_copy(update={"step": 400, "pseudo_loss": None, "ema_accuracy": None, "eta_s": 0.0})

    assert watch.figures(metrics) == "loss 2.114, 1,890 images/s"


def test_json_has_a_line_for_every_change():
    """A renewed lease is no change."""
    screen = Console(file=io.StringIO(), width=40)
    show = watch._json_lines(screen)
    for generation in [STORY[1], at("select", 0, 4, updated_at=9.0), STORY[2], STORY[2]]:
        show(generation)

    lines = [json.loads(line) for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert [line["job"]["step"] for line in lines] == ["select", "train"]
    assert lines[1]["job"]["metrics"]["ema_accuracy"] == 0.83


def test_watching_a_real_service_ends_with_the_generation(url: str, opened: Opened, teaching):
    """The newest generation by itself; it has failed, so the exit says so."""
    refused = CliRunner().invoke(commands.app, ["watch", "--url", url])
    assert isinstance(refused.exception, NotFound)
    assert "understudy init" in str(refused.exception)

    catalog, _ = opened
    teaching(*opened).shard(None, [picture(0, 3)], "a")
    generation = generations.open_generation(catalog, GenerationRequest())
    claim = claims.claim(catalog, JobRow, generation.job.id, lease_s=60)
    assert claim is not None
    jobs.progress(catalog, claim, "train", 120, 400, METRICS)
    jobs.fail(catalog, claim, Problem(code="diverged", detail="lower learning_rate=0.1"))

    done = CliRunner().invoke(commands.app, ["watch", "--json", "--url", url])
    assert "lower learning_rate=0.1" in str(done.exception)
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["state"], line["job"]["metrics"]["loss"]) == ("failed", 2.114)


def test_a_refusal_is_told_by_the_exit_code(url: str, opened: Opened, teaching):
    """3 for whoever waited, with the generation as JSON or the sentence; looking at the verdict is no failure."""
    catalog, _ = opened
    teaching(*opened).shard(None, [picture(0, 3)], "a")
    generation = generations.open_generation(catalog, GenerationRequest())
    claim = claims.claim(catalog, JobRow, generation.job.id, lease_s=60)
    assert claim is not None
    _, card = tiny_artifact(("a", "b"))
    versions.register(catalog, card)
    report = GateReport(
        generation=0, challenger=tiny_evaluation(card.version, "ab"), champion=None, gain=None, alpha=0.05,
        class_floor=0.1, verdict="refuse", rule="beats-guessing", reasons=("no better than a guess",),
    )  # fmt: skip
    generations.conclude(catalog, claim, 0, card.version, report)

    said = CliRunner().invoke(commands.app, ["watch", "--url", url])
    as_json = CliRunner().invoke(commands.app, ["watch", "0", "--json", "--url", url])
    looked_at = CliRunner().invoke(commands.app, ["gate", "--url", url])

    assert (said.exit_code, as_json.exit_code, looked_at.exit_code) == (3, 3, 0)
    assert "no better than a guess" in said.stdout
    assert json.loads(as_json.stdout)["state"] == "refused"
