"""Waiting for a job that was begun, with a progress bar: on standard error, and on a terminal only."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from understudy.cli.output import errors
from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.records import Job, JobState


def bar(*columns: ProgressColumn) -> Progress:
    """A progress bar, by default of so many of so many; nothing where nobody watches: a log is no terminal.

    What is printed meanwhile goes where it would have gone: rich would send it to the bar's own screen.
    """
    usual = (
        TextColumn("{task.description:32}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    answers_seen = sys.stdout.isatty()
    return Progress(*(columns or usual), console=errors, disable=not errors.is_terminal, redirect_stdout=answers_seen)


def follow(client: Client, job: Job, what: str, shown: Progress | None = None) -> Job:
    """The job when it has ended. Raises UnderstudyError with its problem if it has failed."""
    with shown or bar() as progress:
        task = progress.add_task(what, total=None)
        ended = client.wait_for_job(job.id, lambda j: progress.update(task, completed=j.done, total=j.total))
    if ended.state == JobState.FAILED:
        why = f"{ended.problem.detail} ({ended.problem.code})" if ended.problem else "see the log"
        raise UnderstudyError(f"job {job.id} failed: {why}")
    return ended


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show that something goes on which nobody can measure."""
    with bar(TextColumn("{task.description}", markup=False), TimeElapsedColumn()) as progress:
        progress.add_task(what, total=None)
        yield


def until_serving(client: Client, version: str) -> None:
    """Wait until the service answers with a version."""
    with waiting(f"waiting until {version} serves"):
        client.wait_until_serving(version)
