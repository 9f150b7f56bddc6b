"""Ingest: images in, what became of every one of them, and the buckets that they lie in."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice

from nicegui import ui

from dashboard import charts, frame, jobs, words
from dashboard.frame import Page, View
from understudy.client import Client
from understudy.errors import NotFound, UnderstudyError
from understudy.records import NAME_PATTERN, BucketSummary, Job, JobKind, JobState, Outcome, Recall, ReceiptEntry

#: So many entries of a kind are shown; the whole receipt is a download.
SHOWN = 48
#: Uploads of late that are listed.
RECENT = 10

_BUCKET = r"[a-z0-9][a-z0-9._\-]{0,62}"
_SIZE = (
    "Files pass through the dashboard to the service and are not kept here; it takes up to 64 GB at a time unless it "
    "was set otherwise. If the line may break off, send a large archive from the command line, which goes on where it was:"
)
#: What each outcome is called, and its colour.
OUTCOMES: Mapping[Outcome, tuple[str, str]] = {
    Outcome.ACCEPTED: ("accepted", charts.LABELS),
    Outcome.DUPLICATE: ("there already", charts.GREY),
    Outcome.HOLDOUT_LEAK: ("in the holdout", charts.CHAMPION),
    Outcome.QUARANTINED: ("quarantined", charts.CHALLENGER),
    Outcome.ATTACHED: ("beside an image", "#5b7db8"),
}


@dataclass(frozen=True)
class Receipt:
    """What of a receipt is shown."""

    quarantined: Sequence[ReceiptEntry] = ()
    duplicates: Sequence[ReceiptEntry] = ()
    leaks: Sequence[ReceiptEntry] = ()
    entry: ReceiptEntry | None = None  #: the one that the address names


@dataclass(frozen=True)
class Seen:
    """What the page shows of one moment."""

    job: Job | None
    receipt: Receipt | None  #: None: there is none, or not yet
    buckets: Sequence[BucketSummary]
    recent: Sequence[Job]


async def build(view: View) -> None:
    """The page."""
    frame.heading("Ingest", "Unlabeled images in. Every one of them is accounted for.")
    buckets = await view.ask(Client.buckets)
    _send(view, [bucket.name for bucket in buckets])
    dialog = ui.dialog()
    receipts: dict[str, Receipt] = {}

    async def seen() -> Seen:
        return await view.ask(lambda client: _seen(client, view, receipts))

    async def look() -> None:
        await shown()

    shown = await frame.live(seen, lambda now: _drawn(view, now, dialog, look))


def _drawn(view: View, now: Seen, dialog: ui.dialog, look: jobs.Then) -> None:
    if now.job is not None:
        _job(view, now.job, now.receipt, look)
    _buckets(view, now.buckets, dialog, look)
    _recent(view, now)


def _seen(client: Client, view: View, receipts: dict[str, Receipt]) -> Seen:
    asked = view.query.get("job", "")
    if asked and not re.fullmatch(NAME_PATTERN, asked):
        raise NotFound(f"there is no job {asked!r}")
    job = client.job(asked) if asked else None
    if job is not None and "receipt_key" in (job.result or {}) and job.id not in receipts:
        receipts[job.id] = _receipt(client, job, view.query.get("entry", ""))
    recent = [each for each in client.jobs(limit=60) if each.kind in (*jobs.WITH_RECEIPT, JobKind.SYNC)]
    return Seen(job, receipts.get(job.id) if job else None, client.buckets(), recent[:RECENT])


def _receipt(client: Client, job: Job, entry: str) -> Receipt:
    result = job.result or {}

    def some(outcome: Outcome) -> tuple[ReceiptEntry, ...]:
        return tuple(_lines(client, job, outcome)) if result.get(outcome.value) else ()

    return Receipt(
        some(Outcome.QUARANTINED),
        some(Outcome.DUPLICATE),
        some(Outcome.HOLDOUT_LEAK),
        next(client.receipt(job.id, first=int(entry)), None) if entry.isdecimal() and len(entry) < 9 else None,
    )


def _lines(client: Client, job: Job, outcome: Outcome) -> Sequence[ReceiptEntry]:
    """The first lines of an outcome. Reading ends with them."""
    text = ""
    pieces = client.receipt_as(job.id, "ndjson", only=outcome)
    for piece in pieces:
        text += piece.decode()
        if text.count("\n") >= SHOWN:
            break
    pieces.close()  # type: ignore[attr-defined]  # a generator: it lets go of the connection
    return [ReceiptEntry(**json.loads(line)) for line in islice(text.splitlines(), SHOWN)]


# -- sending ----------------------------------------------------------------------------------------


def _send(view: View, buckets: Sequence[str]) -> None:
    with frame.panel(classes="us-sending"):
        with frame.element("form", "us-drop", data_send="/ingest/send", data_next="/ingest?job="):
            ui.html(_bucket_field(view, buckets), sanitize=False)
            _zone()
        frame.text(_SIZE, "us-soft us-small", "p")
        frame.text(
            f"understudy ingest FOLDER-OR-ARCHIVE --bucket {view.query.get('bucket') or 'holiday-photos'}", tag="code"
        )
        _source(view, buckets)


def _bucket_field(view: View, buckets: Sequence[str]) -> str:
    """Where the images go. As HTML of its own, because what is typed into a field of NiceGUI's is drawn over."""
    chosen = escape(view.query.get("bucket") or (buckets[0] if buckets else ""))
    known = "".join(f'<option value="{escape(name)}"></option>' for name in buckets)
    return (
        f'<label class="us-field"><span>Bucket</span><input name="bucket" value="{chosen}" placeholder="holiday-photos" '
        f'pattern="{_BUCKET}" maxlength="63" required list="us-buckets" autocomplete="off"></label>'
        f'<datalist id="us-buckets">{known}</datalist>'
    )


