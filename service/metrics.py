"""What Prometheus reads at ``/metrics``. One registry an application, so that tests can have many.

Several processes on one port keep their numbers in files of one folder, and whichever is asked answers for all. A
gauge says how those of several processes become one (``multiprocess_mode``), and no label is ever removed there.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
    multiprocess,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import understudy
from service.admission import Admission
from service.swap import EngineSlot
from understudy.engine import Engine
from understudy.errors import NoChampion
from understudy.tuning import Tuning

CONTENT_TYPE = CONTENT_TYPE_LATEST

#: A process writes its own start into the file of this kind, so these files say which processes there are.
_LIVE_FILES = "gauge_livesum_*.db"


class Metrics:
    """Every metric of the service, by the name that it has there.

    ``folder`` is where the numbers of several processes meet; None: this process is alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._readings: list[Callable[[], None]] = []
        self._served: str | None = None
        #: By method, route and status, all of which are bounded: to find them costs more than to count.
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "understudy_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "understudy_http_request_duration_seconds", "Time to answer.", ["route"], registry=self.registry
        )
        self.in_flight = self._gauge("understudy_http_requests_in_flight", "Requests that are being answered.")
        self.connections = self._gauge("understudy_connections", "Open connections.")
        self.refused_connections = Counter(
            "understudy_refused_connections", "Connections closed by a limit.", ["reason"], registry=self.registry
        )
        self.images = Counter(
            "understudy_classified_images", "Images classified, by model.", ["model"], registry=self.registry
        )
        self.refused_images = Counter(
            "understudy_refused_images", "Images of /classify that were refused.", ["code"], registry=self.registry
        )
        self.batch_images = Histogram(
            "understudy_batch_images", "Images in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry
        )
        self.batch_seconds = Histogram(
            "understudy_batch_duration_seconds",
            "Time of a batch on its lane.",
            ["model"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
            registry=self.registry,
        )
        self.max_batch = self._gauge(
            "understudy_batch_limit_images", "Most images in a batch, as chosen.", ["model"], mode="livemax"
        )
        self.timed_seconds = self._gauge(
            "understudy_batch_timed_seconds", "Time of a batch, as measured.", ["model", "images"], mode="livemax"
        )
        self.lanes = self._gauge("understudy_lanes", "Batches that run at the same time.")
        self.dropped_requests = Counter(
            "understudy_dropped_requests", "Requests nobody waits for any more.", ["reason"], registry=self.registry
        )
        self.accepted_images = self._gauge("understudy_accepted_images", "Images accepted and not answered yet.")
        self.capacity = self._gauge(
            "understudy_capacity_images_per_second", "Images answered a second while there is more to do."
        )
        self.queue_images = self._gauge("understudy_queue_images", "Images that wait for the engine.")
        self.swaps = Counter("understudy_swaps", "New champions, by how it went.", ["outcome"], registry=self.registry)
        self.serving = self._gauge("understudy_serving_model", "Processes that serve with the model.", ["model"])
        self._add_deployments()
        self._add_process()

    def _add_process(self) -> None:
        """What runs, and what it takes of the machine."""
        self._gauge("understudy_processes", "Service processes.").set(1)
        self._gauge("understudy_build_info", "What runs; always 1.", ["version"], mode="livemax").labels(
            understudy.__version__
        ).set(1)
        if self._folder is None:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)

        self._describe_engine()

    def _describe_engine(self) -> None:
        self.engine_info = self._gauge(
            "understudy_engine_info", "Processes that serve so.", ["model", "provider", "variant"]
        )
        self.engine_fallback = self._gauge(
            "understudy_engine_fallback", "1 if a model is not on the GPU that this machine has.", mode="livemax"
        )
        self._runs: tuple[str, str, str] | None = None

    def _gauge(self, name: str, what: str, labels: Iterable[str] = (), *, mode: str = "livesum") -> Gauge:
        return Gauge(name, what, tuple(labels), registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered, and the time that it took."""
        found = self._answers.get((method, route, status))
        if found is None:
            found = self.requests.labels(method, route, str(status)), self.request_seconds.labels(route)
            self._answers[method, route, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def _add_deployments(self) -> None:
        """Both models of a deployment, each by its version and its role: champion or challenger."""
        self.deployment_images = Counter(
            "understudy_deployment_images",
            "Images that a model was asked for during a deployment.",
            ["model", "role"],
            registry=self.registry,
        )
        self.deployment_errors = Counter(
            "understudy_deployment_errors",
            "Requests that failed by the model's fault during a deployment.",
            ["model", "role"],
            registry=self.registry,
        )
        self.deployment_seconds = Histogram(
            "understudy_deployment_request_duration_seconds",
            "Time from asking a model to its answer during a deployment.",
            ["model", "role"],
            registry=self.registry,
        )
        self.deployment_compared = Counter(
            "understudy_deployment_compared_images",
            "Images to compare, by the challenger and how it went: agreed, disagreed or skipped.",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.deployment_share = self._gauge(
            "understudy_deployment_share", "Share of the challenger.", ["model", "kind"], mode="livemax"
        )
        self.deployments_withdrawn = Counter(
            "understudy_deployments_withdrawn",
            "Deployments that this process withdrew, by why: load, errors, latency or agreement.",
            ["cause"],
            registry=self.registry,
        )

    def batches(self, version: str) -> Callable[[int, float], None]:
        """What counts a model's batches: images and seconds."""
        seconds_of_model = self.batch_seconds.labels(version)

        def ran(num_images: int, seconds: float) -> None:
            self.batch_images.observe(num_images)
            seconds_of_model.observe(seconds)

        return ran

    def loaded(self, engine: Engine, tuning: Tuning) -> None:
        """Show what was chosen for a model, and from what."""
        version = engine.version
        self.lanes.set(tuning.num_lanes)
        self.max_batch.labels(version).set(tuning.max_batch)
        for num_images, seconds in tuning.batch_seconds.items():
            self.timed_seconds.labels(version, str(num_images)).set(seconds)

    def swapped(self, version: str, *, succeeded: bool) -> None:
        """Count a swap, and name the model that serves now."""
        self.swaps.labels("served" if succeeded else "refused").inc()
        if succeeded:
            if self._folder is None:
                self.serving.clear()
            elif self._served is not None:
                self.serving.labels(self._served).set(0)
            self.serving.labels(version).set(1)
            self._served = version

    def deployed(self, version: str, kind: str, share: float) -> None:
        """Name the challenger that gets a share from now on; 0: no longer."""
        if share or self._folder is not None:
            self.deployment_share.labels(version, kind).set(share)
        else:
            self.deployment_share.clear()

    def read(self, slot: EngineSlot, admission: Admission) -> None:
        """Set the gauges that are read off the serving path."""
        self.queue_images.set(slot.num_waiting)
        self.accepted_images.set(admission.num_images)
        self.capacity.set(admission.rate.per_second)
        with contextlib.suppress(NoChampion), slot.lease() as batcher:
            self.runs_on(batcher.engine)

    def read_at_scrape(self, reading: Callable[[], None]) -> None:
        """Call ``reading``, which sets a gauge, before each answer (and each second if there are several processes)."""
        self._readings.append(reading)

    @property
    def is_shared(self) -> bool:
        """Whether another process may be asked for the numbers of this one."""
        return self._folder is not None

    def refresh(self) -> None:
        """Bring the gauges up to date that are read off something."""
        for reading in self._readings:
            reading()

    def runs_on(self, engine: Engine) -> None:
        """Name what the model that serves runs on."""
        runs = (engine.version, engine.provider, engine.variant)
        if self._runs != runs:
            if self._folder is None:
                self.engine_info.clear()
            elif self._runs is not None:
                self.engine_info.labels(*self._runs).set(0)
            self.engine_info.labels(*runs).set(1)
            self._runs = runs
        self.engine_fallback.set(engine.fallback is not None)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        self.refresh()
        if self._folder is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        pids = _living(self._folder)
        multiprocess.MultiProcessCollector(together, path=str(self._folder))  # type: ignore[no-untyped-call]
        together.register(_Processes(pids))
        PlatformCollector(registry=together)
        return generate_latest(together)


def _living(folder: Path) -> list[int]:
    """The processes that share a folder. The gauges of one that is dead are dropped; what it counted stays."""
    living = []
    for file in folder.glob(_LIVE_FILES):
        pid = int(file.stem.rsplit("_", 1)[1])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            with contextlib.suppress(FileNotFoundError):  # another process did it at the same time
                multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
        else:
            living.append(pid)
    return living


class _Processes(Collector):
    """The usual ``process_`` metrics of several processes: their sums, and the start of the first."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids

    def collect(self) -> Iterable[Metric]:
        found: dict[str, Metric] = {}
        for pid in self._pids:
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                total = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                (sample,) = metric.samples
                before = [s.value for s in total.samples]
                both = min if metric.name == "process_start_time_seconds" else sum
                total.samples = [sample._replace(value=both([*before, sample.value]))]
        return found.values()
