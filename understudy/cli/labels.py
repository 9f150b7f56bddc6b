"""``understudy labels``, ``facets`` and ``preview``: what the teachers say, and what a selection would keep of it."""

from typing import Annotated, Any

import typer
from rich.table import Table

from understudy.cli import completion
from understudy.cli.options import AsJson, Key, Url, asked, examples
from understudy.cli.output import console, say, show_json
from understudy.client import DEFAULT_URL, Client
from understudy.label_records import LabelFacets, LabelOrder, LabelSort, PreviewRequest, PseudoLabel, SelectionPreview

app = typer.Typer()

Teacher = Annotated[
    str | None,
    typer.Option(
        help="A model version. Default: the champion.", show_default=False, autocompletion=completion.versions
    ),
]
Bucket = Annotated[
    str | None, typer.Option(help="Only of this bucket.", show_default=False, autocompletion=completion.buckets)
]


def _share(what: str) -> Any:
    return typer.Option(min=0, max=1, show_default=False, help=what)


@app.command(
    epilog=examples(
        "understudy labels --class cat --max-confidence 0.6 --sort confidence --order asc",
        "understudy labels --bucket holiday-photos --changed --json --limit 1000",
    )
)
def labels(
    bucket: Bucket = None,
    class_name: Annotated[
        str | None,
        typer.Option("--class", help="Only of this label.", show_default=False, autocompletion=completion.classes),
    ] = None,
    min_confidence: Annotated[float | None, _share("Only of a label at least so probable.")] = None,
    max_confidence: Annotated[float | None, _share("Only of a label at most so probable.")] = None,
    min_margin: Annotated[float | None, _share("Only of a label that leads the second by at least so much.")] = None,
    max_margin: Annotated[float | None, _share("Only of a label that leads the second by at most so much.")] = None,
    changed: Annotated[
        bool | None,
        typer.Option("--changed/--unchanged", help="Whether the teacher before saw another class.", show_default=False),
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="Only of this image.", show_default=False)] = None,
    teacher: Teacher = None,
    sort: Annotated[LabelSort, typer.Option(help="What to put in order.")] = LabelSort.CONFIDENCE,
    order: Annotated[LabelOrder, typer.Option(help="The largest first, or the smallest.")] = LabelOrder.DESC,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show what a teacher says of the unlabeled images. With --json a line an image."""
    filters = {
        "bucket": bucket,
        "class_name": class_name,
        "min_confidence": min_confidence,
        "max_confidence": max_confidence,
        "min_margin": min_margin,
        "max_margin": max_margin,
        "changed": changed,
        "sha256": sha256,
        "teacher": teacher,
        "sort": sort,
        "order": order,
    }
    with Client(url, key=key) as client:
        found = client.pseudo_labels(limit=limit, **{k: v for k, v in filters.items() if v is not None})
        if as_json:
            for one in found:
                typer.echo(one.model_dump_json())
            return
        console.print(_table_of_labels(list(found)))


@app.command(epilog=examples("understudy facets", "understudy facets --bucket holiday-photos --with-changed --json"))
def facets(
    bucket: Bucket = None,
    teacher: Teacher = None,
    with_changed: Annotated[
        bool, typer.Option("--with-changed", help="Count too what the teacher before saw otherwise.")
    ] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Count a teacher's pseudo-labels by class, confidence, bucket and teacher."""
    with Client(url, key=key) as client:
        told = client.label_facets(teacher=teacher, bucket=bucket, with_changed=with_changed)
    if as_json:
        show_json(told)
    else:
        console.print(_table_of_facets(told))


@app.command(epilog=examples("understudy preview", "understudy preview --threshold 0.5 --per-class 200 --json"))
def preview(
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Least confidence of the teacher.")] = 0.3,
    per_class: Annotated[
        int | None,
        typer.Option(min=1, help="Images of each class. Default: as in the labeled set.", show_default=False),
    ] = None,
    max_copies: Annotated[int, typer.Option(min=1, help="Of one image of a scarce class.")] = 4,
    thresholds: Annotated[
        str, typer.Option(help="fixed, or a threshold of each class's own: precision or adaptive.")
    ] = "fixed",
    min_precision: Annotated[float, typer.Option(help="Of each class's labels, with --thresholds precision.")] = 0.9,
    balance: Annotated[str, typer.Option(help="exact; or none, for all over the threshold, once each.")] = "exact",
    teacher: Teacher = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show what a generation would select now, and how right that may be expected to be."""
    request = asked(
        PreviewRequest,
        threshold=threshold,
        per_class=per_class,
        max_copies=max_copies,
        thresholds=thresholds,
        min_precision=min_precision,
        balance=balance,
        teacher=teacher,
    )
    with Client(url, key=key) as client:
        told = client.preview(request)
    if as_json:
        show_json(told)
    else:
        console.print(_table_of_preview(told))
        for sentence in _tripwires_in_words(told):
            say(sentence)


def _tripwires_in_words(told: SelectionPreview) -> list[str]:
    words = list(told.warnings)
    if told.tripwires is not None:
        agreement = told.tripwires.agreement
        before = "no teacher before" if agreement is None else f"{agreement:.1%} as {told.tripwires.compared_with}"
        words.append(
            f"over the threshold {told.tripwires.kept_share:.1%}; towards one class {told.tripwires.class_shift:.1%}; "
            f"labeled as before: {before}"
        )
    return words + [f"a generation would end here: {sentence}" for sentence in told.collapses]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def _plain(table: Table, *cells: Any) -> None:
    table.add_row(*("" if cell is None else str(cell).replace("[", "\\[") for cell in cells))


def _table_of_labels(found: list[PseudoLabel]) -> Table:
    table = _table("", "image", "bucket", "label", "confidence", "margin", "before")
    for one in found:
        before = one.previous_label if one.is_changed else None
        _plain(table, one.sha256[:16], one.bucket, one.label, f"{one.confidence:.3f}", f"{one.margin:.3f}", before)
    return table


def _table_of_facets(told: LabelFacets) -> Table:
    title = f"{told.num_images} images by {told.teacher}; " + ", ".join(f"{k} {v}" for k, v in told.by_bucket.items())
    table = _table(title, "class", "images", "≥ 0.5", "≥ 0.9", "changed")
    for one in sorted(told.by_class, key=lambda facet: -facet.num_images):
        sure = (sum(one.by_confidence[10:]), sum(one.by_confidence[18:]))
        _plain(table, one.label, one.num_images, *sure, one.num_changed)
    return table


def _table_of_preview(told: SelectionPreview) -> Table:
    expected = "unknown" if told.precision is None else f"{told.precision:.1%}"
    title = (
        f"{told.num_kept} of {told.num_candidates} images, {told.num_rows} with copies; right by estimate: {expected} "
        f"(from {told.num_holdout} holdout images)"
    )
    table = _table(title, "class", "available", "target", "kept", "with copies", "over", "from", "right")
    for name, one in told.per_class.items():
        least = None if one.threshold is None else f"{one.threshold:.3f}"
        over = "none" if one.candidates_from is None else f"{one.candidates_from:.3f}"
        right = None if one.precision is None else f"{one.precision:.1%}"
        _plain(table, name, one.available, one.target, one.kept, one.rows, over, least, right)
    return table
