"""``python -m benchmarks.training``: teacher, control and two students on real images, over several seeds.

With ``--keep FILE`` a run that was killed goes on after the last seed that it had finished.
"""

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks import kept, machine, sheets
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
    ablations: Annotated[
        str, typer.Option(help="sets of which also first students without noise, … are trained, at the first seed")
    ] = ",".join(SETTINGS),
    second_at: Annotated[
        str | None, typer.Option(help="seeds at which a second student is trained, such as 0; else at all")
    ] = None,
    threads: Annotated[int, typer.Option(help="of torch; results depend on it in the last digits")] = 1,
    folder: Annotated[
        Path | None, typer.Option(help="where 2 GB may be written; the system's temporary folder")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="a few steps of everything: to see that it works")] = False,
    keep: Annotated[Path | None, typer.Option(help="file of figures: what is in it is not measured again")] = None,
    write: Annotated[Path | None, typer.Option("--report", help="file to write the results to, as Markdown")] = None,
) -> None:
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for option, asked in (("sets", names), ("ablations", ablations)):
        if unknown := set(filter(None, asked.split(","))) - set(SETTINGS):
            console.print(f"--{option} {min(unknown)!r}: choose of {', '.join(SETTINGS)}", highlight=False)
            raise typer.Exit(2)
    torch.set_num_threads(threads)
    results = (
        kept.read(Results, keep)
        if keep is not None and keep.exists()
        else Results(described=machine.describe(PACKAGES))
    )
    bench = Bench(results, folder, quick, keep, console)
    for name in names.split(","):
        chosen = [int(seed) for seed in seeds.split(",")] if seeds else list(SETTINGS[name].seeds)
        for seed in chosen:
            bench.measure(
                name,
                seed,
                with_ablations=name in ablations.split(",") and seed == chosen[0],
                has_second=second_at is None or str(seed) in second_at.split(","),
            )
    sheets.show(report.every(results), console)
    if write is not None:
        report.write(results, write)
        console.print(f"written to {write}")


@dataclass(frozen=True)
class Bench:
    """What all seeds of all sets are measured with."""

    results: Results
    folder: Path | None
    is_quick: bool
    keep: Path | None
    console: Console

    def measure(self, name: str, seed: int, *, with_ablations: bool, has_second: bool) -> None:
        """One seed of one set, but for what is in the results already."""
        place = Path(tempfile.mkdtemp(dir=self.folder, prefix="training-benchmark-"))
        chain = Chain(name, SETTINGS[name], seed, place, self.is_quick, has_second)
        show = partial(self._show, f"{name}, seed {seed}", time.monotonic())
        chains, ablated = self.results.chains.setdefault(name, {}), self.results.ablations.setdefault(name, {})
        try:
            if seed not in chains:
                chains[seed] = chain.arms(show)
                self._save()
            if with_ablations and seed not in ablated:
                ablated[seed] = chain.ablated(show)
                self._save()
        finally:
            shutil.rmtree(place)

    def _show(self, what: str, began: float, arm: str, made: Arm) -> None:
        accuracies = ", ".join(f"{test} {100 * accuracy:.2f} %" for test, accuracy in made.accuracy.items())
        minutes = (time.monotonic() - began) / 60
        self.console.print(f"{what}, {arm}: {accuracies} ({minutes:.1f} min)", highlight=False)

    def _save(self) -> None:
        """The whole file or none of it: a run may be killed at any moment."""
        if self.keep is not None:
            beside = self.keep.with_name(f"{self.keep.name}.new")
            kept.write(self.results, beside)
            beside.replace(self.keep)


if __name__ == "__main__":
    app()
