"""Jobs and workers: where the labeling of every shard stands, who holds what, and what became of every job."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from nicegui import ui

from dashboard import frame, jobs, words
from dashboard.frame import Page, View
from understudy.client import Client
from understudy.records import Championship, Job, JobKind, JobState
from understudy.work_records import Holding, LabelFault, ShardMap, ShardStrip

K = TypeVar("K", JobKind, JobState)

#: Jobs, holders and failed shards that are shown.
SHOWN = 100
#: Squares of one screen; a link leads to the next.
SQUARES = 5000

#: A letter of the map: its class, and what it says.
STATES = {"d": "labeled", "r": "being labeled", "w": "waiting", "f": "failed"}


@dataclass(frozen=True)
class Seen:
    """What the page shows of one moment."""

    jobs: Sequence[Job]
    shards: ShardMap
    held: Sequence[Holding]
    faults: Sequence[LabelFault]
    champions: Sequence[Championship]
    minute: int  #: so that what is said of times past is said anew


async def build(view: View) -> None:
    """The page."""
    frame.heading("Jobs and workers", "What is being done, by whom, and what failed.")

    async def look() -> None:
        await shown()

    shown = await frame.live(lambda: view.ask(lambda client: _seen(client, view)), lambda now: _draw(view, now, look))


def _seen(client: Client, view: View) -> Seen:
    asked = {name: view.query[name] for name in ("version", "cursor") if view.query.get(name)}
    shards = client.shard_map(limit=SQUARES, **asked)
    return Seen(
        client.jobs(limit=SHOWN, kind=_one_of(JobKind, view, "kind"), state=_one_of(JobState, view, "state")),
        shards,
        client.work(limit=SHOWN),
        client.failed_labels(version=asked.get("version"), limit=SHOWN) if shards.num_failed else (),
        client.champions(),
        int(time.time() // 60),
    )


def _one_of(kind: type[K], view: View, name: str) -> K | None:
    """A choice of the address; what is none is no choice."""
    return next((each for each in kind if each.value == view.query.get(name)), None)


def _draw(view: View, now: Seen, look: jobs.Then) -> None:
    _map(view, now)
    _workers(now.held)
    if now.faults:
        _faults(now.faults)
    _jobs(view, now.jobs, look)


# -- the map ----------------------------------------------------------------------------------------


def _map(view: View, now: Seen) -> None:
    shards = now.shards
    with frame.panel("Shards", f"Each square is a shard, as {shards.version or 'the first champion'} labels it."):
        _versions(view, now)
        if not shards.num_shards:
            frame.nothing("Nothing has been ingested yet.", "understudy ingest FOLDER --bucket NAME")
            return
        counts = {"d": shards.num_done, "r": shards.num_running, "w": shards.num_waiting, "f": shards.num_failed}
        with frame.element("div", "us-figures"):
            for letter, number in counts.items():
                with frame.element("div", "us-figure"):
                    frame.text(words.count(number), "us-value")
                    with frame.element("span", "us-soft"):
                        frame.element("span", f"us-dot us-state-{letter}")
                        frame.text(STATES[letter])
        for strip in shards.strips:
            with frame.element("div", "us-strip"):
                frame.link(strip.bucket, f"/pseudo-labels?bucket={strip.bucket}", "us-strip-name")
                ui.html(squares(strip), sanitize=False)
        with frame.element("div", "us-row"):
            if view.query.get("cursor"):
                frame.link("← From the first", view.link(cursor=None))
            if shards.next:
                frame.link(f"The next {SQUARES:,} →", view.link(cursor=shards.next))


def squares(strip: ShardStrip) -> str:
    """A bucket's shards as squares, in a few bytes each; their letters are all that is in them."""
    counted = {letter: strip.states.count(letter) for letter in STATES}
    spoken = ", ".join(f"{number:,} {STATES[letter]}" for letter, number in counted.items() if number)
    drawn = "".join(f'<i class="{letter}"></i>' for letter in strip.states)
    return f'<div class="us-squares" role="img" aria-label="{spoken}">{drawn}</div>'


def _versions(view: View, now: Seen) -> None:
    """The champions that labeled, the newest first, as choices."""
    names = list(dict.fromkeys(each.version for each in now.champions))
    if len(names) < 2:
        return
    with frame.element("div", "us-row us-chips", role="group", aria_label="Teacher"):
        for name in names[:8]:
            here = {"aria_current": "true"} if name == now.shards.version else {}
            with frame.element("a", "us-chip", href=view.link(version=name, cursor=None), **here):
                frame.text(name)


