"""Many swaps under full load, between two versions, through the catalog as the gate would do it.

A swap is over when the first answer by the new version has come; the second around that moment is compared with the
steady seconds before the first swap.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving import client
from benchmarks.serving.client import Outcome, Target, percentile
from benchmarks.serving.photos import Bodies
from benchmarks.serving.servers import Memory, Running
from understudy import settings
from understudy.catalog import Catalog, versions
from understudy.settings import ServiceSettings

NUM_SWAPS = 100
#: Enough to keep every core busy, and few enough that one slow moment shows in the percentile.
CONNECTIONS = 8
STEADY_S = 10.0
#: Half of the second around a swap; the next begins when it is over.
HALF_WINDOW_S = 0.5
#: The service looks for a new champion this often here; its own default would only add waiting.
POLL_S = 0.1
#: A swap that takes longer has failed.
PATIENCE_S = 30.0
#: Memory is compared with what it was after this many: by then both versions were loaded, and one was freed.
SETTLED_AFTER = 3


@dataclass(frozen=True)
class Swaps:
    """What a series of swaps did to the requests under way."""

    num_swaps: int
    num_requests: int
    num_failed: int
    seconds_per_swap: float  #: median, from promotion to the first answer by the new version
    steady_p99_ms: float
    swap_p99_ms: float  #: of all the seconds around swaps together
    worst_ms: float
    settled: Memory
    last: Memory

    @property
    def slowdown(self) -> float:
        return self.swap_p99_ms / self.steady_p99_ms

    @property
    def memory_growth(self) -> float:
        return self.last.rss_mb / self.settled.rss_mb


class SwapFailed(Exception):
    """A promoted version did not come to serve."""


async def run(
    server: Running,
    bodies: Bodies,
    data: Path,
    models: Sequence[str],
    *,
    num_swaps: int,
    on_swap: Callable[[], None] = lambda: None,
) -> Swaps:
    """Swap to and fro under load. ``models`` are two versions in the data folder, the first of which serves."""
    target = Target.of(server.url, bodies)
    over = asyncio.Event()
    outcomes: list[Outcome] = []
    await client.closed(target, connections=CONNECTIONS, is_over=client.within(2.0))
    loading = asyncio.create_task(
        client.closed(target, connections=CONNECTIONS, is_over=over.is_set, outcomes=outcomes, keep_bodies=True)
    )
    catalog = Catalog(settings.read(ServiceSettings, data=data).catalog_url)
    try:
        await asyncio.sleep(STEADY_S)
        began = time.perf_counter()
        promoted, seen, weights = [], [], []
        for index in range(num_swaps):
            old, new = models[index % 2], models[(index + 1) % 2]
            promoted.append(time.perf_counter())
            await asyncio.to_thread(promote, catalog, new, old)
            seen.append(await _first_answer(outcomes, new, promoted[-1]))
            await asyncio.sleep(max(seen[-1] + HALF_WINDOW_S - time.perf_counter(), 0.0))
            weights.append(server.memory() if index + 1 in (SETTLED_AFTER, num_swaps) else None)
            on_swap()
    finally:
        over.set()
        await loading
        catalog.close()
    known = [weight for weight in weights if weight is not None]
    return summary(outcomes, began=began, promoted=promoted, seen=seen, settled=known[0], last=known[-1])


def promote(catalog: Catalog, version: str, instead_of: str) -> None:
    """Make a version the champion, as the gate does."""
    with catalog.write() as session:
        versions.promote(session, version, instead_of=instead_of, reason="benchmark", actor="benchmark")


async def _first_answer(outcomes: Sequence[Outcome], version: str, since: float) -> float:
    """When the first answer by ``version`` came after ``since``. Raises SwapFailed."""
    index = len(outcomes)
    while time.perf_counter() < since + PATIENCE_S:
        for outcome in outcomes[index:]:
            if outcome.status == 200 and outcome.sent > since and _model(outcome) == version:
                return outcome.ended
        index = len(outcomes)
        await asyncio.sleep(0.02)
    raise SwapFailed(f"{version} was promoted and did not answer within {PATIENCE_S:.0f} s")


def _model(outcome: Outcome) -> str:
    return str(json.loads(outcome.body)["model"])


def summary(
    outcomes: Sequence[Outcome],
    *,
    began: float,
    promoted: Sequence[float],
    seen: Sequence[float],
    settled: Memory,
    last: Memory,
) -> Swaps:
    """Compare the requests that ended in a second around a swap with those before the first promotion."""
    steady = [o.ms for o in outcomes if o.status == 200 and o.ended < began]
    around = [o for o in outcomes if any(abs(o.ended - at) <= HALF_WINDOW_S for at in seen)]
    durations = [at - asked for at, asked in zip(seen, promoted, strict=True)]
    return Swaps(
        num_swaps=len(seen),
        num_requests=len(outcomes),
        num_failed=sum(o.status != 200 for o in outcomes),
        seconds_per_swap=percentile(durations, 50),
        steady_p99_ms=percentile(steady, 99),
        swap_p99_ms=percentile([o.ms for o in around if o.status == 200], 99),
        worst_ms=max((o.ms for o in around), default=float("nan")),
        settled=settled,
        last=last,
    )
