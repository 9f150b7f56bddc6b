"""``python -m trainer.robustness`` (also ``understudy robustness``): how a version stands what its holdout does not show."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trainer import plots
from trainer.robustness import fgsm, hard_examples, measures, perturbations
from trainer.robustness.report import RobustnessReport, sentences, tables
from trainer.robustness.sample import Sample, sample
from understudy import registry, settings
from understudy.catalog import Catalog, shards, versions
from understudy.engine import Engine, available_cores
from understudy.errors import NotFound, UnderstudyError
from understudy.settings import TrainerSettings
from understudy.store import Store

console = Console()
errors = Console(stderr=True)

Bar = Callable[[str], Callable[[int, int], None]]  # a name → what a measurement tells how far it is


@dataclass(frozen=True)
class Asked:
    """What shall be measured of a version."""

    version: str | None  #: None: the champion
    reference: str | None  #: None: the first teacher that was promoted
    num_images: int  #: 0: no corruptions, no attack
    num_films: int  #: 0: none
    with_attack: bool
    with_alexnet: bool
    hard: Path | None


def measure(catalog: Catalog, store: Store, provider: str, asked: Asked, bar: Bar) -> RobustnessReport:
    """Measure what was asked of a version, and of its reference. Raises NotFound, NoChampion, Refused."""
    version = asked.version or registry.champion(catalog)
    load = partial(registry.load, store, catalog, provider=provider)
    engine = load(version)
    reference = asked.reference or versions.history(catalog)[0].version
    other = load(reference) if reference != version and (asked.num_images or asked.num_films) else None
    report = RobustnessReport(version=version)
    holdout = [shard.key for shard in shards.of_split(catalog, "holdout")]
    if asked.num_images:
        chosen = sample(store, holdout, asked.num_images)
        report = _corrupted(report, engine, other, chosen, asked.with_alexnet, bar)
        if asked.with_attack:
            # On the CPU, as when it was exported: the two must agree to 1e-4, which a GPU's short numbers do not.
            exact = registry.load(store, catalog, version, provider="cpu")
            served = fgsm.rebuilt(exact.card, store.get(exact.card.weights_key))
            attacked = fgsm.measure(exact, served, chosen, bar("gradient attack"))
            report = report.model_copy(update={"attacked": attacked})
    if asked.num_films:
        report = _filmed(report, engine, other, sample(store, holdout, asked.num_films), bar)
    if asked.hard is not None:
        hard = hard_examples.measure(engine, asked.hard, bar("hard examples"))
        report = report.model_copy(update={"hard": hard})
    return report


def _corrupted(
    report: RobustnessReport, engine: Engine, other: Engine | None, chosen: Sample, with_alexnet: bool, bar: Bar
) -> RobustnessReport:
    robustness = measures.measure(engine, chosen, bar(f"corruptions, {engine.version}"))
    reference = measures.measure(other, chosen, bar(f"corruptions, {other.version}")) if other else None
    return report.model_copy(
        update={
            "robustness": robustness,
            "reference": reference,
            "mce": measures.mce(robustness, reference) if reference else None,
            "mce_of_alexnet": (measures.mce_of_alexnet(robustness, len(engine.card.classes)) if with_alexnet else None),
        }
    )


def _filmed(
    report: RobustnessReport, engine: Engine, other: Engine | None, chosen: Sample, bar: Bar
) -> RobustnessReport:
    flips = perturbations.measure(engine, chosen, bar(f"films, {engine.version}"))
    reference = perturbations.measure(other, chosen, bar(f"films, {other.version}")) if other else {}
    return report.model_copy(
        update={
            "num_films": len(chosen),
            "flips": flips,
            "reference_flips": reference,
            "mfr": measures.mean_relative_error(flips, reference) if reference else None,
        }
    )


def show(
    version: Annotated[str | None, typer.Argument(help="Version to measure; default: the champion.")] = None,
    data: Annotated[Path, typer.Option(help="Data folder of the version and its holdout.")] = Path("understudy-data"),
    images: Annotated[int, typer.Option(min=0, help="Images of the holdout to corrupt in 75 ways; 0: none.")] = 100,
    films: Annotated[int, typer.Option(min=0, help="Images to make 10 films of 31 frames of each; 0: none.")] = 0,
    attack: Annotated[bool, typer.Option(help="Also one gradient step (FGSM) on the same images.")] = False,
    reference: Annotated[
        str | None, typer.Option(help="Version that mCE and mFR relate to; default: the first champion.")
    ] = None,
    alexnet: Annotated[
        bool, typer.Option("--alexnet", help="Also mCE against AlexNet; ImageNet's classes only.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of hard examples, a folder of images for each class.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write robustness.json and robustness.png to; made if not there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Measure a version under corruption, in films, under attack and on hard examples, on this installation's holdout."""
    asked = Asked(version, reference, images, films, attack, alexnet, folder)
    torch.set_num_threads(available_cores())
    with _opened(data) as (catalog, store, provider), _bars() as bar:
        report = measure(catalog, store, provider, asked, bar)
    if out is not None:
        _write(out, report)
    if as_json:
        console.print_json(report.model_dump_json())
        return
    for table in tables(report):
        console.print(table)
    for sentence in sentences(report):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _opened(data: Path) -> Iterator[tuple[Catalog, Store, str]]:
    read = settings.read(TrainerSettings, data=data)
    if read.catalog_url.startswith("sqlite") and not (read.data / "catalog.db").exists():
        raise NotFound(f"there is no data folder {data}; name one with --data")
    catalog = Catalog(read.catalog_url)
    try:
        yield catalog, Store(read.store_url), read.provider
    finally:
        catalog.close()


@contextmanager
def _bars() -> Iterator[Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=errors, transient=True) as progress:

        def bar(name: str) -> Callable[[int, int], None]:
            task = progress.add_task(name, total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield bar


def _write(folder: Path, report: RobustnessReport) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "robustness.json").write_bytes(report.to_json())
    if report.robustness is not None:
        (folder / "robustness.png").write_bytes(plots.robustness_heat_map(report.robustness))


def main() -> None:
    """Run the command; what is raised on purpose, or by the system, is told in one line."""
    try:
        typer.run(show)
    except (UnderstudyError, OSError) as error:
        errors.print(f"robustness: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