def _zone() -> None:
    with frame.element("div", "us-zone"):
        ui.icon("photo_library").props["aria-hidden"] = "true"
        with frame.element("p"):
            frame.text("Drop images, a folder, a zip or a tar here, or choose ")
            for what, attribute in (("files", "multiple"), ("a folder", "webkitdirectory")):
                with frame.element("label", "us-choose"):
                    frame.element("input", type="file", aria_label=f"Choose {what}").props[attribute] = True
                    frame.text(what)
        frame.element("p", "us-sent-words", role="status")
        with frame.element("div", "us-bar us-sent"):
            frame.element("div")


def _source(view: View, buckets: Sequence[str]) -> None:
    with frame.element("details", "us-more"):
        frame.text("Or take what lies elsewhere: S3, Google Cloud Storage, HTTPS", tag="summary")
        with frame.element("div", "us-row"):
            bucket = ui.input("Bucket", value=view.query.get("bucket") or (buckets[0] if buckets else ""))
            url = ui.input("URL", placeholder="s3://holiday-photos/2026/").classes("us-wide")

            async def add() -> None:
                job = await frame.act(
                    view, lambda client: client.add_source(bucket.value, url.value), "The workers have begun to look."
                )
                if job is not None:
                    ui.navigate.to(f"/ingest?job={job.id}")

            ui.button("Take these", on_click=add).props("unelevated")
        frame.text("Credentials are in the workers' environment, never in an address.", "us-soft us-small", "p")


# -- what became of an upload -----------------------------------------------------------------------


def _job(view: View, job: Job, receipt: Receipt | None, look: jobs.Then) -> None:
    with frame.panel(classes="us-receipt"):
        with frame.element("div", "us-row us-apart"):
            with frame.element("div", "us-row"):
                frame.text(_title(job), tag="h2")
                jobs.state(job)
            if receipt is not None:
                frame.link("Receipt as CSV", f"/receipts/{job.id}.csv")
        if not job.state.is_ended:
            jobs.progress(job)
        elif job.state == JobState.FAILED:
            with frame.element("div", "us-problem", role="alert"):
                frame.text(jobs.outcome(job))
            jobs.retry_button(view, job, look)
        if job.result and "entries" in job.result:
            _sums(job.result)
        elif job.state == JobState.SUCCEEDED:
            frame.text(jobs.outcome(job), "us-soft")
    if receipt is not None:
        _parts(view, job, receipt)


def _title(job: Job) -> str:
    names = [str(upload.get("name", "")) for upload in job.params.get("uploads", ())]
    what = names[0] if len(names) == 1 else words.plural(len(names), "file") if names else job.kind.value
    return f"{what} → {job.bucket}" if job.bucket else what


def parts_of(result: Mapping[str, object]) -> dict[str, tuple[int, str]]:
    """A job's result as the parts of one bar: they sum to its entries."""
    counted = {outcome: result.get(outcome.value, 0) for outcome in OUTCOMES}
    return {
        OUTCOMES[outcome][0]: (number, OUTCOMES[outcome][1])
        for outcome, number in counted.items()
        if isinstance(number, int) and (number or outcome in (Outcome.ACCEPTED, Outcome.QUARANTINED))
    }


