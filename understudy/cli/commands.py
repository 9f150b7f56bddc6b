"""The command line: each command reads its words, calls the client or the local stack, and shows the answer.

A failure is one line on standard error and an exit code: 1 for what went wrong, 2 for wrong words.
"""

import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import understudy
from understudy import bench, demonstration, local
from understudy.cli import (
    buckets,
    compare,
    deployments,
    exports,
    gate,
    ingest,
    keys,
    labels,
    receipts,
    recipes,
    robustness,
    sources,
    watch,
)
from understudy.cli.following import follow
from understudy.cli.ingest import outcomes
from understudy.cli.options import AsJson, Key, Replaced, Url, replaced_fields
from understudy.cli.watch import follow_generation
from understudy.client import DEFAULT_URL, Client
from understudy.errors import UnderstudyError
from understudy.records import GenerationRequest, Job

app = typer.Typer(
    name="understudy",
    help="A self-improving image classifier that people run themselves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Start with `understudy demo`; then `understudy up`, `understudy init`, `understudy ingest`, "
    "`understudy generate`.",
)
app.add_typer(bench.app, name="bench")
for subject in (
    buckets, exports, ingest, keys, deployments, receipts, recipes, sources, labels, watch, gate, compare, robustness,
):  # fmt: skip
    app.add_typer(subject.app)
console = Console()
errors = Console(stderr=True)

DEFAULT_DATA = Path("understudy-data")


