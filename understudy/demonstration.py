"""The demo: real images go round the whole loop on one machine, through the public HTTP API only.

scikit-learn's handwritten digits (1,797 scans of 8 × 8 pixels): 30 with labels, about 1,170 without, 600
as holdout. A client keeps asking ``/classify`` all the time and counts what fails.
"""

import contextlib
import io
import json
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from understudy import images, local
from understudy.client import PATIENCE_S, POLL_S, Client, RequestFailed
from understudy.errors import Conflict, UnderstudyError
from understudy.records import (
    Generation,
    GenerationRequest,
    GenerationState,
    GenerationSummary,
    Job,
    JobState,
    ModelCard,
)

T = TypeVar("T")

RECIPE = "tiny"
BUCKET = "digits"
#: Enough that three labels a class leave room for improvement, and 600 images to prove it on.
LABELED_PER_CLASS, NUM_HOLDOUT = 3, 600
NUM_STUDENTS = 2
SEED = 0
#: The client asks this often; a laptop has cores to spare beside it.
ASK_EVERY_S = 0.02
#: Labeling takes about a second; a worker that was killed is back within its lease.
LABELING_TIMEOUT_S = 300.0
#: Marks a folder that the demo may empty.
MARKER = ".understudy-demo"


@dataclass(frozen=True)
class Digits:
    """The three parts as zip files in memory, and some images to keep asking about."""

    labeled: bytes
    holdout: bytes
    unlabeled: bytes
    asked: tuple[bytes, ...]
    counts: tuple[int, int, int]  #: labeled, holdout, unlabeled


