"""``understudy watch``, and following a generation for the commands that open one: its steps and figures, its verdict."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from understudy.cli import completion
from understudy.cli.options import GATE_REFUSED, AsJson, Key, Url, examples
from understudy.cli.output import console, say
from understudy.client import DEFAULT_URL, Client
from understudy.errors import NotFound, UnderstudyError
from understudy.records import Generation, GenerationState, TrainingProgress

app = typer.Typer()

#: Where lines cannot be written over, a step has one at its beginning and one every tenth of it.
LINES_A_STEP = 10

Show = Callable[[Generation], None]


@app.command(epilog=examples("understudy watch", "understudy watch 3 --json"))
def watch(
    number: Annotated[
        int | None,
        typer.Argument(
            min=0,
            help="The generation; default: the newest.",
            show_default=False,
            autocompletion=completion.generations,
        ),
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Watch a generation until its verdict: its steps, loss, accuracy, images a second, time left.

    The accuracy is of the averaged student on a part of the holdout; nothing is chosen by it. Where the output is no
    terminal there is a line a step and one for each tenth of it; with --json a line for every change, as
    `GET /generations/N` answers. Exit code 1: it failed; 3: the gate refused the student.
    """
    with Client(url, key=key) as client:
        number = _newest(client) if number is None else number
        if as_json:
            ended = client.wait_for_generation(number, _json_lines(console))
            _refuse_failed(ended)
        else:
            ended = follow_generation(client, number, console)
    exit_by(ended)


def exit_by(ended: Generation) -> None:
    """Let a script know by the exit code that the gate refused the student."""
    if ended.state == GenerationState.REFUSED:
        raise typer.Exit(GATE_REFUSED)


def follow_generation(client: Client, number: int, screen: Console, *, as_json: bool = False) -> Generation:
    """Show on ``screen`` how a generation goes until it ends, then its verdict. Raises UnderstudyError if it failed."""
    with _bars(screen, number) if screen.is_terminal else _lines(screen) as show:
        ended = client.wait_for_generation(number, show)
    _refuse_failed(ended)
    if as_json:
        typer.echo(ended.model_dump_json())
        return ended
    report = ended.report
    assert report is not None  # a generation that was promoted or refused has one
    say(
        f"generation {number}: {ended.version} {ended.state}, {report.challenger.accuracy:.1%} on "
        f"{report.challenger.num_images} holdout images; {'; '.join(report.reasons)}",
    )
    return ended


def _newest(client: Client) -> int:
    generations = client.generations()
    if not generations:
        raise NotFound("there is no generation yet; open one with `understudy init` or `understudy generate`")
    return generations[0].number


def _refuse_failed(ended: Generation) -> None:
    if ended.state == GenerationState.FAILED:
        problem = ended.job.problem
        raise UnderstudyError(f"generation {ended.number} failed: {problem.detail if problem else 'see the log'}")


def figures(metrics: TrainingProgress) -> str:
    """The figures of a training run in a line."""
    parts = [f"loss {metrics.loss:.4g}"]
    if metrics.pseudo_loss is not None:
        parts[0] += f" (labeled {metrics.labeled_loss:.4g}, pseudo {metrics.pseudo_loss:.4g})"
    if metrics.ema_accuracy is not None:
        parts.append(f"EMA {metrics.ema_accuracy:.1%} on {metrics.ema_images} images at step {metrics.ema_step}")
    if metrics.images_per_second is not None:
        parts.append(f"{metrics.images_per_second:,.0f} images/s")
    if metrics.eta_s is not None and metrics.step < metrics.num_steps:
        parts.append(f"{_duration(metrics.eta_s)} left")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


# -- the ways to show ---------------------------------------------------------------------------------


class _Steps(Progress):
    """A bar for each step that was seen, and below them the figures of the training."""

    below: RenderableType = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield self.below


@contextmanager
def _bars(screen: Console, number: int) -> Iterator[Show]:
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _Steps(*columns, console=screen) as bars:
        seen: dict[str, TaskID] = {}

        def show(generation: Generation) -> None:
            job, step = generation.job, generation.job.step or generation.state
            if step not in seen:
                for passed in seen.values():
                    bars.stop_task(passed)
                seen[step] = bars.add_task(f"generation {number}: {step}", total=None)
            bars.update(seen[step], completed=job.done, total=job.total)
            if job.metrics is not None:
                bars.below = Text(figures(job.metrics), style="dim")

        yield show


@contextmanager
def _lines(screen: Console) -> Iterator[Show]:
    last: tuple[str, int] | None = None

    def show(generation: Generation) -> None:
        nonlocal last
        job, step = generation.job, generation.job.step or str(generation.state)
        tenth = LINES_A_STEP * job.done // job.total if job.total else 0
        if (step, tenth) == last:
            return
        last = step, tenth
        of_total = f" {job.done}/{job.total}" if job.total else ""
        known = f", {figures(job.metrics)}" if job.metrics is not None and step.startswith("train") else ""
        say(f"generation {generation.number}: {step}{of_total}{known}", screen)

    yield show


def _json_lines(screen: Console) -> Show:
    last: Generation | None = None

    def show(generation: Generation) -> None:
        nonlocal last
        heartless = generation.model_copy(update={"job": generation.job.model_copy(update={"updated_at": 0.0})})
        if heartless != last:
            last = heartless
            say(generation.model_dump_json(), screen)

    return show
