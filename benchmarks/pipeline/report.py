"""What the pipeline must reach, and what was measured, as tables."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import sheets
from benchmarks.pipeline.catalog import CatalogFigures
from benchmarks.pipeline.ingest import IngestMeasurement
from benchmarks.pipeline.labeling import Labeled
from benchmarks.pipeline.selection import Answers, Figures
from benchmarks.sheets import Sheet, Target, at_least, at_most

MIN_INGEST, MAX_INGEST_MB, MAX_INGEST_GROWTH = 0.7, 300.0, 1.15
MIN_LABELING, MIN_TWO_WORKERS = 0.95, 1.9
MAX_SELECTION, MAX_SELECTION_MB = 1.5, 2048.0
#: Linear: a row may cost at most so many times what it costs in the smallest.
MAX_GROWTH_A_ROW = 1.25
MAX_FACETS_S, MAX_PAGE_S = 0.5, 0.3


@dataclass
class Results:
    """One run; what was not measured is None or empty."""

    ingest: IngestMeasurement | None = None
    large_ingest: IngestMeasurement | None = None
    labeling: Labeled | None = None
    selection: list[Figures] = field(default_factory=list)
    looking: Answers | None = None
    catalog: CatalogFigures | None = None


def every(results: Results) -> list[Sheet]:
    """All tables that this run can fill, the verdict first."""
    made = [sheets.verdicts(list(targets(results)))]
    if results.ingest is not None:
        made.append(_ingest(results))
    if results.labeling is not None:
        made.append(_labeling(results.labeling))
    if results.selection:
        made.append(_selection(results))
    if results.looking is not None:
        made.append(_looking(results.looking))
    if results.catalog is not None:
        made.append(_catalog(results.catalog))
    return made


def targets(results: Results) -> Iterator[Target]:
    """What was measured against what is wanted."""
    if (ingest := results.ingest) is not None:
        yield at_least("ingest: share of the bare cost's rate", ingest.ratio, MIN_INGEST)
        yield at_most("ingest: peak memory, MB", ingest.peak_megabytes, MAX_INGEST_MB, digits=0)
        if (large := results.large_ingest) is not None:
            what = f"ingest of {large.megabytes / 1e3:.1f} GB"
            yield at_most(f"{what}: peak memory, MB", large.peak_megabytes, MAX_INGEST_MB, digits=0)
            growth = large.peak_megabytes / ingest.peak_megabytes
            yield at_most(f"{what}: peak memory ÷ that of {ingest.megabytes:.0f} MB", growth, MAX_INGEST_GROWTH)
    if (labeling := results.labeling) is not None:
        yield at_least("labeling: share of the limit", labeling.of_limit, MIN_LABELING)
        if labeling.two_to_one is not None:
            yield at_least("labeling: two workers of one core ÷ one", labeling.two_to_one, MIN_TWO_WORKERS)
    yield from _of_selection(results.selection)
    if (looking := results.looking) is not None:
        yield at_most(f"facets of {looking.num_rows:,} rows, s", looking.facets_s, MAX_FACETS_S)
        yield at_most(f"a filtered page of {looking.num_rows:,} rows, s", looking.page_s, MAX_PAGE_S)


def _of_selection(runs: list[Figures]) -> Iterator[Target]:
    for run in runs:
        what = f"selection from {run.num_rows:,} rows"
        yield at_most(f"{what}: time ÷ the bare query's", run.ratio, MAX_SELECTION)
        yield at_most(f"{what}: peak memory, MB", run.ours.peak_mb, MAX_SELECTION_MB, digits=0)
    if len(runs) > 1:
        first, last = runs[0], runs[-1]
        growth = (last.ours.seconds / last.num_rows) / (first.ours.seconds / first.num_rows)
        what = f"selection: time a row at {last.num_rows:,} ÷ at {first.num_rows:,}"
        yield at_most(what, growth, MAX_GROWTH_A_ROW)
        heavier = last.ours.peak_mb / first.ours.peak_mb
        most = last.num_rows / first.num_rows
        yield at_most(f"selection: memory at {last.num_rows:,} ÷ at {first.num_rows:,}", heavier, most)


def _ingest(results: Results) -> Sheet:
    rows = [
        (
            f"{run.num_images:,}", f"{run.megabytes:,.0f}", f"{run.ingest_images_per_s:.0f}", f"{run.ingest_megabytes_per_s:.1f}",
            f"{run.bare_images_per_s:.0f}", f"{run.ratio:.2f}", f"{run.peak_megabytes:.0f}",
        )
        for run in (results.ingest, results.large_ingest) if run is not None
    ]  # fmt: skip
    columns = ("images", "archive MB", "ingest images/s", "ingest MB/s", "bare images/s", "ratio", "peak MB")
    note = (
        "Bare: the same files read, hashed and decoded in the same limited children. Ingest besides takes a tar apart, "
        "finds duplicates and near copies, writes shards and their manifests to the disk (fsync), rows to the catalog, and the "
        "receipt. Memory is of the worker and its children, what they share counted once."
    )
    return Sheet("Ingest", columns, rows, note)


def _labeling(run: Labeled) -> Sheet:
    rows = [
        (f"limit, {run.cores} cores", f"{run.limit:.1f}", ""),
        (f"one worker, {run.cores} cores", f"{run.one_worker:.1f}", f"{run.of_limit:.3f} of the limit"),
        ("limit, one core", f"{run.one_core_limit:.1f}", ""),
        ("one worker, one core", f"{run.one_worker_of_one_core:.1f}", f"{run.of_one_core_limit:.3f} of its limit"),
    ]
    if run.two_workers_of_one_core is not None and run.two_to_one is not None:
        rows.append(("two workers, one core each", f"{run.two_workers_of_one_core:.1f}", f"{run.two_to_one:.2f} × one"))
    note = (
        f"{run.num_images:,} photos of 500 × 375, EfficientNet-B0 at 224 px with 1,000 classes. The limit is the fastest "
        f"way to decode and infer in a process that does nothing else, the mean of right before and right after; medians of "
        f"{run.rounds} rounds, ratios within each. A worker claims, reads, labels, writes and publishes."
    )
    return Sheet("Labeling", ("what", "images/s", "ratio"), rows, note)


def _selection(results: Results) -> Sheet:
    rows = [
        (
            f"{run.num_rows:,}", f"{run.ours.seconds:.1f}", f"{run.bare.seconds:.1f}", f"{run.ratio:.2f}",
            f"{run.ours.peak_mb:,.0f}", f"{run.bare.peak_mb:,.0f}",
        )
        for run in results.selection
    ]  # fmt: skip
    note = (
        "1,000 classes, label sets of 1,000 rows, 0.3 as threshold, the paper's 130 of 300,000 of each class and at most four "
        "copies. Bare: one DuckDB query that says the same, under the same limit of memory, in a process of its own; "
        "both answers are compared row by row."
    )
    return Sheet("Selection", ("rows", "s", "bare s", "ratio", "peak MB", "bare peak MB"), rows, note)


def _looking(run: Answers) -> Sheet:
    rows = [
        ("read once, when the service starts", f"{run.prepare_s:.2f}", f"{run.prepare_cpu_s:.2f}"),
        ("facets", f"{run.facets_s:.2f}", f"{run.facets_cpu_s:.2f}"),
        ("a page of one class over 0.5, by confidence", f"{run.page_s:.2f}", f"{run.page_cpu_s:.2f}"),
        ("the same by margin", f"{run.margin_page_s:.2f}", f"{run.margin_page_cpu_s:.2f}"),
        ("a preview of a selection", f"{run.preview_s:.2f}", f"{run.preview_cpu_s:.2f}"),
    ]
    note = f"{run.num_rows:,} rows in label sets of 1,000, on two threads as in the service."
    return Sheet("Looking at pseudo-labels", ("what", "s", "CPU s"), rows, note)


def _catalog(run: CatalogFigures) -> Sheet:
    rows = [
        ("images looked up and sealed a second", f"{run.seal_images_per_s:,.0f}"),
        ("bytes an image, rows and indexes", f"{run.bytes_per_image:.0f}"),
        ("label sets taken and published a second", f"{run.claims_per_s:.0f}"),
        ("seconds to list them", f"{run.list_s:.2f}"),
    ]
    note = (
        f"PostgreSQL on the same machine, {run.threads} threads, {run.num_images:,} images in shards of 1,000, each with a "
        "fingerprint; one bucket. Server and threads share the cores."
    )
    return Sheet("Catalog", ("what", "measured"), rows, note)


def write(results: Results, path: Path, described: Mapping[str, str]) -> None:
    """All tables as Markdown, with the machine."""
    lines = ["# Ingest and labeling: measured results", "", "Written by `python -m benchmarks.pipeline`.", ""]
    lines += ["## The machine", "", *(f"- {what}: {value}" for what, value in described.items()), ""]
    lines += sheets.markdown(every(results))
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
