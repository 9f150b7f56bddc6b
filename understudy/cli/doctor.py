"""``understudy doctor``: what is well, what is not, and what to do."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from understudy import doctor, settings
from understudy.cli.following import waiting
from understudy.cli.options import AsJson, Key, examples
from understudy.client import DEFAULT_URL
from understudy.doctor import CHECKS, Finding, Patient, Verdict
from understudy.settings import Settings

app = typer.Typer()
console = Console()

COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "red"}
NAMES = tuple(check.name for check in CHECKS)


@app.command(
    "doctor",
    epilog=examples(
        "understudy doctor",
        "understudy doctor --data understudy-data --only disk --only database --json",
        "understudy doctor --url http://127.0.0.1:8000",
    ),
)
def examine(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data folder, as of `understudy up`. Default: what the environment says, or else ./understudy-data.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this check; may be repeated.",
            show_default=False,
            autocompletion=lambda incomplete: [name for name in NAMES if name.startswith(incomplete)],
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="UNDERSTUDY_URL",
            help=f"Address of the service, which ought to answer then. Default: {DEFAULT_URL}, if it does.",
            show_default=False,
        ),
    ] = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine, and what runs on it, and say what to do.

    GPU and driver, ONNX Runtime and torch, libraries, cores, limits, disk, database, clock, Redis, store and service.
    It works where nothing runs yet, changes nothing, and ends within two minutes. Exit code 1: a check failed;
    a warning is none.
    """
    chosen = settings.read(Settings) if data is None else settings.read(Settings, data=data, **_FILES)
    if unknown := set(only or ()) - set(NAMES):
        raise typer.BadParameter(f"there is no check {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    checks = [check for check in CHECKS if not only or check.name in only]
    patient = Patient.of(chosen, url, key)
    findings = []
    with waiting("examining"):
        for finding in doctor.examine(patient, checks):
            findings.append(finding)
            if not as_json:
                _say(finding)
    num_failed = sum(finding.verdict == Verdict.FAILED for finding in findings)
    if as_json:
        said = [finding.model_dump(mode="json") for finding in findings]
        console.print_json(data={"ok": not num_failed, "checks": said})
    else:
        num_warnings = sum(finding.verdict == Verdict.WARNING for finding in findings)
        console.print(f"{len(findings)} checks: {num_failed} failed, {num_warnings} warnings", highlight=False)
    if num_failed:
        raise typer.Exit(1)


#: With --data everything is in that folder, whatever the environment says.
_FILES = {"catalog_url": "", "store_url": "", "broker_url": ""}


def _say(finding: Finding) -> None:
    console.print(f"[{COLOURS[finding.verdict]}]{finding.verdict:8}[/] {finding.name:14}", end=" ", highlight=False)
    console.print(finding.seen, highlight=False, markup=False, soft_wrap=True)
    if finding.advice is not None:
        console.print(f"{'':24}→ {finding.advice}", highlight=False, markup=False, soft_wrap=True)