def main() -> None:
    """Run the command line; what is raised on purpose, or by the system, is told in one line."""
    try:
        app()
    except (UnderstudyError, OSError) as error:
        errors.print(f"understudy: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(understudy.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


@app.command()
def up(
    data: Annotated[Path, typer.Option(help="Folder of everything: made if it is not there.")] = DEFAULT_DATA,
    port: Annotated[int, typer.Option(help="Port of the service, on 127.0.0.1 only.", min=1, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(help="Labeling processes; one an accelerator.", min=1)] = 1,
    dashboard_port: Annotated[
        int | None,
        typer.Option(help="Port of the dashboard; default: the one after the service's.", min=1, max=65535),
    ] = None,
) -> None:
    """Start the whole system on this machine: Redis, service, worker and trainer. Ctrl-C stops it.

    Nothing has to be installed or configured; everything lives in the data folder, and a second start
    on the same folder goes on where the first one was.
    """
    _stop_on_sigterm()
    console.print(f"Starting Understudy on {data.resolve()} …", highlight=False)
    try:
        with local.running(
            data, port=port, dashboard_port=dashboard_port, num_workers=workers, on_line=_log_line
        ) as stack:
            for what, where in (
                ("dashboard", stack.dashboard_url),
                ("service", stack.url),
                ("API", f"{stack.url}/docs"),
                ("metrics", f"{stack.url}/metrics"),
                ("data", stack.data),
                ("log", stack.log_file),
            ):
                console.print(f"  {what:9} {where}", highlight=False, soft_wrap=True)
            console.print("Ready. Ctrl-C stops everything.")
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        console.print("Stopped.")


@app.command()
def init(
    labeled: Annotated[Path, typer.Option(exists=True, help="Folder or archive with one folder of images a class.")],
    holdout: Annotated[
        Path | None, typer.Option(exists=True, help="The same for the holdout; without it a share is frozen.")
    ] = None,
    holdout_fraction: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.99, help="Share of each class to freeze; default: 0.2 of the first set."),
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="Architecture of the first teacher, e.g. efficientnet_b0.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="How to train it; see `understudy recipes`.")] = None,
    replaced: Replaced = None,
    weights: Annotated[Path | None, typer.Option(exists=True, help="Pretrained weights, a safetensors file.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the first teacher serves.")] = True,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Send the labeled images: freezes the holdout and trains the first teacher (generation 0)."""
    with Client(url, key=key) as client:
        sent = client.weights(weights) if weights is not None else None
        asked = GenerationRequest(student=student, recipe=recipe, overrides=replaced_fields(replaced), weights=sent)
        job = client.labeled(labeled, holdout, holdout_fraction=holdout_fraction, request=asked)
        job = _follow_job(client, job, "reading the labeled images")
        result = job.result or {}
        console.print(f"{len(result.get('classes', {}))} classes; {outcomes(result)}")
        if wait and result.get("generation") is not None:
            follow_generation(client, result["generation"], errors)


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Image files.")],
    top_k: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 3,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Classify images with the champion."""
    with Client(url, key=key) as client:
        for image in images:
            answer = client.classify(image, top_k=top_k)
            if as_json:
                console.print_json(answer.model_dump_json())
                continue
            shown = ", ".join(f"{c.label} {c.probability:.1%}" for c in answer.predictions[0].classes)
            console.print(f"{image}: {shown}  [{answer.model}]", highlight=False, markup=False, soft_wrap=True)


@app.command()
def generate(
    student: Annotated[str | None, typer.Option(help="Architecture; default: the recipe's own.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="How to train; default: as the generation before; see `understudy recipes`.")
    ] = None,
    replaced: Replaced = None,
    weights: Annotated[Path | None, typer.Option(exists=True, help="Pretrained weights, a safetensors file.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives another student.")] = 0,
    wait: Annotated[bool, typer.Option(help="Wait for the gate's verdict.")] = True,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Open the next generation: select pseudo-labels, train a student, let the gate judge it."""
    with Client(url, key=key) as client:
        asked = GenerationRequest(student=student, recipe=recipe, overrides=replaced_fields(replaced), seed=seed)
        if weights is not None:
            asked = asked.model_copy(update={"weights": client.weights(weights)})
        generation = client.generate(asked)
        if not wait:
            console.print(f"generation {generation.number}")
            return
        follow_generation(client, generation.number, errors)


@app.command()
def status(url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Show what serves, the buckets, and the generations with their verdicts."""
    with Client(url, key=key) as client:
        ready, buckets, generations = client.readiness(), client.buckets(), client.generations()
    if as_json:
        everything: dict[str, Any] = {
            "ready": ready,
            "buckets": [b.model_dump(mode="json") for b in buckets],
            "generations": [g.model_dump(mode="json") for g in generations],
        }
        console.print_json(data=everything)
        return
    console.print(f"serving {ready['model'] or 'nothing yet'}", highlight=False)
    table = Table("bucket", "images", "labeled by the champion", "shards")
    for b in buckets:
        table.add_row(b.name, f"{b.num_images:,}", f"{b.num_images_labeled:,}", str(b.num_shards))
    console.print(table)
    table = Table("generation", "state", "model", "holdout accuracy", "step")
    for g in generations:
        accuracy = f"{g.report.challenger.accuracy:.1%}" if g.report else ""
        table.add_row(str(g.number), g.state, g.version or "", accuracy, g.job.step or "")
    console.print(table)


@app.command()
def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="End when the loop has turned, rather than keep serving.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write the table to this file as JSON.")] = None,
    data: Annotated[Path, typer.Option(help="Folder of the demo; emptied first if it is from a demo.")] = Path(
        "understudy-demo"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8000,
) -> None:
    """Watch real images go round the whole loop, on this machine, in a few minutes.

    30 labeled scans of handwritten digits train a first teacher; it labels 1,170 unlabeled ones; two
    students learn from both, and each that is proved better is swapped in under load.
    """
    _stop_on_sigterm()
    try:
        succeeded = demonstration.run(data, port=port, leave=leave, report=report, console=console)
    except KeyboardInterrupt:
        console.print("Stopped.")
        raise typer.Exit(130) from None
    raise typer.Exit(0 if succeeded else 1)


def _stop_on_sigterm() -> None:
    """Being told to end is the same as Ctrl-C, also where a script's background job ignores that."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _log_line(name: str, line: str) -> None:
    shown = Text.assemble((f"{name:10} ", "dim"), line)  # one call: several threads print
    console.print(shown, highlight=False, soft_wrap=True)


def _bar() -> Progress:
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=errors)


def _follow_job(client: Client, job: Job, what: str) -> Job:
    return follow(client, job, what, _bar())


if __name__ == "__main__":
    main()
