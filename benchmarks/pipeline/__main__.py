"""``python -m benchmarks.pipeline``: ingest, labeling, selection and looking, each beside its limit.

Each part compares within itself; with ``--keep FILE`` the parts of several runs make one report.
"""

import os
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import kept, machine, sheets
from benchmarks.pipeline import catalog, ingest, labeling, report, selection
from benchmarks.pipeline.report import Results
from benchmarks.serving import photos

#: Tables are wide; what is no terminal gets this many columns.
FILE_WIDTH = 150
PACKAGES = ("duckdb", "numpy", "onnxruntime", "onnxruntime-gpu", "pillow", "pyarrow", "sqlalchemy")

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    num_photos: int  #: to ingest
    large: int  #: the same so many times, for the memory of a large archive; 0: not
    num_labeled: int  #: photos to label
    rounds: int
    rows: tuple[int, ...]  #: to select from
    looked_at: int  #: rows of which facets and pages are asked
    num_shards: int  #: in a catalog


PARTS = ("ingest", "large", "labeling", "selection", "looking", "catalog")
FULL = Plan(
    num_photos=1500,
    large=60,
    num_labeled=1200,
    rounds=3,
    rows=(10_000_000, 50_000_000),
    looked_at=1_000_000,
    num_shards=60,
)
QUICK = Plan(
    num_photos=200, large=0, num_labeled=120, rounds=1, rows=(100_000, 200_000), looked_at=50_000, num_shards=10
)


@app.command(help=__doc__)
def main(
    parts: Annotated[str, typer.Option(help="what is measured; large is the memory of a large ingest")] = ",".join(
        PARTS
    ),
    folder: Annotated[
        Path | None, typer.Option(help="where 25 GB may be written; the system's temporary folder")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="little of everything: to see that it works")] = False,
    keep: Annotated[Path | None, typer.Option(help="file of figures: those measured before are reported too")] = None,
    write: Annotated[Path | None, typer.Option("--report", help="file to write the results to, as Markdown")] = None,
) -> None:
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    if unknown := set(parts.split(",")) - set(PARTS):
        console.print(f"--parts {min(unknown)!r}: choose of {', '.join(PARTS)}", highlight=False)
        raise typer.Exit(2)
    described = machine.describe(PACKAGES)
    if os.getloadavg()[0] > 0.5:
        console.print(
            f"[yellow]this machine is not idle (load {os.getloadavg()[0]:.1f}); figures will be poor[/yellow]"
        )
    results = kept.read(Results, keep) if keep is not None and keep.exists() else Results()
    measure(results, QUICK if quick else FULL, parts.split(","), folder, console)
    if keep is not None:
        kept.write(results, keep)
    sheets.show(report.every(results), console)
    if write is not None:
        report.write(results, write, described)
        console.print(f"written to {write}")


def measure(results: Results, plan: Plan, parts: list[str], folder: Path | None, console: Console) -> None:
    """Everything asked for, in order."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="pipeline-benchmark-") as name:
        place = Path(name)
        if {"ingest", "large"} & set(parts):
            archive = _archive(place, plan.num_photos)
        if "ingest" in parts:
            with console.status(f"ingest of {plan.num_photos:,} photos"):
                results.ingest = ingest.apart(archive, rounds=plan.rounds)
        if "large" in parts and plan.large:
            with console.status(f"ingest of {plan.num_photos * plan.large:,} photos in one archive"):
                results.large_ingest = ingest.apart(archive, rounds=1, repeat=plan.large, place=place)
        if "labeling" in parts:
            with console.status(f"labeling of {plan.num_labeled:,} photos"):
                shard_images = plan.num_labeled // 6  # as many for each of two workers
                results.labeling = labeling.measure(
                    num_images=plan.num_labeled, shard_images=shard_images, rounds=plan.rounds
                )
        if "selection" in parts:
            results.selection.clear()
            for num_rows in plan.rows:
                with console.status(f"selection from {num_rows:,} rows"):
                    results.selection.append(selection.measure(num_rows, place))
        if "looking" in parts:
            with console.status(f"facets and pages of {plan.looked_at:,} rows"):
                results.looking = selection.measure_looking(plan.looked_at, place)
        if "catalog" in parts:
            with console.status(f"a catalog of {plan.num_shards:,} shards"):
                results.catalog = catalog.measure(plan.num_shards)


def _archive(folder: Path, num_photos: int) -> Path:
    path = folder / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for number, photo in enumerate(photos.make(1, num_photos)):
            info = tarfile.TarInfo(f"{number:06d}.jpg")
            info.size = len(photo)
            tar.addfile(info, BytesIO(photo))
    return path


if __name__ == "__main__":
    app()