# -- the workers ------------------------------------------------------------------------------------


def _workers(held: Sequence[Holding]) -> None:
    with frame.panel("Workers", "Who holds which work. A lease that lapses lets another take it."):
        if not held:
            frame.nothing("Nobody works on anything now.")
            return
        with frame.table("holder", "work", "of", "attempt#", "last sign", "lease", ""):
            for each in held:
                _holder(each)


def _holder(each: Holding) -> None:
    host, process = holder(each.owner)
    with frame.row():
        with frame.cell():
            frame.text(host)
            frame.text(f" · process {process}" if process else "", "us-soft")
        with frame.cell():
            frame.text("label a shard" if each.kind == "label" else f"{each.kind} {each.step or ''}")
        with frame.cell("us-soft"):
            of = (each.bucket, f"shard {each.shard}" if each.shard else None, each.version)
            frame.text(", ".join(filter(None, of)))
        with frame.cell("us-right"):
            frame.text(each.attempt)
        with frame.cell("us-soft us-still"):
            frame.text(words.ago(each.seen_at))
        with frame.cell("us-soft us-still"):
            frame.text(_lease(each))
        with frame.cell():
            frame.badge("stalled" if each.is_stalled else "at work", "bad" if each.is_stalled else "busy")


def _lease(each: Holding) -> str:
    if each.lease_until is None:
        return "none"
    left = each.lease_until - time.time()
    return f"lapsed {words.duration(-left)} ago" if left < 0 else f"for {words.duration(left)}"


def holder(owner: str | None) -> tuple[str, str]:
    """Host and process of a claim's owner, which is ``host:boot:container:process:began``."""
    host, *rest = (owner or "nobody").split(":")
    return host, rest[-2] if len(rest) == 4 else ""


def _faults(faults: Sequence[LabelFault]) -> None:
    with (
        frame.panel("Shards that failed", "They are tried again by themselves after a while."),
        frame.table("shard", "images#", "attempts#", "why", "when#"),
    ):
        for each in faults:
            _fault(each)


def _fault(each: LabelFault) -> None:
    with frame.row():
        with frame.cell():
            frame.text(f"{each.bucket} · {each.shard}")
        for number in (each.num_images, each.attempt):
            with frame.cell("us-right"):
                frame.text(words.count(number))
        with frame.cell("us-soft"):
            frame.text(f"{each.problem.code}: {each.problem.detail}" if each.problem else "")
        with frame.cell("us-right us-soft us-still"):
            frame.text(words.ago(each.failed_at))


# -- the jobs ---------------------------------------------------------------------------------------


def _jobs(view: View, found: Sequence[Job], look: jobs.Then) -> None:
    with frame.panel("Jobs"):
        with frame.element("div", "us-row us-apart"):
            for name, kind in (("kind", JobKind), ("state", JobState)):
                with frame.element("div", "us-row us-chips", role="group", aria_label=f"By {name}"):
                    for value in (None, *kind):
                        here = {"aria_current": "true"} if view.query.get(name) == value else {}
                        with frame.element("a", "us-chip", href=view.link(**{name: value}), **here):
                            frame.text(value or "all")
        if not found:
            frame.nothing("There is no such job." if view.query else "There is no job yet.")
            return
        with frame.table("job", "state", "what became of it", "", "opened#"):
            for job in found:
                _one(view, job, look)


def _one(view: View, job: Job, look: jobs.Then) -> None:
    with frame.row():
        with frame.cell():
            of = f"{job.kind} → {job.bucket}" if job.bucket else job.kind.value
            to = jobs.link_to(job)
            frame.link(of, to) if to else frame.text(of)
            frame.text(job.id, "us-mono us-soft us-under")
        with frame.cell():
            jobs.state(job)
        with frame.cell("us-soft"):
            if job.state.is_ended:
                frame.text(jobs.outcome(job))
            else:
                jobs.progress(job)
        with frame.cell():
            jobs.retry_button(view, job, look)
        with frame.cell("us-right us-soft us-still"):
            frame.text(words.ago(job.created_at))


PAGE = Page("/jobs", "Jobs", build, icon="checklist")
