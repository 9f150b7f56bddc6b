"""``python -m benchmarks.training.speed``: images/s of our training loop beside timm's script at the same work.

Same model, batch, size, optimizer, average and augmentation from the same JPEG files, on as many torch threads; ours
with its own loop, loader, checks and history, timm's as its script does it (see ``theirs``). The two take turns in one
run; the ratio is of the medians. On a GPU also how much of the time the device is busy, and which share of its peak.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import machine, sheets
from benchmarks.serving import photos
from benchmarks.sheets import Sheet, at_least
from benchmarks.training.theirs import Theirs
from trainer import data, model, train
from trainer.checkpoints import Checkpoints
from trainer.noise import Noise
from trainer.progress import Stopped
from understudy import cores, images, recipes
from understudy.recipes import Recipe
from understudy.shards import ShardWriter
from understudy.store import Store, sha256_of

#: As many as their loaders make ahead: what was made while the other had its turn does not count.
NUM_SETTLING = 5
NUM_CLASSES = 8
FILE_WIDTH = 150
PACKAGES = ("numpy", "pillow", "timm", "torch")
#: The side of the square matrices whose product is taken for the device's peak.
PEAK_SIDE = 8192

app = typer.Typer(add_completion=False)


@dataclass
class Figures:
    """What one contestant did in all its turns."""

    rates: list[float] = field(default_factory=list)  #: images/s, a turn each
    busy: list[float] = field(default_factory=list)  #: share of the time; empty without a GPU

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


class Ours:
    """Our real loop in a thread of its own, which takes a step when it is allowed one."""

    def __init__(self, store: Store, rows: data.Rows, student: nn.Module, recipe: Recipe, device: torch.device) -> None:
        self._allowed, self._done, self._stopping = threading.Semaphore(0), threading.Semaphore(0), threading.Event()
        noise = Noise(recipe)
        pictures = data.Pictures(store, noise, room=0)  # from the JPEG file each time, as timm's loader does
        self._run = train.Run(
            data.Batches(rows, None, pictures, noise, recipe, 0), Checkpoints(store, 0), recipe, recipe.teacher_steps,
            0, device, self._shown, self._stopping.is_set,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._train, args=(student,), name="ours")
        self._thread.start()
        self._done.acquire()  # the first step, with what is only done once

    def step(self) -> None:
        """Allow a step and wait for it."""
        self._allowed.release()
        self._done.acquire()

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._allowed.release(2)
        self._thread.join()

    def _train(self, student: nn.Module) -> None:
        try:
            self._run.train(student)
        except Stopped:
            return
        finally:
            self._done.release()

    def _shown(self, done: int, total: int) -> None:
        self._done.release()
        self._allowed.acquire()


def timed(step: Callable[[], None], num_steps: int, num_images: int, device: torch.device, into: Figures) -> None:
    """One turn: settle, then so many steps by the clock."""
    for _ in range(NUM_SETTLING):
        step()
    _finish(device)
    started = time.perf_counter()
    for _ in range(num_steps):
        step()
    _finish(device)
    into.rates.append(num_steps * num_images / (time.perf_counter() - started))


def busy_share(step: Callable[[], None], num_steps: int, device: torch.device) -> float:
    """Which share of the time of some steps the GPU has a kernel running, by torch's profiler."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    _finish(device)
    started = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(num_steps):
            step()
        _finish(device)
    seconds = time.perf_counter() - started
    spans = sorted(
        (e.time_range.start, e.time_range.end) for e in profile.events() or () if e.device_type.name == "CUDA"
    )
    busy, until = 0.0, 0.0
    for begin, end in spans:  # kernels of several streams overlap
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return busy / 1e6 / seconds


def peak_flops(device: torch.device) -> float:
    """What a large product of bf16 matrices reaches on the device, in operations a second."""
    a = torch.randn(PEAK_SIDE, PEAK_SIDE, device=device, dtype=torch.bfloat16)
    for _ in range(5):
        a @ a
    _finish(device)
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    _finish(device)
    return 20 * 2 * PEAK_SIDE**3 / (time.perf_counter() - started)


