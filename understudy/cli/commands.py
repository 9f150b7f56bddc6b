"""The command line: each command reads its words, calls the client or the local stack, and shows the answer.

A failure is one line on standard error and an exit code: 1 for what went wrong, 2 for wrong words, 3 where the gate
refused the student that was waited for, 130 for Ctrl-C.
"""

import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

import understudy
from understudy.annotations.reading import Disagreement, Format
from understudy.cli import (
    bench,
    buckets,
    compare,
    corrections,
    deployments,
    doctor,
    exports,
    gate,
    ingest,
    keys,
    labels,
    loop,
    models,
    receipts,
    recipes,
    review,
    robustness,
    sources,
    watch,
    webhooks,
)
from understudy.cli.following import bar, follow, waiting
from understudy.cli.ingest import outcomes
from understudy.cli.labeled import (
    Control,
    DisagreementOption,
    DryRun,
    FormatOption,
    Images,
    Labels,
    Renamed,
    say_what_would_be_sent,
)
from understudy.cli.options import AsJson, Key, RecipeName, Replaced, Student, Url, asked, examples, replaced_fields
from understudy.cli.output import console, errors, say, show_json
from understudy.cli.watch import exit_by, follow_generation
from understudy.client import DEFAULT_URL, Client
from understudy.errors import UnderstudyError
from understudy.records import Classified, GenerationRequest, GenerationState

app = typer.Typer(
    name="understudy",
    help="A self-improving image classifier that people run themselves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Start with `understudy demo`; then `understudy up`, `understudy init`, `understudy ingest`, "
    "`understudy generate`.",
)
for subject in (
    bench, buckets, exports, ingest, keys, deployments, receipts, recipes, sources, labels, review, loop, watch, gate,
    compare, robustness, models, corrections, webhooks, doctor,
):  # fmt: skip
    app.add_typer(subject.app)

DEFAULT_DATA = Path("understudy-data")


def main() -> None:
    """Run the command line; what is raised on purpose, or by the system, is told in one line."""
    try:
        app()
    except (UnderstudyError, OSError) as error:
        say(f"understudy: {error}", errors, style="red")
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


@app.command(epilog=examples("understudy up", "understudy up --data /srv/photos --port 9000"))
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
    from understudy import local  # heavy: see ``understudy.cli.bench``

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


@app.command(
    epilog=examples(
        "understudy init photos/",
        "understudy init photos.zip --holdout holdout.zip --recipe small --json",
        "understudy init --holdout corrections/",
    )
)
def init(
    labels: Annotated[
        Path | None,
        typer.Argument(exists=True, help="Folder or archive of one folder a class, or a file of annotations."),
    ] = None,
    labeled: Annotated[
        Path | None, typer.Option(exists=True, help="The same, by name: folder or archive of one folder a class, ….")
    ] = None,
    holdout: Annotated[
        Path | None, typer.Option(exists=True, help="The same for the holdout; without it a share is frozen.")
    ] = None,
    holdout_fraction: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.99, help="Share of each class to freeze; default: 0.2 of the first set."),
    ] = None,
    student: Student = None,
    recipe: RecipeName = None,
    replaced: Replaced = None,
    weights: Annotated[Path | None, typer.Option(exists=True, help="Pretrained weights, a safetensors file.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the first teacher serves.")] = True,
    format: FormatOption = Format.AUTO,
    images: Images = None,
    disagreement: DisagreementOption = Disagreement.REFUSE,
    renamed: Renamed = None,
    control: Control = None,
    dry_run: DryRun = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Send the labeled images: freezes the holdout and trains the first teacher (generation 0).

    LABELS: a folder or archive of one folder a class, a CSV file of path,label, or an export of Label Studio (JSON,
    JSON-MIN) or CVAT (CVAT for images 1.1). See docs/moving.md. Later more may be sent, or more of a holdout alone.

    With --json the job, and then the generation if one was waited for, a line each. Exit code 3: the gate refused it.
    """
    is_alone = holdout and labels is labeled is None
    said = None if is_alone else Labels.asked(labels, labeled, format, images, disagreement, renamed, control)
    if dry_run:
        say_what_would_be_sent(said, console, as_json=as_json)
        return
    to_send = None if said is None else said.to_send(errors)
    fields = replaced_fields(replaced)
    with Client(url, key=key) as client:
        sent = _sent(client, weights) if weights else None
        request = asked(GenerationRequest, student=student, recipe=recipe, overrides=fields, weights=sent)
        with waiting("sending the labeled images"):
            job = client.labeled(to_send, holdout, holdout_fraction=holdout_fraction, request=request)
        job = follow(client, job, "reading the labeled images")
        result = job.result or {}
        if as_json:
            typer.echo(job.model_dump_json())
        else:
            console.print(f"{len(result.get('classes', {}))} classes; {outcomes(result)}")
        if wait and result.get("generation") is not None:
            ended = follow_generation(client, result["generation"], errors, as_json=as_json)
            if ended.state == GenerationState.PROMOTED and ended.version is not None:
                client.wait_until_serving(ended.version)  # the swap takes a second, and the next command may ask it
            exit_by(ended)


def _sent(client: Client, weights: Path) -> str:
    with waiting("sending the weights"):
        return client.weights(weights)


@app.command(epilog=examples("understudy classify photo.jpg", "understudy classify photos/*.jpg --top-k 1 --json"))
def classify(
    images: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Image files.")],
    top_k: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 3,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Classify images with the champion, many in a request. With --json a line an image.

    What is no image is said on standard error, and the exit code is 1 at the end; the others are answered.
    """
    num_refused = 0
    with Client(url, key=key) as client, bar() as progress:
        task = progress.add_task("classifying", total=len(images), visible=len(images) > 1)
        for image, answer in zip(images, client.classify_many(images, top_k=top_k), strict=True):
            num_refused += _show_classified(image, answer, as_json=as_json)
            progress.advance(task)
    if num_refused:
        raise typer.Exit(1)


