"""What the service must reach, as ratios within one run, each with the value that was measured."""

from collections.abc import Iterator

from benchmarks.serving.results import OURS, Results
from benchmarks.sheets import Target, at_least, at_most

#: Closed loop.
MIN_SHARE_OF_LIMIT = 0.95
MAX_TAIL = 1.35
TARGET_CONNECTIONS = (8, 32, 64)
MAX_ABOVE_BARE = 1.10
#: Open loop.
MIN_IN_TIME, MAX_REFUSAL_MS, MAX_RECOVERY_S = 0.95, 50.0, 5.0
#: Flat: no more than this many times the weight at full load.
MAX_OVERLOAD_GROWTH = 1.10
#: Swaps.
MAX_SWAP_SLOWDOWN, MAX_SWAP_GROWTH = 2.0, 1.10
MAX_MEMORY_MB = 450.0
MIN_SHARE_OF_ENGINE = 0.9


def every(results: Results) -> list[Target]:
    """All targets, whether or not this run measured them."""
    return [*_closed(results), *_open(results), *_swaps(results), *_memory(results), *_gpu(results)]


def _closed(results: Results) -> Iterator[Target]:
    for count in TARGET_CONNECTIONS:
        if count not in results.connections or not results.closed.get((OURS, count)):
            yield Target(f"closed loop, {count} connections", "", "not measured", None)
            continue
        share, tail = results.share_of_limit(OURS, count), results.tail(OURS, count)
        yield at_least(f"{count} connections: share of the limit", share, MIN_SHARE_OF_LIMIT)
        yield _best_of_all(results, count, "per_second", "requests/s", 1)
        yield _best_of_all(results, count, "p99_ms", "p99 ms", -1)
        yield at_most(f"{count} connections: p99 ÷ (connections ÷ throughput)", tail, MAX_TAIL)
    if 1 in results.connections and results.closed.get((OURS, 1)):
        yield at_most("1 connection: median ÷ bare image on all cores", results.above_bare(OURS), MAX_ABOVE_BARE)
    else:
        yield Target("1 connection: median ÷ bare image on all cores", f"≤ {MAX_ABOVE_BARE}", "not measured", None)


def _best_of_all(results: Results, count: int, measure: str, what: str, sign: int) -> Target:
    """Ours against the best peer; ``sign`` is 1 where more is better, -1 where less is."""
    what, ours = f"{count} connections: {what}", results.of(OURS, count, measure)
    others = {name: results.of(name, count, measure) for name in results.peers}
    if not others:
        return Target(what, "best of all", f"{ours:.1f}, no peers", None)
    rival = max(others, key=lambda name: sign * others[name])
    is_met = sign * ours > sign * others[rival]
    return Target(what, "best of all", f"{ours:.1f}; {rival} {others[rival]:.1f}", is_met)


def _open(results: Results) -> Iterator[Target]:
    run = results.open_loop.get(OURS)
    prefix = "overload ×2: "
    if run is None:
        yield Target("open loop at twice the capacity", "", "not measured", None)
        return
    yield at_least(f"{prefix}answered in time ÷ capacity", run.in_time / run.capacity, MIN_IN_TIME)
    if run.num_refused:
        yield at_most(f"{prefix}p99 of a refusal, ms", run.refused_p99_ms, MAX_REFUSAL_MS, digits=1)
    else:
        lost = run.num_late + run.num_given_up + run.num_broken
        yield Target(
            f"{prefix}p99 of a refusal, ms",
            f"< {MAX_REFUSAL_MS:.0f}",
            f"none refused, {lost} late or unanswered",
            False,
        )
    yield at_most(f"{prefix}memory ÷ that at full load", run.memory_growth, MAX_OVERLOAD_GROWTH)
    if run.recovered_s is None:
        yield Target(f"{prefix}full speed again after, s", f"≤ {MAX_RECOVERY_S}", "not within the time watched", False)
    else:
        yield at_most(f"{prefix}full speed again after, s", run.recovered_s, MAX_RECOVERY_S, digits=1)


def _swaps(results: Results) -> Iterator[Target]:
    run = results.swaps
    if run is None:
        yield Target("swaps under load", "", "not measured", None)
        return
    prefix = f"{run.num_swaps} swaps: "
    yield Target(f"{prefix}failed requests", "0", f"{run.num_failed} of {run.num_requests:,}", run.num_failed == 0)
    yield at_most(f"{prefix}p99 in the second around ÷ steady p99", run.slowdown, MAX_SWAP_SLOWDOWN)
    yield at_most(f"{prefix}memory after the last ÷ after the third", run.memory_growth, MAX_SWAP_GROWTH)


def _memory(results: Results) -> Iterator[Target]:
    what = "memory with EfficientNet-B0 loaded, RSS in MB"
    if OURS in results.memory:
        yield at_most(what, results.heaviest(OURS).rss_mb, MAX_MEMORY_MB, digits=0)
    else:
        yield Target(what, f"≤ {MAX_MEMORY_MB:.0f}", "not measured", None)


def _gpu(results: Results) -> Iterator[Target]:
    what = "GPU: images/s over HTTP ÷ the engine's own at its best batch"
    if results.several is None:
        yield Target(what, f"≥ {MIN_SHARE_OF_ENGINE}", "no GPU on this machine", None)
    else:
        yield at_least(what, results.several.share, MIN_SHARE_OF_ENGINE)
