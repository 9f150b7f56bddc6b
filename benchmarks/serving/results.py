"""All that one run measured. The order of rounds is kept, so that what was measured side by side can be compared."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.serving.limit import Limit
from benchmarks.serving.open_loop import OpenLoop
from benchmarks.serving.servers import Memory
from benchmarks.serving.several import Several
from benchmarks.serving.swaps import Swaps
from benchmarks.serving.wrk import Closed

OURS = "ours"


def median(values: Iterable[float]) -> float:
    """NaN of nothing."""
    known = list(values)
    return statistics.median(known) if known else float("nan")


@dataclass(frozen=True)
class Now:
    """The limit right before and after a closed loop, in the middle."""

    images_per_second: float
    single_ms: float  #: one image alone with all cores on it; NaN beside more than one connection


@dataclass
class Results:
    """Of one run; every list has one entry a round."""

    connections: list[int]
    limits: list[Limit] = field(default_factory=list)
    closed: dict[tuple[str, int], list[Closed]] = field(default_factory=dict)  #: by contestant and connections
    beside: dict[tuple[str, int], list[Now]] = field(default_factory=dict)  #: as ``closed``
    memory: dict[str, list[Memory]] = field(default_factory=dict)  #: after the load
    open_loop: dict[str, OpenLoop] = field(default_factory=dict)
    swaps: Swaps | None = None
    several: Several | None = None  #: None without a GPU
    failures: dict[str, str] = field(default_factory=dict)  #: contestants that could not be measured, and why

    @property
    def names(self) -> list[str]:
        """Whom there is something to say of, in the order they took part."""
        return list(dict.fromkeys(name for name, _ in self.closed))

    @property
    def peers(self) -> list[str]:
        return [name for name in self.names if name != OURS]

    @property
    def best_arrangement(self) -> str:
        """The fastest way to do the work in process, by its median over the rounds."""
        return max(self.limits[0].images_per_second, key=self.limit_of)

    def limit_of(self, arrangement: str) -> float:
        return median(limit.images_per_second[arrangement] for limit in self.limits)

    @property
    def limit(self) -> float:
        """Images a second that the machine can do at all."""
        return self.limit_of(self.best_arrangement)

    @property
    def single_p50_ms(self) -> float:
        """One image alone with all cores on it."""
        return median(limit.single_p50_ms for limit in self.limits)

    def of(self, name: str, connections: int, measure: str) -> float:
        """The median over the rounds of one measure of :class:`Closed`."""
        return median(getattr(run, measure) for run in self.closed.get((name, connections), []))

    def errors(self, name: str, connections: int) -> int:
        return sum(run.num_errors for run in self.closed.get((name, connections), []))

    def share_of_limit(self, name: str, connections: int) -> float:
        """The median over the rounds of requests a second as a share of the limit beside them."""
        return median(run.per_second / now.images_per_second for run, now in self._pairs(name, connections))

    def tail(self, name: str, connections: int) -> float:
        """p99 as a multiple of connections ÷ throughput, the latency if every request had the same."""
        return median(
            run.p99_ms / 1e3 * run.per_second / connections for run in self.closed.get((name, connections), [])
        )

    def above_bare(self, name: str) -> float:
        """The median at one connection as a multiple of the bare decode and inference beside it."""
        return median(run.p50_ms / now.single_ms for run, now in self._pairs(name, 1))

    def _pairs(self, name: str, connections: int) -> Iterable[tuple[Closed, Now]]:
        key = (name, connections)
        return zip(self.closed.get(key, []), self.beside.get(key, []), strict=True)

    def heaviest(self, name: str) -> Memory:
        """The largest of each over the rounds."""
        weights = self.memory[name]
        return Memory(max(w.rss_mb for w in weights), max(w.pss_mb for w in weights))
