"""``understudy doctor``: what is well, what is not, and what to do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy import settings
from understudy.cli.following import waiting
from understudy.cli.options import AsJson, Key, examples
from understudy.cli.output import console, say, show_json
from understudy.client import DEFAULT_URL
from understudy.settings import Settings

if TYPE_CHECKING:
    from understudy.doctor import Finding

app = typer.Typer()

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def _names(incomplete: str) -> list[str]:
    from understudy import doctor

    return [check.name for check in doctor.CHECKS if check.name.startswith(incomplete)]


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
            autocompletion=_names,
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
    from understudy import doctor  # heavy: see ``understudy.cli.bench``

    chosen = settings.read(Settings) if data is None else settings.read(Settings, data=data, **_FILES)
    if unknown := set(only or ()) - set(_names("")):
        raise typer.BadParameter(f"there is no check {', '.join(sorted(unknown))}; there are {', '.join(_names(''))}")
    checks = [check for check in doctor.CHECKS if not only or check.name in only]
    patient = doctor.Patient.of(chosen, url, key)
    findings = []
    with waiting("examining"):
        for finding in doctor.examine(patient, checks):
            findings.append(finding)
            if not as_json:
                _say(finding)
    num_failed = sum(finding.verdict == doctor.Verdict.FAILED for finding in findings)
    if as_json:
        said = [finding.model_dump(mode="json") for finding in findings]
        show_json({"ok": not num_failed, "checks": said})
    else:
        num_warnings = sum(finding.verdict == doctor.Verdict.WARNING for finding in findings)
        console.print(f"{len(findings)} checks: {num_failed} failed, {num_warnings} warnings", highlight=False)
    if num_failed:
        raise typer.Exit(1)


#: With --data everything is in that folder, whatever the environment says.
_FILES = {"catalog_url": "", "store_url": "", "broker_url": ""}


def _say(finding: "Finding") -> None:
    console.print(f"[{COLOURS[finding.verdict]}]{finding.verdict:8}[/] {finding.name:14}", end=" ", highlight=False)
    say(finding.seen)
    if finding.advice is not None:
        say(f"{'':24}→ {finding.advice}")