@dataclass
class Ledger:
    """What the asking client saw: when each request ended, whether well, and which model answered."""

    answers: list[tuple[float, bool, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def num_failed(self) -> int:
        return sum(not ok for _, ok, _ in self.answers)

    def around_swap_to(self, model: str, seconds: float = 2.0) -> tuple[int, int]:
        """Requests served and failed within ``seconds`` of the first answer by ``model``."""
        first = next((at for at, ok, by in self.answers if ok and by == model), None)
        if first is None:
            return 0, 0
        near = [ok for at, ok, _ in self.answers if abs(at - first) <= seconds]
        return sum(near), len(near) - sum(near)


def run(
    data: Path, *, port: int, leave: bool, report: Path | None, console: Console, num_students: int = NUM_STUDENTS
) -> bool:
    """Run the demo; True if a student was promoted and no request failed."""
    began = time.monotonic()
    _empty(data)
    digits = split_digits()
    console.print(
        f"[bold]Understudy[/bold]: {digits.counts[0]} labeled digits, {digits.counts[2]:,} unlabeled, "
        f"{digits.counts[1]} as holdout. {num_students + 1} generations, about two minutes on two cores.\n",
        highlight=False,
    )
    with _progress(console) as bar:
        starting = bar.add_task("start Redis, service, worker, trainer", total=None)
        with local.running(data, port=port) as stack, Client(stack.url) as client:
            bar.update(starting, total=1, completed=1)
            ledger = Ledger()
            _first_teacher(client, digits, bar)
            with _asking(stack.url, digits.asked, ledger):
                _ingest(client, digits, bar)
                for number in range(1, num_students + 1):
                    _student(client, number, bar)
                time.sleep(2.0)  # what happens after the last swap counts too
            generations = client.generations()[::-1]
            bar.stop()
            cards = {m.id: m.card for m in client.models()}
            rows = [_row(g, cards.get(g.version or ""), ledger) for g in generations]
            _show(rows, ledger, console, time.monotonic() - began)
            if report is not None:
                report.write_text(json.dumps(_summary(rows, ledger, time.monotonic() - began), indent=1) + "\n")
            if not leave:
                _keep_serving(stack, digits, console)
    promoted = any(g.state == GenerationState.PROMOTED for g in generations if g.number > 0)
    return promoted and ledger.num_failed == 0


def split_digits() -> Digits:
    """scikit-learn's digits as PNG files: labeled and holdout in a folder a class, the rest in none."""
    from sklearn.datasets import load_digits  # takes a second to import, and only the demo needs it

    scans = load_digits()
    pixels = (scans.images * (255 / 16)).round().astype(np.uint8)  # (1797, 8, 8), 0..16 → 0..255
    order = np.random.default_rng(SEED).permutation(len(pixels))
    labeled = [i for c in range(10) for i in order[scans.target[order] == c][:LABELED_PER_CLASS]]
    rest = order[~np.isin(order, labeled)]
    holdout, unlabeled = rest[:NUM_HOLDOUT], rest[NUM_HOLDOUT:]
    encoded = {int(i): images.encode_png(pixels[i]) for i in order}

    def named(indices: Any) -> dict[str, bytes]:
        return {f"{scans.target[i]}/{i:04d}.png": encoded[int(i)] for i in indices}

    return Digits(
        labeled=_zip(named(labeled)),
        holdout=_zip(named(holdout)),
        unlabeled=_zip({f"{i:04d}.png": encoded[int(i)] for i in unlabeled}),
        asked=tuple(encoded[int(i)] for i in holdout[:50]),
        counts=(len(labeled), len(holdout), len(unlabeled)),
    )


def _zip(files: dict[str, bytes]) -> bytes:
    """An archive that is a function of its files: no entry bears the time at which it was packed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return packed.getvalue()


def _empty(data: Path) -> None:
    """Begin afresh, but only in a folder that is new or from a demo before."""
    if data.exists() and any(data.iterdir()):
        if not (data / MARKER).exists():
            raise Conflict(f"{data} is not empty and not from a demo; name another folder with --data")
        if local.is_running(data):
            raise Conflict(f"a demo runs on {data} already; stop it, or name another folder with --data")
        shutil.rmtree(data)
    data.mkdir(parents=True, exist_ok=True)
    (data / MARKER).touch()


# -- the steps ------------------------------------------------------------------------------------


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _sent(send: Callable[[], T]) -> T:
    """What was sent, when the service listens: one that was killed is back within seconds."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return send()
        except RequestFailed as error:
            if error.code != "not_connected" or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def _first_teacher(client: Client, digits: Digits, bar: Progress) -> None:
    asked = GenerationRequest(recipe=RECIPE, seed=SEED)
    job = _sent(lambda: client.labeled(io.BytesIO(digits.labeled), io.BytesIO(digits.holdout), request=asked))
    _finish(client, job, bar, "take the labeled images, freeze the holdout")
    first = _generation(client, 0, bar)
    if first.state != GenerationState.PROMOTED or first.version is None:
        why = first.job.problem.detail if first.job.problem else first.report and "; ".join(first.report.reasons)
        raise UnderstudyError(f"the first teacher was not promoted: {why}")
    client.wait_until_serving(first.version)


def _ingest(client: Client, digits: Digits, bar: Progress) -> None:
    job = _sent(lambda: client.ingest(BUCKET, io.BytesIO(digits.unlabeled)))
    _finish(client, job, bar, "unpack the unlabeled images")
    task = bar.add_task("pseudo-label them with the teacher", total=None)
    deadline = time.monotonic() + LABELING_TIMEOUT_S
    while time.monotonic() < deadline:
        (bucket,) = client.buckets()
        bar.update(task, total=bucket.num_images, completed=bucket.num_images_labeled)
        if bucket.num_images_labeled >= bucket.num_images:
            return
        time.sleep(0.2)
    raise UnderstudyError(f"not all images were labeled within {LABELING_TIMEOUT_S:.0f} s; the log says why")


def _student(client: Client, number: int, bar: Progress) -> None:
    _sent(lambda: client.generate(GenerationRequest(recipe=RECIPE, seed=SEED)))
    ended = _generation(client, number, bar)
    if ended.state == GenerationState.PROMOTED and ended.version is not None:
        client.wait_until_serving(ended.version)


def _finish(client: Client, job: Job, bar: Progress, what: str) -> None:
    task = bar.add_task(what, total=None)
    ended = client.wait_for_job(job.id, lambda j: bar.update(task, completed=j.done, total=j.total))
    if ended.state == JobState.FAILED:
        raise UnderstudyError(f"{what}: {ended.problem.detail if ended.problem else 'failed'}")
    entries = (ended.result or {}).get("entries", 1)
    bar.update(task, completed=entries, total=entries)


def _generation(client: Client, number: int, bar: Progress) -> Generation:
    task = bar.add_task(f"generation {number}", total=None)

    def show(g: Generation) -> None:
        step = g.job.step or "waits for the trainer"
        bar.update(task, description=f"generation {number}: {step}", completed=g.job.done, total=g.job.total)

    ended = client.wait_for_generation(number, show)
    accuracy = f", {ended.report.challenger.accuracy:.1%} on the holdout" if ended.report else ""
    bar.update(task, description=f"generation {number}: {ended.state}{accuracy}", completed=1, total=1)
    return ended


@contextlib.contextmanager
def _asking(url: str, asked: tuple[bytes, ...], ledger: Ledger) -> Iterator[None]:
    """Keep asking ``/classify`` from a thread until the block ends."""
    done = threading.Event()

    def ask() -> None:
        with Client(url, timeout_s=30, patience_s=0) as client:  # every failure counts
            count = 0
            while not done.wait(ASK_EVERY_S):
                try:
                    model = client.classify(asked[count % len(asked)], top_k=1).model
                    ledger.answers.append((time.monotonic(), True, model))
                except RequestFailed as error:
                    ledger.answers.append((time.monotonic(), False, ""))
                    ledger.faults.append(str(error))
                count += 1

    thread = threading.Thread(target=ask, name="asking", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


# -- what came out --------------------------------------------------------------------------------


def _row(g: GenerationSummary, card: ModelCard | None, ledger: Ledger) -> dict[str, Any]:
    measured = None if g.report is None else g.report.challenger
    is_swap = g.state == GenerationState.PROMOTED and g.number > 0  # before the first teacher nothing served
    served, failed = ledger.around_swap_to(g.version or "") if is_swap else (0, 0)
    return {
        "generation": g.number,
        "model": g.version,
        "state": str(g.state),
        "accuracy": measured and measured.accuracy,
        "interval": measured and [measured.interval.low, measured.interval.high],
        "p_value": g.report.gain.p_value if g.report and g.report.gain else None,
        "reasons": list(g.report.reasons) if g.report else [],
        "human_labels": card and card.data["num_labeled"],
        "pseudo_labels": card and card.data.get("num_kept", 0),
        "training_seconds": card and round(card.training["seconds"], 1),
        "served_during_swap": served,
        "failed_during_swap": failed,
    }


def _summary(rows: list[dict[str, Any]], ledger: Ledger, seconds: float) -> dict[str, Any]:
    totals = {"requests": len(ledger.answers), "requests_failed": ledger.num_failed, "seconds": round(seconds, 1)}
    return {"generations": rows, **totals}


def _show(rows: list[dict[str, Any]], ledger: Ledger, console: Console, seconds: float) -> None:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("gen", "model", "accuracy", "labels", "trained", "at its swap", "verdict"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(str(row["generation"]), row["model"] or "", *_cells(row))
    console.print(table, highlight=False)
    console.print(
        f"{len(ledger.answers):,} requests to /classify since the first teacher served, {ledger.num_failed} failed; "
        f"{seconds:.0f} s in all.",
        highlight=False,
    )
    for fault in ledger.faults[:3]:
        console.print(f"  failed: {fault}", style="red", markup=False)
    for row in rows:
        if row["state"] == GenerationState.REFUSED:
            console.print(
                f"Generation {row['generation']} was refused: {'; '.join(row['reasons'])}. No proof, no promotion: "
                f"that is the product working.",
                highlight=False,
            )


def _cells(row: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """Accuracy, labels, training, swap and verdict of a generation, in words."""
    if row["accuracy"] is None:
        return "", "", "", "", row["state"]
    low, high = row["interval"]
    labels = f"{row['human_labels']:,} human\n{row['pseudo_labels']:,} pseudo"
    swap = f"{row['served_during_swap']} served\n{row['failed_during_swap']} failed"
    return (
        f"{row['accuracy']:.1%}\n{100 * low:.1f}–{100 * high:.1f}",
        labels if row["pseudo_labels"] else f"{row['human_labels']:,} human",
        f"{row['training_seconds']:.0f} s",
        swap if row["served_during_swap"] else "",
        row["state"] + (f"\np = {row['p_value']:.1g}" if row["p_value"] is not None else ""),
    )


def _keep_serving(stack: local.Stack, digits: Digits, console: Console) -> None:
    example = stack.data / "digit.png"
    example.write_bytes(digits.asked[0])
    console.print(
        f"\nStill serving on {stack.url}. Try, from another terminal:\n\n"
        f"  curl --data-binary @{example} {stack.url}/classify?top_k=3\n\n"
        f"look at {stack.dashboard_url} in a browser, and at {stack.url}/docs. Then do it with your own images: `understudy up`, `understudy init`,\n"
        f"`understudy ingest`, `understudy generate`. Ctrl-C stops the demo.",
        highlight=False,
        soft_wrap=True,
    )
    while True:
        time.sleep(3600)