def _sums(result: Mapping[str, object]) -> None:
    parts, entries = parts_of(result), int(str(result["entries"]))
    with frame.element("div", "us-tall"):
        charts.stacked_bar(parts)
    with frame.element("div", "us-figures"):
        for name, (number, colour) in parts.items():
            with frame.element("div", "us-figure"):
                frame.text(words.count(number), "us-value")
                with frame.element("span", "us-soft"):
                    frame.element("span", "us-dot").style(f"background: {colour}")
                    frame.text(f"{name}, {words.percent(number / entries if entries else None)}")
        frame.figure(words.count(entries), "entries in all")
        if near := result.get("near_duplicates"):
            frame.figure(words.count(int(str(near))), "of the accepted resemble another")
    reasons = result.get("reasons")
    if isinstance(reasons, dict) and reasons:
        with frame.element("div", "us-row"):
            frame.text("Why quarantined:", "us-soft")
            for reason, number in sorted(reasons.items(), key=lambda each: -each[1]):
                frame.badge(f"{reason} {number:,}")


def _parts(view: View, job: Job, receipt: Receipt) -> None:
    result = job.result or {}
    if receipt.entry is not None:
        _entry(receipt.entry)
    if receipt.quarantined:
        with frame.panel("Quarantined", "They cannot be used, and why. Their bytes are kept for a week."):
            with frame.element("div", "us-cards"):
                for line in receipt.quarantined:
                    _card(line, f"/quarantine/{job.id}/{line.index}?size=320", line.reason or "")
            _rest(len(receipt.quarantined), result.get("quarantined"))
            if job.kind == JobKind.INGEST:
                _try_quarantined(view, job)
    if receipt.duplicates:
        with frame.panel("There already", "The same bytes came before; each is linked to its first copy."):
            _copies(receipt.duplicates)
            _rest(len(receipt.duplicates), result.get("duplicate"))
    if receipt.leaks:
        with frame.panel("In the holdout", "What judges the models never trains them: these were left out."):
            _copies(receipt.leaks)
            _rest(len(receipt.leaks), result.get("holdout-leak"))


def _entry(line: ReceiptEntry) -> None:
    with frame.panel(f"Entry {line.index}"), frame.element("div", "us-cards"):
        if line.sha256 and line.outcome == Outcome.ACCEPTED:
            with frame.element("a", "us-card", href=f"/try?sha256={line.sha256}"):
                frame.thumbnail(line.sha256, size=320, alt=line.name)
                _said(line, line.outcome)
        else:
            with frame.element("div", "us-card"):
                _said(line, line.outcome)


def _card(line: ReceiptEntry, picture: str, reason: str) -> None:
    with frame.element("figure", "us-card"):
        frame.element("img", src=picture, alt="what can be seen of it", loading="lazy", decoding="async")
        _said(line, reason)


def _said(line: ReceiptEntry, word: str) -> None:
    with frame.element("figcaption"):
        frame.text(line.name, "us-name")
        frame.badge(word, "bad" if line.outcome == Outcome.QUARANTINED else "")
        if line.detail:
            frame.text(line.detail, "us-soft us-small")


def _copies(lines: Sequence[ReceiptEntry]) -> None:
    with frame.table("entry#", "name", "what it is", "first copy"):
        for line in lines:
            with frame.row():
                with frame.cell("us-right us-soft"):
                    frame.text(line.index)
                with frame.cell():
                    frame.text(line.name)
                with frame.cell("us-soft"):
                    frame.text(line.detail or line.outcome)
                with frame.cell():
                    job, _, index = (line.copy_of or "").partition("/")
                    if job:
                        frame.link(f"entry {index}", f"/ingest?job={job}&entry={index}")


def _rest(shown: int, number: object) -> None:
    if isinstance(number, int) and number > shown:
        frame.text(f"… and {number - shown:,} more: the CSV has every line.", "us-soft", "p")


def _try_quarantined(view: View, job: Job) -> None:
    async def again() -> None:
        made = await frame.act(view, lambda client: client.retry_quarantine(job.id), "They are tried again.")
        if made is not None:
            ui.navigate.to(f"/ingest?job={made.id}")

    with frame.element("div"):
        ui.button("Try these again", on_click=again, color=None).classes("us-outline").props("flat")


