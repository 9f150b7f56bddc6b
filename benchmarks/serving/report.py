"""The tables, for the terminal and for RESULTS.md: every rate also as a ratio, because machines differ and ratios less so."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import sheets
from benchmarks.serving import contestants, open_loop, swaps, targets
from benchmarks.serving.open_loop import OpenLoop
from benchmarks.serving.results import Results
from benchmarks.sheets import Sheet


def every(results: Results) -> list[Sheet]:
    """All tables that this run can fill, the verdict first."""
    made = [sheets.verdicts(targets.every(results)), _limit(results)]
    if results.closed:
        made += [_closed(results), _memory(results)]
    if results.open_loop:
        made.append(_open_loop(results))
    if results.swaps is not None:
        made.append(_swaps(results))
    if results.several is not None:
        made.append(_several(results))
    return made


def _limit(results: Results) -> Sheet:
    best = results.limit
    rows = [
        (name, f"{results.limit_of(name):.1f}", f"{results.limit_of(name) / best:.2f}")
        for name in results.limits[0].images_per_second
    ]
    note = (
        f"Decode and inference in one process with sessions of one thread, nobody to answer to; the fastest is the limit. "
        f"`together`: a thread a core does both; `apart`: a pool decodes, a lane a core infers. "
        f"One image alone, all cores on it: median {results.single_p50_ms:.1f} ms."
    )
    return Sheet("The limit of this machine", ("arrangement", "images/s", "of the limit"), rows, note)


def _closed(results: Results) -> Sheet:
    rows = [_closed_row(results, name, count) for count in results.connections for name in results.names]
    columns = (
        *("connections", "server", "requests/s", "of the limit", "p50 ms", "p95 ms", "p99 ms"),
        *("p99 ÷ (connections ÷ rate)", "errors"),
    )
    note = "Each figure is the median over the rounds; errors are of all rounds together."
    return Sheet("Closed loop (wrk)", columns, rows, note)


def _closed_row(results: Results, name: str, count: int) -> tuple[str, ...]:
    latencies = (f"{results.of(name, count, measure):.1f}" for measure in ("p50_ms", "p95_ms", "p99_ms"))
    return (
        *(str(count), _title(name), f"{results.of(name, count, 'per_second'):.1f}"),
        *(f"{results.share_of_limit(name, count):.2f}", *latencies),
        *(f"{results.tail(name, count):.2f}", str(results.errors(name, count))),
    )


def _memory(results: Results) -> Sheet:
    rows = []
    for name in results.memory:
        weight = results.heaviest(name)
        rows.append((_title(name), f"{weight.rss_mb:.0f}", f"{weight.pss_mb:.0f}"))
    note = "Of the whole process tree after the load, the largest of the rounds. RSS counts what processes share more than once."
    return Sheet("Memory", ("server", "RSS MB", "PSS MB"), rows, note)


def _open_loop(results: Results) -> Sheet:
    columns = (
        *(
            "server",
            "capacity/s",
            "offered/s",
            "in time/s",
            "in time ÷ capacity",
            "late",
            "refused",
            "given up",
            "broken",
        ),
        *("refusal p50/p99 ms", "answer p99 ms", "RSS before/peak/after MB", "full speed after s"),
    )
    rows = [(_title(name), *_open_loop_row(run)) for name, run in results.open_loop.items()]
    note = (
        f"Poisson arrivals at {open_loop.OVERLOAD:.0f} × the capacity of the closed loop ({open_loop.CONNECTIONS} connections) "
        f"just before; each request asks for an answer within {open_loop.DEADLINE_MS} ms (`X-Request-Timeout-Ms`), and its "
        f"client hangs up {open_loop.GRACE_S * 1e3:.0f} ms later (`given up`)."
    )
    return Sheet("Open loop past capacity", columns, rows, note)


def _open_loop_row(run: OpenLoop) -> tuple[str, ...]:
    refusals = f"{run.refused_p50_ms:.1f} / {run.refused_p99_ms:.1f}" if run.num_refused else "–"
    return (
        *(f"{run.capacity:.1f}", f"{run.offered:.1f}", f"{run.in_time:.1f}", f"{run.in_time / run.capacity:.2f}"),
        *(str(run.num_late), str(run.num_refused), str(run.num_given_up), str(run.num_broken), refusals),
        f"{run.answered_p99_ms:.0f}",
        f"{run.rss_before_mb:.0f} / {run.rss_peak_mb:.0f} / {run.rss_after_mb:.0f}",
        f"{run.recovered_s:.1f}" if run.recovered_s is not None else f"> {open_loop.AFTER_S:.0f}",
    )


def _swaps(results: Results) -> Sheet:
    run = results.swaps
    assert run is not None
    rows = [
        ("swaps", str(run.num_swaps)),
        ("requests, failed", f"{run.num_requests:,}, {run.num_failed}"),
        ("median seconds from promotion to the first new answer", f"{run.seconds_per_swap:.2f}"),
        ("p99 ms steady, in the seconds around swaps", f"{run.steady_p99_ms:.0f}, {run.swap_p99_ms:.0f}"),
        ("slowest request around a swap, ms", f"{run.worst_ms:.0f}"),
        (
            f"RSS MB after swap {swaps.SETTLED_AFTER}, after the last",
            f"{run.settled.rss_mb:.0f}, {run.last.rss_mb:.0f}",
        ),
        (
            f"PSS MB after swap {swaps.SETTLED_AFTER}, after the last",
            f"{run.settled.pss_mb:.0f}, {run.last.pss_mb:.0f}",
        ),
    ]
    note = (
        f"{swaps.CONNECTIONS} connections keep the service busy; two versions take turns as champion, each promoted "
        f"{swaps.HALF_WINDOW_S} s after the one before began to answer."
    )
    return Sheet("Swaps under load", ("what", "measured"), rows, note)


def _several(results: Results) -> Sheet:
    run = results.several
    assert run is not None
    rows = [(f"engine alone, batch {batch}", f"{rate:.0f}") for batch, rate in run.engine_rates.items()]
    rows.append(("through HTTP, several images a request", f"{run.images_per_second:.0f}"))
    return Sheet("GPU", ("what", "images/s"), rows)


def _title(name: str) -> str:
    return contestants.named([name])[0].title


def show(results: Results, console: Console) -> None:
    """Print all tables."""
    sheets.show(every(results), console)
    for name, failure in results.failures.items():
        console.print(f"[red]{name} was not measured[/red]: {failure}", highlight=False)


def write(results: Results, path: Path, machine: Mapping[str, str], conditions: Sequence[str]) -> None:
    """Write the same as Markdown, with the machine and the settings."""
    names = results.names or [contestants.OURS.name]
    lines = [
        "# Serving: measured results",
        "",
        "Written by `python -m benchmarks.serving`; see the README beside it.",
        "",
    ]
    lines += ["## The machine", "", *(f"- {what}: {value}" for what, value in machine.items()), ""]
    lines += ["## How it was measured", "", *(f"- {condition}" for condition in conditions)]
    lines += [f"- {c.title}: {c.settings}." for c in contestants.named(names)]
    lines += [f"- {name} was not measured: {failure}" for name, failure in results.failures.items()] + [""]
    lines += sheets.markdown(every(results))
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
