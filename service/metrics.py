"""What Prometheus reads at ``/metrics``. One registry an application, so that tests can have many."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from understudy.engine import Engine
from understudy.tuning import Tuning

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Every metric of the service, by the name that it has there."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "understudy_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "understudy_http_request_duration_seconds", "Time to answer.", ["route"], registry=self.registry
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
        self.max_batch = Gauge(
            "understudy_batch_limit_images",
            "Most images in a batch, as chosen from the engine's timing.",
            ["model"],
            registry=self.registry,
        )
        self.timed_seconds = Gauge(
            "understudy_batch_timed_seconds",
            "The engine's time for a batch of so many images, when it was timed.",
            ["model", "images"],
            registry=self.registry,
        )
        self.lanes = Gauge("understudy_lanes", "Batches that run at the same time.", registry=self.registry)
        self.dropped_requests = Counter(
            "understudy_dropped_requests",
            "Requests that nobody waited for any more, by why.",
            ["reason"],
            registry=self.registry,
        )
        self.accepted_images = Gauge(
            "understudy_accepted_images", "Images that are accepted and not answered yet.", registry=self.registry
        )
        self.capacity = Gauge(
            "understudy_capacity_images_per_second",
            "Images answered a second while there is more to do, as measured.",
            registry=self.registry,
        )
        self.queue_images = Gauge("understudy_queue_images", "Images that wait for the engine.", registry=self.registry)
        self.swaps = Counter("understudy_swaps", "New champions, by how it went.", ["outcome"], registry=self.registry)
        self.serving = Gauge(
            "understudy_serving_model", "1 for the model that serves.", ["model"], registry=self.registry
        )
        self._describe_engine()

    def _describe_engine(self) -> None:
        self.engine_info = Gauge(
            "understudy_engine_info",
            "1 for the model that serves, with what it runs on and in which number format.",
            ["model", "provider", "variant"],
            registry=self.registry,
        )
        self.engine_fallback = Gauge(
            "understudy_engine_fallback",
            "1 while the model that serves is not on the GPU that this machine has.",
            registry=self.registry,
        )

    def ran_batch(self, version: str, num_images: int, seconds: float) -> None:
        """Count a batch."""
        self.batch_images.observe(num_images)
        self.batch_seconds.labels(version).observe(seconds)

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
            self.serving.clear()
            self.serving.labels(version).set(1)

    def runs_on(self, engine: Engine) -> None:
        """Name what the model that serves runs on."""
        self.engine_info.clear()
        self.engine_info.labels(engine.version, engine.provider, engine.variant).set(1)
        self.engine_fallback.set(engine.fallback is not None)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
