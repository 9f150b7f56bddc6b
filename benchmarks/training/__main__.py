"""``python -m benchmarks.training``: teacher, control and two students on real images, over several seeds.

With ``--keep FILE`` a run that was killed goes on after the last seed that it had finished.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks import machine, sheets
from benchmarks.training import report
from benchmarks.training.chain import Arm, Chain
from benchmarks.training.report import Results
from benchmarks.training.settings import SETTINGS

#: Tables are wide; what is no terminal gets this many columns.
FILE_WIDTH = 170
PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "pillow", "timm", "torch")

app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(
    names: Annotated[str, typer.Option("--sets", help="what is trained on")] = ",".join(SETTINGS),
    seeds: Annotated[
        str | None, typer.Option(help="such as 0,1,2; else six for digits and three for the others")
    ] = None,
    ablations: Annotated[bool, typer.Option(help="also first students without noise, …, at the first seed")] = True,
    threads: Annotated[int, typer.Option(help="of torch; results depend on it in the last digits")] = 1,
    folder: Annotated[
        Path | None, typer.Option(help="where 2 GB may be written; the system's temporary folder")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="a few steps of everything: to see that it works")] = False,
    keep: Annotated[Path | None, typer.Option(help="file of figures: what is in it is not measured again")] = None,
    write: Annotated[Path | None, typer.Option("--report", help="file to write the results to, as Markdown")] = None,
) -> None:
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    if unknown := set(names.split(",")) - set(SETTINGS):
        console.print(f"--sets {min(unknown)!r}: choose of {', '.join(SETTINGS)}", highlight=False)
        raise typer.Exit(2)
    torch.set_num_threads(threads)
    results = report.read(keep) if keep is not None and keep.exists() else Results(described=machine.describe(PACKAGES))
    for name in names.split(","):
        chosen = [int(seed) for seed in seeds.split(",")] if seeds else list(SETTINGS[name].seeds)
        for seed in chosen:
            measure(results, name, seed, folder, quick, ablations and seed == chosen[0], console)
            if keep is not None:
                keep.write_text(results.to_json())
    sheets.show(report.every(results), console)
    if write is not None:
        report.write(results, write)
        console.print(f"written to {write}")


def measure(
    results: Results, name: str, seed: int, folder: Path | None, is_quick: bool, with_ablations: bool, console: Console
) -> None:
    """One seed of one set, unless it is in the results already."""
    began = time.monotonic()

    def show(arm: str, made: Arm) -> None:
        accuracies = ", ".join(f"{test} {100 * accuracy:.2f} %" for test, accuracy in made.accuracy.items())
        minutes = (time.monotonic() - began) / 60
        console.print(f"{name}, seed {seed}, {arm}: {accuracies} ({minutes:.1f} min)", highlight=False)

    place = Path(tempfile.mkdtemp(dir=folder, prefix="training-benchmark-"))
    chain = Chain(name, SETTINGS[name], seed, place, is_quick)
    try:
        chains, ablated = results.chains.setdefault(name, {}), results.ablations.setdefault(name, {})
        if seed not in chains:
            chains[seed] = chain.arms(show)
        if with_ablations and seed not in ablated:
            ablated[seed] = chain.ablated(show)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    app()