def flops_an_image(student: nn.Module, size: int) -> float:
    """Operations of one forward and backward pass."""
    counter = FlopCounterMode(display=False)
    with counter:
        student.train()(torch.zeros(2, 3, size, size)).sum().backward()
    student.zero_grad()
    return counter.get_total_flops() / 2


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def files(folder: Path, num_photos: int, store: Store, recipe: Recipe) -> data.Rows:
    """The same photos as a folder a class, and as one labeled shard; gives the shard's rows."""
    classes = [f"class{number}" for number in range(NUM_CLASSES)]
    writer = ShardWriter(folder / "labeled.tar", split="labeled", bucket=None)
    for number, photo in enumerate(photos.make(1, num_photos)):
        name = classes[number % NUM_CLASSES]
        path = folder / "images" / name / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo)
        writer.add(photo, sha256=sha256_of(path), name=path.name, facts=images.inspect(photo), class_name=name)
    manifest = writer.seal(store)
    return data.labeled_rows(store, [manifest.key], classes, recipe)


@app.command(help=__doc__)
def main(
    student: Annotated[str, typer.Option(help="any that a recipe may name")] = "efficientnet_b0",
    size: Annotated[int, typer.Option(help="side of the input, px")] = 128,
    batch: Annotated[int, typer.Option(help="images a step")] = 16,
    turns: Annotated[int, typer.Option(help="of each")] = 5,
    steps: Annotated[int, typer.Option(help="measured in a turn")] = 10,
    num_photos: Annotated[int, typer.Option("--photos", help="JPEG files of 500 × 375")] = 256,
    workers: Annotated[int, typer.Option(help="processes of timm's loader; 0: as many as cores")] = 0,
    device_name: Annotated[str, typer.Option("--device", help="torch's")] = "auto",
    write: Annotated[Path | None, typer.Option("--report", help="file to write the results to, as Markdown")] = None,
) -> None:
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    described = machine.describe(PACKAGES)
    device = model.device(device_name)
    torch.set_num_threads(max(1, cores.available() - 1))  # as our trainer does; more of them wait for each other
    num_steps = 10 * turns * (steps + NUM_SETTLING) + 1000
    fields = {"size": size, "labeled_batch": batch, "teacher_steps": num_steps, "checkpoint_every": num_steps}
    recipe = recipes.recipe("small", fields)
    fresh = [model.build(student, NUM_CLASSES, dropout=0.2, drop_path_rate=0.2) for _ in range(2)]
    flops = flops_an_image(model.build(student, NUM_CLASSES, dropout=0.0, drop_path_rate=0.0), size)
    figures = {"ours": Figures(), "timm's script": Figures()}
    with tempfile.TemporaryDirectory(prefix="speed-benchmark-") as name, console.status("taking turns"):
        store = Store((Path(name) / "store").as_uri())
        rows = files(Path(name), num_photos, store, recipe)
        ours = Ours(store, rows, fresh[0], recipe, device)
        theirs = Theirs(Path(name) / "images", fresh[1], recipe, workers or cores.available(), device)
        try:
            for _ in range(turns):
                for step, contestant in zip((ours.step, theirs.step), figures.values(), strict=True):
                    timed(step, steps, batch, device, contestant)
                    if device.type == "cuda":
                        contestant.busy.append(busy_share(step, steps, device))
        finally:
            ours.close()
            theirs.close()
    peak = peak_flops(device) if device.type == "cuda" else None
    made = report(figures, f"{student}, {size} px, batch {batch}", flops, peak)
    sheets.show(made, console)
    if write is not None:
        sheets.write(write, "Speed of training", "benchmarks.training.speed", described, made)


def report(figures: dict[str, Figures], title: str, flops: float, peak: float | None) -> list[Sheet]:
    """The verdict, and both contestants' turns."""
    ours, theirs = figures.values()
    targets = [at_least("images/s ÷ timm's script", ours.rate / theirs.rate, 1.0)]
    if ours.busy:
        targets.append(at_least("share of the time that the device is busy", statistics.median(ours.busy), 0.85))
    rows = [
        (
            name, f"{each.rate:.1f}", f"{min(each.rates):.1f}–{max(each.rates):.1f}",
            f"{statistics.median(each.busy):.0%}" if each.busy else "–",
            f"{each.rate * flops / peak:.1%}" if peak else "–",
        )
        for name, each in figures.items()
    ]  # fmt: skip
    note = "Medians over turns. Peak: a product of large bf16 matrices on the same device."
    columns = ("what", "images/s", "slowest–fastest turn", "device busy", "of its peak")
    return [sheets.verdicts(targets), Sheet(title, columns, rows, note)]


if __name__ == "__main__":
    app()
