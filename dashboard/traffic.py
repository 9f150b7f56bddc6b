"""What the service counts of itself, sampled while somebody looks: one ring of samples for all who do.

The service keeps counters only; what happened in a time is the difference of two samples. Nothing is kept on disk:
for more than an hour there is Prometheus.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from understudy.errors import UnderstudyError

if TYPE_CHECKING:  # a session has the ring that it looks at
    from dashboard.sessions import System

K = TypeVar("K")

#: Sampled this often, and an hour of it is kept: some kilobytes a sample.
EVERY_S = 2.0
KEPT_S = 3600.0
#: Nobody has looked for so long: the service is left alone.
IDLE_S = 900.0

#: A cumulative histogram: upper bound of each bin to what is in it and below.
Bins = Mapping[float, float]


@dataclass(frozen=True)
class Sample:
    """The counters and gauges of one moment, of all service processes together."""

    at: float  #: seconds since 1970
    answers: Mapping[str, float] = field(default_factory=dict)  #: requests that ask a model, by status
    latency: Bins = field(default_factory=dict)  #: of these, in seconds
    batches: Bins = field(default_factory=dict)  #: images in a batch
    images: Mapping[str, float] = field(default_factory=dict)  #: classified, by model
    refusals: Mapping[str, float] = field(default_factory=dict)  #: images, requests and connections, by why
    serving: Mapping[str, float] = field(default_factory=dict)  #: processes, by model
    queue: float = 0.0  #: images that wait
    in_flight: float = 0.0  #: requests
    capacity: float = 0.0  #: images a second
    processes: float = 0.0


def parsed(text: str, at: float) -> Sample:
    """A sample of what ``/metrics`` says. Raises ValueError for what is no such text."""
    maps: dict[str, dict[str, float]] = {name: {} for name in ("answers", "images", "refusals", "serving")}
    bins: dict[str, dict[float, float]] = {"latency": {}, "batches": {}}
    gauges: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            if name == "understudy_http_requests_total" and _asks_a_model(labels["route"]):
                _add(maps["answers"], labels["status"], value)
            elif name == "understudy_http_request_duration_seconds_bucket" and _asks_a_model(labels["route"]):
                _add(bins["latency"], float(labels["le"]), value)
            elif name == "understudy_batch_images_bucket":
                _add(bins["batches"], float(labels["le"]), value)
            elif name == "understudy_classified_images_total":
                _add(maps["images"], labels["model"], value)
            elif name == "understudy_serving_model" and value:
                _add(maps["serving"], labels["model"], value)
            elif name in _REFUSALS:
                _add(maps["refusals"], labels[_REFUSALS[name]], value)
            elif name in _GAUGES:
                gauges[_GAUGES[name]] = value
    gauges["in_flight"] = max(0.0, gauges.get("in_flight", 0.0) - 1)  # one was the asking itself
    return Sample(at=at, **maps, **bins, **gauges)  # type: ignore[arg-type]  # each name is its field's


#: What is refused, to the label that says why.
_REFUSALS = {
    "understudy_refused_images_total": "code",
    "understudy_dropped_requests_total": "reason",
    "understudy_refused_connections_total": "reason",
}
_GAUGES = {
    "understudy_queue_images": "queue",
    "understudy_http_requests_in_flight": "in_flight",
    "understudy_capacity_images_per_second": "capacity",
    "understudy_processes": "processes",
}


def _asks_a_model(route: str) -> bool:
    return route == "/classify" or route.endswith("/infer")


def _add(totals: dict[K, float], key: K, value: float) -> None:
    totals[key] = totals.get(key, 0.0) + value


@dataclass(frozen=True)
class Span:
    """What happened between two samples."""

    at: float  #: its end
    seconds: float
    answers: Mapping[str, float]
    latency: Bins
    batches: Bins
    images: Mapping[str, float]
    refusals: Mapping[str, float]

    @property
    def requests(self) -> float:
        """Requests that asked a model, answered well or not."""
        return sum(self.answers.values())

    @property
    def failed(self) -> float:
        """Of these, what was refused or failed: 4xx and 5xx."""
        return sum(number for status, number in self.answers.items() if status >= "4")

    def percentile_ms(self, share: float) -> float | None:
        """The latency that ``share`` of the requests were within, in milliseconds. None: there were none."""
        seconds = percentile(self.latency, share)
        return None if seconds is None else 1000 * seconds

    def batch_sizes(self) -> dict[float, float]:
        """Batches by the largest number of images that they may have had; not cumulative."""
        sizes, below = {}, 0.0
        for bound, number in sorted(self.batches.items()):
            sizes[bound], below = number - below, number
        return sizes


def between(before: Sample, after: Sample) -> Span:
    """What happened between two samples; a counter that fell was begun anew by a service that was."""
    return Span(
        after.at,
        max(after.at - before.at, 1e-9),
        _risen(before.answers, after.answers),
        _risen(before.latency, after.latency),
        _risen(before.batches, after.batches),
        _risen(before.images, after.images),
        _risen(before.refusals, after.refusals),
    )


def _risen(before: Mapping[K, float], after: Mapping[K, float]) -> dict[K, float]:
    is_new = any(number < before.get(name, 0.0) for name, number in after.items())
    return {name: number - (0.0 if is_new else before.get(name, 0.0)) for name, number in after.items()}


def percentile(bins: Bins, share: float) -> float | None:
    """Of a cumulative histogram, linear within a bin, as Prometheus estimates it. None: it is empty."""
    ordered = sorted(bins.items())
    if not ordered or not ordered[-1][1]:
        return None
    wanted = share * ordered[-1][1]
    low, below = 0.0, 0.0
    for bound, number in ordered:
        if number >= wanted and number > below:
            return low if bound == float("inf") else low + (bound - low) * (wanted - below) / (number - below)
        low, below = bound, number
    return low


def spans(samples: Sequence[Sample], most: int) -> list[Span]:
    """At most so many spans over all the samples, each of as many samples as the others."""
    stride = max(1, -(-(len(samples) - 1) // most))
    marks = list(range(len(samples) - 1, -1, -stride))[::-1]  # from the end: the newest span is whole
    return [between(samples[i], samples[j]) for i, j in pairwise(marks)]


class Traffic:
    """The ring of samples. Used from one event loop."""

    def __init__(self, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.time) -> None:
        self._every_s, self._clock = every_s, clock
        self._samples: deque[Sample] = deque(maxlen=max(2, int(KEPT_S / every_s)))
        self._system: System | None = None
        self._looked_at = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def samples(self) -> list[Sample]:
        """What is kept, the oldest first."""
        return list(self._samples)

    def last(self, seconds: float) -> Span | None:
        """What happened in so many seconds until now. None: less than two samples are kept."""
        if len(self._samples) < 2:
            return None
        newest = self._samples[-1]
        return between(_first_within(self._samples, newest.at - seconds), newest)

    def watch(self, system: "System") -> None:
        """Somebody looks, who may ask the service: sample for a while from now on, in that name."""
        self._system, self._looked_at = system, self._clock()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._sample_on())

    async def look(self, system: "System") -> None:
        """Take a sample now. Raises UnderstudyError."""
        text = await system.ask(lambda client: client.metrics())
        self._samples.append(parsed(text, self._clock()))

    async def _sample_on(self) -> None:
        while self._clock() - self._looked_at < IDLE_S:
            assert self._system is not None, "it begins with one"
            try:
                await self.look(self._system)
            except RuntimeError:  # that session has ended, and its client with it; who looks next begins anew
                return
            except (UnderstudyError, ValueError):
                pass  # a gap is what is to be seen of it; the page says why
            await asyncio.sleep(self._every_s)


def _first_within(samples: Iterable[Sample], since: float) -> Sample:
    return next(sample for sample in samples if sample.at >= since)
