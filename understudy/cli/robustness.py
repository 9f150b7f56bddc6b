"""``understudy robustness``: the trainer measures, in a process of its own; the words are passed on as they are."""

import subprocess
import sys

import typer

app = typer.Typer()


@app.command(
    "robustness",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def measure(context: typer.Context) -> None:
    """Measure a version under corruption, in films, under attack and on hard examples (--help says how)."""
    raise typer.Exit(subprocess.run([sys.executable, "-m", "trainer.robustness", *context.args]).returncode)
