"""Waiting for a job that was begun, with a progress bar."""

from rich.progress import Progress

from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.records import Job, JobState


def follow(client: Client, job: Job, what: str, bar: Progress) -> Job:
    """The job when it has ended. Raises UnderstudyError with its problem if it has failed."""
    with bar:
        task = bar.add_task(what, total=None)
        ended = client.wait_for_job(job.id, lambda j: bar.update(task, completed=j.done, total=j.total))
    if ended.state == JobState.FAILED and ended.problem is not None:
        raise UnderstudyError(f"job {job.id} failed: {ended.problem.detail} ({ended.problem.code})")
    return ended