def _show_classified(image: Path, answer: Classified, *, as_json: bool) -> bool:
    """Print what was said of an image; whether it was refused."""
    (prediction,) = answer.predictions
    if as_json:
        typer.echo(answer.model_dump_json())
    if prediction.problem is not None:
        say(f"understudy: {image}: {prediction.problem.detail}", errors, style="red")
        return True
    if not as_json:
        shown = ", ".join(f"{c.label} {c.probability:.1%}" for c in prediction.classes)
        say(f"{image}: {shown}  [{answer.model}]")
    return False


@app.command(
    epilog=examples(
        "understudy generate",
        "understudy generate --recipe tiny --set threshold=0.7 --seed 1",
        "understudy generate --no-wait --json",
    )
)
def generate(
    student: Student = None,
    recipe: RecipeName = None,
    replaced: Replaced = None,
    weights: Annotated[Path | None, typer.Option(exists=True, help="Pretrained weights, a safetensors file.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives another student.")] = 0,
    wait: Annotated[bool, typer.Option(help="Wait for the gate's verdict.")] = True,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Open the next generation: select pseudo-labels, train a student, let the gate judge it.

    With --json the generation as it was opened, or as it ended. Exit code 3: the gate refused the student.
    """
    request = asked(GenerationRequest, student=student, recipe=recipe, overrides=replaced_fields(replaced), seed=seed)
    with Client(url, key=key) as client:
        if weights is not None:
            request = request.model_copy(update={"weights": _sent(client, weights)})
        generation = client.generate(request)
        if wait:
            exit_by(follow_generation(client, generation.number, errors, as_json=as_json))
        elif as_json:
            typer.echo(generation.model_dump_json())
        else:
            console.print(f"generation {generation.number}")


@app.command(epilog=examples("understudy status", "understudy status --json --url http://photos.example:8000"))
def status(url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Show what serves, what starts next, the buckets, and the generations with their verdicts."""
    with Client(url, key=key) as client:
        ready, buckets, generations = client.readiness(), client.buckets(), client.generations()
        state = client.loop()
    if as_json:
        everything: dict[str, Any] = {
            "ready": ready,
            "loop": state.model_dump(mode="json"),
            "buckets": [b.model_dump(mode="json") for b in buckets],
            "generations": [g.model_dump(mode="json") for g in generations],
        }
        show_json(everything)
        return
    console.print(f"serving {ready['model'] or 'nothing yet'}", highlight=False)
    loop.show_next(state)
    table = Table("bucket", "images", "labeled by the champion", "shards")
    for b in buckets:
        table.add_row(b.name, f"{b.num_images:,}", f"{b.num_images_labeled:,}", str(b.num_shards))
    console.print(table)
    table = Table("generation", "state", "model", "holdout accuracy", "step")
    for g in generations:
        accuracy = f"{g.report.challenger.accuracy:.1%}" if g.report else ""
        table.add_row(str(g.number), g.state, g.version or "", accuracy, g.job.step or "")
    console.print(table)


@app.command(epilog=examples("understudy demo", "understudy demo --exit --report demo.json"))
def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="End when the loop has turned, rather than keep serving.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write the table to this file as JSON.")] = None,
    data: Annotated[Path, typer.Option(help="Folder of the demo; emptied first if it is from a demo.")] = Path(
        "understudy-demo"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8000,
    students: Annotated[int, typer.Option(min=1, max=9, help="Generations after the first teacher.")] = 2,
) -> None:
    """Watch real images go round the whole loop, on this machine, in a few minutes.

    30 labeled scans of handwritten digits train a first teacher; it labels 1,170 unlabeled ones; two
    students learn from both, and each that is proved better is swapped in under load.
    """
    from understudy import demonstration  # heavy: see ``understudy.cli.bench``

    _stop_on_sigterm()
    try:
        succeeded = demonstration.run(
            data, port=port, leave=leave, report=report, console=console, num_students=students
        )
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


if __name__ == "__main__":
    main()
