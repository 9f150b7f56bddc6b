"""What people labeled, read from any tool's file for ``understudy init``: the options, the report, and what is sent."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from understudy.annotations import reading
from understudy.annotations.reading import Disagreement, Format, LabelReport, Rules
from understudy.cli.output import say, show_json
from understudy.packing import Packed

#: In the list of what is left out, so many of each reason.
NUM_SHOWN = 3

FormatOption = Annotated[
    Format, typer.Option("--format", help="What the labels are; auto: as the name ends (.csv, .json, .xml).")
]
Images = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder of the images; default: where the labels are."),
]
DisagreementOption = Annotated[
    Disagreement, typer.Option("--disagreement", help="What to do with images that were given more than one class.")
]
Renamed = Annotated[
    list[str] | None,
    typer.Option("--rename", metavar="OLD=NEW", help="Call a class otherwise; may be repeated.", show_default=False),
]
Control = Annotated[
    str | None, typer.Option(help="Of Label Studio: the name of the <Choices>, where there are several.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent and what left out.")]


@dataclass(frozen=True)
class Labels:
    """Which labels, and how to read them."""

    path: Path
    format: Format
    images: Path | None
    disagreement: Disagreement
    renamed: list[str]
    control: str | None

    @classmethod
    def asked(
        cls,
        argument: Path | None,
        option: Path | None,
        format: Format,
        images: Path | None,
        disagreement: Disagreement,
        renamed: list[str] | None,
        control: str | None,
    ) -> "Labels":
        """What the words of a command say. Raises BadParameter unless the labels are named once."""
        if (argument is None) == (option is None):
            raise typer.BadParameter("name the labels once: as LABELS, or with --labeled")
        path = argument or option
        assert path is not None
        return cls(path, format, images, disagreement, renamed or [], control)

    def read(self) -> reading.LabeledFiles:
        """The files and their classes. Raises LabeledSetRefused."""
        rules = Rules(self.disagreement, _renamed(self.renamed), self.control)
        return reading.read(self.path, self.format, images=self.images, rules=rules)

    def to_send(self, notes: Console) -> Path | Packed:
        """A folder or archive as it is; anything else read, with what was left out of it said on ``notes``."""
        chosen = reading.format_of(self.path) if self.format == Format.AUTO else self.format
        if chosen == Format.FOLDER and not self.renamed:
            return self.path
        found = self.read()
        show(found.report, notes, only_left_out=True)
        return found.packed()


def _renamed(words: list[str]) -> dict[str, str]:
    renamed: dict[str, str] = {}
    for word in words:
        old, is_there, new = word.partition("=")
        if not (old and is_there and new.strip()):
            raise typer.BadParameter(f"--rename {word!r} is not OLD=NEW")
        if old.strip() in renamed:
            raise typer.BadParameter(f"--rename names {old} twice")
        renamed[old.strip()] = new.strip()
    return renamed


def show(report: LabelReport, console: Console, *, only_left_out: bool = False) -> None:
    """The counts of each class, and what is left out and why. Every name is a stranger's: no markup."""
    if not only_left_out:
        table = Table("class", "images")
        for name, num in report.classes.items():
            table.add_row(_plain(name), f"{num:,}")
        console.print(table)
        console.print(f"{report.num_images:,} images of {len(report.classes)} classes ({report.format})")
        if report.num_repeated:
            console.print(f"{report.num_repeated:,} annotations said the same once more")
    reasons: dict[str, list[str]] = {}
    for one in report.left_out:
        reasons.setdefault(one.reason, []).append(f"  {one.image} ({one.place}): {one.detail}")
    for reason, lines in reasons.items():
        console.print(f"{len(lines):,} left out: {reason}", highlight=False)
        for line in lines[:NUM_SHOWN]:
            say(line)


def _plain(name: str) -> str:
    return name.replace("[", r"\[")


def say_what_would_be_sent(labels: Labels | None, console: Console, *, as_json: bool) -> None:
    """The report of a dry run. Raises LabeledSetRefused as sending would, and BadParameter for a holdout alone."""
    if labels is None:
        raise typer.BadParameter("--dry-run reads LABELS, and there is only a holdout")
    report = labels.read().report
    if as_json:
        show_json(report)
    else:
        show(report, console)
