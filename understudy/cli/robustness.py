"""``understudy robustness``: the trainer measures, in a process of its own; the words are passed on as they are."""

import subprocess
import sys

import typer

from understudy.cli.options import examples

app = typer.Typer()


@app.command(
    "robustness",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog=examples("understudy robustness --data understudy-data", "understudy robustness g0003-8f2c1a --json"),
)
def measure(context: typer.Context) -> None:
    """Measure a version under corruption, in films, under attack and on hard examples.

    Takes a VERSION (default: the champion) and --data, --images, --films, --attack, --reference, --alexnet,
    --folder, --out and --json. `python -m trainer.robustness --help` explains each.
    """
    raise typer.Exit(subprocess.run([sys.executable, "-m", "trainer.robustness", *context.args]).returncode)