def _recent(view: View, seen: Seen) -> None:
    with frame.panel("Uploads of late"):
        if not seen.recent:
            frame.nothing("Nothing has come in yet. Drop images above.")
            return
        with frame.table("upload", "state", "what became of it", "when#"):
            for job in seen.recent:
                with frame.row():
                    with frame.cell():
                        frame.link(_title(job), f"/ingest?job={job.id}")
                    with frame.cell():
                        jobs.state(job)
                    with frame.cell("us-soft"):
                        jobs.progress(job) if not job.state.is_ended else frame.text(jobs.outcome(job))
                    with frame.cell("us-right us-soft us-still"):
                        frame.text(time.strftime("%d %b, %H:%M", time.localtime(job.created_at)))


# -- buckets ----------------------------------------------------------------------------------------


def _buckets(view: View, buckets: Sequence[BucketSummary], dialog: ui.dialog, look: jobs.Then) -> None:
    with frame.panel("Buckets", "Collections of unlabeled images, and how many of them the champion has labeled."):
        if not buckets:
            frame.nothing("There is none yet: the first upload makes one.")
            return
        with frame.table("bucket", "images#", "shards#", "size#", "labeled", ""):
            for bucket in buckets:
                _bucket(view, bucket, dialog, look)


def _bucket(view: View, bucket: BucketSummary, dialog: ui.dialog, look: jobs.Then) -> None:
    share = bucket.num_images_labeled / bucket.num_images if bucket.num_images else None
    with frame.row():
        with frame.cell():
            frame.link(bucket.name, f"/pseudo-labels?bucket={bucket.name}")
        for number in (words.count(bucket.num_images), words.count(bucket.num_shards)):
            with frame.cell("us-right"):
                frame.text(number)
        with frame.cell("us-right"):
            frame.text(words.num_bytes(bucket.num_bytes))
        with frame.cell("us-share"), frame.element("div", "us-row us-still"):
            with frame.element("div", "us-bar"):
                ui.element("div").style(f"width: {100 * (share or 0):.1f}%; background: {charts.LABELS}")
            frame.text(words.percent(share, 0), "us-soft")
        with frame.cell("us-right"):

            async def ask() -> None:
                await _ask_before(view, bucket.name, dialog, look)

            ui.button(icon="delete_outline", on_click=ask, color=None).classes("us-soft").props(
                f'flat dense aria-label="Delete {bucket.name}"'
            )


async def _ask_before(view: View, name: str, dialog: ui.dialog, look: jobs.Then) -> None:
    """Say what deleting a bucket would remove and which models it concerns, and do it when that is wanted."""
    try:
        recall = await view.ask(lambda client: client.delete_bucket(name, dry_run=True))
    except UnderstudyError as error:
        ui.notify(str(error), type="negative")
        return

    async def delete() -> None:
        dialog.close()
        if await frame.act(view, lambda client: client.delete_bucket(name), f"The bucket {name} is deleted."):
            await look()

    dialog.clear()
    with dialog, frame.element("div", "us-panel us-asked", role="alertdialog", aria_label=f"Delete {name}"):
        frame.text(f"Delete the bucket {name}?", tag="h2")
        for sentence in consequences(recall):
            frame.text(sentence, tag="p")
        with frame.element("div", "us-row"):
            ui.button("Keep it", on_click=dialog.close, color=None).classes("us-outline").props("flat autofocus")
            ui.button("Delete it", on_click=delete, color="negative").props("unelevated")
    dialog.open()


def consequences(recall: Recall) -> list[str]:
    """What deleting a bucket means, in sentences."""
    said = [
        f"{words.plural(recall.num_images, 'image')} in {words.plural(recall.num_shards, 'shard')} "
        f"({words.num_bytes(recall.num_bytes)}) and {words.plural(recall.num_label_sets, 'label set')} go for good."
    ]
    if recall.num_reviews:
        said.append(f"With them {words.plural(recall.num_reviews, 'review')} by people.")
    if recall.num_jobs:
        said.append(f"{words.plural(recall.num_jobs, 'job')} of it that have not ended will fail.")
    if recall.models:
        said.append(f"Trained on it: {', '.join(recall.models)}. They stay; what to do is yours to say.")
    if recall.descendants:
        said.append(f"Taught by those: {', '.join(recall.descendants)}.")
    return said if recall.models else [*said, "No model was trained on it."]


PAGE = Page("/ingest", "Ingest", build, icon="upload")
