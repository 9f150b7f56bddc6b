"""What Prometheus reads at ``/metrics``. One registry an application, so that tests can have many."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from understudy.engine import Engine

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
        self.queue_images = Gauge("understudy_queue_images", "Images that wait for the engine.", registry=self.registry)
        self.swaps = Counter("understudy_swaps", "New champions, by how it went.", ["outcome"], registry=self.registry)
        self.serving = Gauge(
            "understudy_serving_model", "1 for the model that serves.", ["model"], registry=self.registry
        )
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
