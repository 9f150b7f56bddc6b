"""``python -m benchmarks.training.options``: what channels-last, bf16 and ``torch.compile`` do to a training step here.

One student, one batch of random pixels, forward and backward and an optimizer's step, in turns within one run; as a
loop would have it but for the loader. It tests the recipes' defaults (fp32 on a CPU, bf16 on a GPU, not compiled), which are older.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import nn

from benchmarks import machine, sheets
from benchmarks.sheets import Sheet
from benchmarks.training.speed import FILE_WIDTH, NUM_CLASSES, PACKAGES, Figures, timed
from trainer import model
from understudy import cores

#: What is changed of the first of them, which has channels last, full precision and no compiler.
OPTIONS = ("channels-last, fp32", "channels first", "bf16", "compiled", "compiled, bf16")

app = typer.Typer(add_completion=False)


def stepping(name: str, student: nn.Module, pixels: torch.Tensor, device: torch.device) -> Callable[[], None]:
    """What takes one step of a student under one option. ``pixels`` is (N, 3, size, size) float32."""
    order = torch.contiguous_format if name == "channels first" else torch.channels_last
    net = student.to(device, memory_format=order).train()  # type: ignore[call-overload]
    batch = pixels.to(device).contiguous(memory_format=order)
    truth = torch.arange(len(batch), device=device) % NUM_CLASSES
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    forward = torch.compile(net) if "compiled" in name else net
    is_half = "bf16" in name

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
            loss = nn.functional.cross_entropy(forward(batch).float(), truth)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


@app.command(help=__doc__)
def main(
    student: Annotated[str, typer.Option(help="any that a recipe may name")] = "efficientnet_b0",
    size: Annotated[int, typer.Option(help="side of the input, px")] = 128,
    batch: Annotated[int, typer.Option(help="images a step")] = 16,
    turns: Annotated[int, typer.Option(help="of each")] = 5,
    steps: Annotated[int, typer.Option(help="measured in a turn")] = 6,
    device_name: Annotated[str, typer.Option("--device", help="torch's")] = "auto",
    write: Annotated[Path | None, typer.Option("--report", help="file to write the results to, as Markdown")] = None,
) -> None:
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    described = machine.describe(PACKAGES)
    device = model.device(device_name)
    torch.set_num_threads(cores.available())
    pixels = torch.rand(batch, 3, size, size)
    figures, firsts, taking = {}, {}, {}
    for name in OPTIONS:
        fresh = model.build(student, NUM_CLASSES, dropout=0.2, drop_path_rate=0.2)
        taking[name], figures[name] = stepping(name, fresh, pixels, device), Figures()
        began = time.perf_counter()
        taking[name]()
        firsts[name] = time.perf_counter() - began
    with console.status("taking turns"):
        for _ in range(turns):
            for name, step in taking.items():
                timed(step, steps, batch, device, figures[name])
    made = [report(f"{student}, {size} px, batch {batch}, {device.type}", figures, firsts)]
    sheets.show(made, console)
    if write is not None:
        sheets.write(write, "Options of a training step", "benchmarks.training.options", described, made)


def report(title: str, figures: dict[str, Figures], firsts: dict[str, float]) -> Sheet:
    """A line an option; the ratio is the median over the turns of that to the first option's in the same turn."""
    base = figures[OPTIONS[0]].rates
    rows = [
        (
            name,
            f"{each.rate:.1f}",
            f"{statistics.median(one / other for one, other in zip(each.rates, base, strict=True)):.2f}",
            f"{firsts[name]:.1f}",
        )
        for name, each in figures.items()
    ]
    note = "Medians over turns. The first step has what is done once: with a compiler, compiling."
    return Sheet(title, ("option", "images/s", "÷ the first", "first step, s"), rows, note)


if __name__ == "__main__":
    app()
