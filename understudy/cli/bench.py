"""``understudy bench``: shows what ``understudy.bench`` measures.

What measures, computes, or opens a catalog is imported when its command runs: it takes a second, which every other
command, and every TAB, would pay.
"""

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.following import waiting
from understudy.cli.options import AsJson, examples
from understudy.cli.output import console, say, show_json

app = typer.Typer(name="bench", help="Measure this machine.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Measure this machine."""


@app.command(
    "engine",
    epilog=examples("understudy bench engine", "understudy bench engine --artifact model.onnx --provider cpu --json"),
)
def engine(
    model: Annotated[str | None, typer.Option(help="Version to measure; default: the champion.")] = None,
    artifact: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="ONNX files to measure instead; the first is the base."),
    ] = None,
    data: Annotated[Path, typer.Option(help="Data folder to take the version from.")] = Path("understudy-data"),
    provider: Annotated[str, typer.Option(help="auto, cpu, cuda or tensorrt.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="Threads of each lane on a CPU; 0: as the service.")] = 0,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch to measure.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.0, help="Seconds to measure each batch size.")] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Print images/s per batch size, and what the service will choose on this machine."""
    from understudy import bench

    with waiting("measuring"):
        done = bench.run(
            model=model,
            artifact=artifact,
            data=data,
            provider=provider,
            threads=threads,
            max_batch=max_batch,
            seconds=seconds,
        )
    if as_json:
        show_json(bench.report(done.measured, done.choice, done.cores))
        return
    say(f"{done.version} on {done.kind}, {done.cores} cores")
    console.print(bench.table(done.measured))
    say(bench.sentence(done.choice))
    for reason in done.choice.reasons:
        say(f"  {reason}")
