"""Jobs as every page shows them: their state in a badge, how far they are, and what became of them in a sentence."""

from collections.abc import Awaitable, Callable, Mapping

from nicegui import ui

from dashboard import frame, words
from dashboard.frame import View
from understudy.client import Client
from understudy.records import Job, JobKind, JobState, Outcome

Then = Callable[[], Awaitable[None]]  #: what follows on a button: the page looks at once

#: Codes of problems that are the system's own: only then another try may end otherwise.
OUR_FAULTS = frozenset({"stopped", "worker_fault", "gave_up"})
#: Jobs that end with a receipt.
WITH_RECEIPT = frozenset({JobKind.INGEST, JobKind.FETCH, JobKind.LABELED})

_KINDS = {JobState.SUCCEEDED: "good", JobState.FAILED: "bad", JobState.QUEUED: "", JobState.RECEIVING: "busy"}


def state(job: Job) -> None:
    """Its state."""
    frame.badge(job.state, _KINDS.get(job.state, "busy"))


def progress(job: Job) -> None:
    """How far it is: a bar where that is known, and the words beside it."""
    if job.total:
        share = min(1.0, job.done / job.total)
        with frame.element("div", "us-bar us-progress") as bar:
            bar.props["role"], bar.props["aria-valuenow"] = "progressbar", round(100 * share)
            bar.props["aria-label"] = f"{job.step or job.kind}"
            ui.element("div").style(f"width: {100 * share:.1f}%")
    frame.text(step(job), "us-soft")


def step(job: Job) -> str:
    """What it is doing, as far as it says."""
    if job.state == JobState.RECEIVING:
        return f"{words.num_bytes(job.done)} have arrived"
    if job.state == JobState.QUEUED:
        return "waits for a worker"
    done = f"{job.done:,} of {job.total:,}" if job.total else ""
    return ", ".join(filter(None, (job.step or "is at work", done)))


def outcome(job: Job) -> str:
    """What became of it, in a sentence; why it failed."""
    if job.problem is not None and job.state != JobState.SUCCEEDED:
        return f"{job.problem.code}: {job.problem.detail}"
    result: Mapping[str, object] = job.result or {}
    if "entries" in result:
        parts = [(result.get(each.value), each.value) for each in Outcome]
        return ", ".join(f"{number:,} {name}" for number, name in parts if isinstance(number, int) and number)
    if "verdict" in result:
        return f"{result.get('version')}: {result['verdict']}"
    return ", ".join(f"{name} {value}" for name, value in result.items() if isinstance(value, int | str))[:200]


def can_retry(job: Job) -> bool:
    """Whether another try may end otherwise, and is to be had."""
    is_ours = job.problem is not None and job.problem.code in OUR_FAULTS
    return job.state == JobState.FAILED and is_ours and job.kind != JobKind.GENERATION


def link_to(job: Job) -> str | None:
    """The page that shows what became of a job; None: this list is all there is."""
    if job.kind in WITH_RECEIPT:
        return f"/ingest?job={job.id}"
    if job.kind == JobKind.GENERATION and "generation" in job.params:
        return f"/generations/{job.params['generation']}"
    return None


def retry_button(view: View, job: Job, then: Then) -> None:
    """Have a failed job tried again, where that may help."""

    def retried(client: Client) -> Job:
        return client.retry_job(job.id)

    async def pressed() -> None:
        if await frame.act(view, retried, "Queued again."):
            await then()

    if can_retry(job):
        ui.button("Try again", on_click=pressed, color=None).classes("us-outline us-still").props("flat dense")
