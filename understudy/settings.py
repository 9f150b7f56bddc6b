"""The environment's only door: one frozen class a program, read once at its entry point.

A setting ``catalog_url`` comes from ``UNDERSTUDY_CATALOG_URL``. On one machine none is needed:
everything defaults to files in the data folder. Nothing is read at import.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from understudy.addresses import Allowance, is_loopback
from understudy.errors import SettingsRefused

#: A Unix socket's path may not be longer than this on any system we run on (macOS: 104).
MAX_SOCKET_PATH = 100


S = TypeVar("S", bound="Settings")


class Settings(BaseSettings):
    """What every program needs: where the truth is, and how long a claim on work lasts."""

    model_config = SettingsConfigDict(env_prefix="UNDERSTUDY_", frozen=True, extra="ignore")

    data: Path = Field(Path("understudy-data"), description="folder of everything on one machine")
    catalog_url: str = Field("", description="SQLAlchemy URL; empty: SQLite in the data folder")
    store_url: str = Field("", description="file:// or s3:// URL; empty: a folder in the data folder")
    broker_url: str = Field("", description="Redis URL for Celery; empty: the socket of the bundled Redis")
    lease_s: float = Field(
        60.0, ge=1.0, description="a claim on work lapses this many seconds after its last heartbeat"
    )
    allowed_sources: str = Field(
        "", description="private hosts and networks that remote sources may be on, with commas; empty: none"
    )
    allowed_hooks: str = Field(
        "", description="private hosts and networks that webhooks may be on, with commas; empty: none"
    )
    measure_s: float = Field(
        0.15, ge=0, le=60, description="seconds to time an engine with each batch size while nobody waits for an answer"
    )
    log_format: str = Field("text", pattern="^(text|json)$", description="text or json")

    @field_validator("allowed_sources", "allowed_hooks")
    @classmethod
    def _know_hosts_and_networks(cls, text: str) -> str:
        Allowance.read(text)
        return text

    @property
    def allowance(self) -> Allowance:
        """``allowed_sources``, read."""
        return Allowance.read(self.allowed_sources)

    @property
    def hook_allowance(self) -> Allowance:
        """``allowed_hooks``, read."""
        return Allowance.read(self.allowed_hooks, setting="UNDERSTUDY_ALLOWED_HOOKS")

    @model_validator(mode="after")
    def _default_to_the_data_folder(self) -> Self:
        data = self.data.resolve()
        if awkward := set("?#%") & set(str(data)):
            raise ValueError(f"the data folder {data} has {' '.join(awkward)} in its path, which URLs read otherwise")
        derived = {
            "data": data,
            "catalog_url": self.catalog_url or f"sqlite:///{data / 'catalog.db'}",
            "store_url": self.store_url or (data / "store").as_uri(),
            "broker_url": self.broker_url or f"redis+socket://{redis_socket(data)}",
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        return self

    @property
    def spool(self) -> Path:
        """Where this program may write temporary files; emptied by nobody but their writers."""
        return self.data / "spool"

    def environment(self) -> dict[str, str]:
        """The environment of a child process that shall have these settings: this process' own, and them."""
        said = {name: value for name, value in self.model_dump().items() if name != "heartbeat_file"}  # each its own
        ours = {f"UNDERSTUDY_{name.upper()}": str(value) for name, value in said.items()}
        return dict(os.environ) | ours


class ServiceSettings(Settings):
    """What ``python -m service`` needs besides."""

    host: str = Field("127.0.0.1", description="address to bind; anything but loopback is a decision")
    port: int = Field(8000, ge=0, le=65535)
    max_request_bytes: int = Field(64 * 2**20, ge=1, description="largest body that /classify takes")
    max_images_per_request: int = Field(64, ge=1, description="most images in one /classify request")
    max_upload_bytes: int = Field(64 * 2**30, ge=1, description="largest body that /ingest takes")
    max_buffered_bytes: int = Field(
        1 * 2**30, ge=1, description="bodies of /classify held in memory at once; more get 503"
    )
    body_timeout_s: float = Field(30.0, gt=0, description="a body of /classify that takes longer to arrive gets 408")
    max_queue: int = Field(256, ge=1, description="images that may wait for their answer; more get 503")
    max_batch: int = Field(64, ge=1, description="most images in one batch; the engine's timing chooses up to this")
    max_wait_ms: float = Field(20.0, ge=0, description="longest that a batch waits for company; 0: never")
    request_timeout_ms: int = Field(
        10_000, ge=1, description="time for an answer, when the request does not say X-Request-Timeout-Ms"
    )
    champion_poll_s: float = Field(0.5, gt=0, description="how often a new champion is looked for")
    provider: str = Field("auto", description="ONNX Runtime provider: auto, cpu, cuda or tensorrt")
    variants: str = Field(
        "auto", pattern="^(auto|off)$", description="serve fp16 or int8 where it is measured faster: auto or off"
    )
    keys: Literal["auto", "required", "off"] = Field(
        "auto", description="API keys; auto: required unless the address to bind is loopback"
    )
    keys_poll_s: float = Field(0.5, gt=0, description="how often new and revoked API keys are looked for")
    rate_limit: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="most requests a second by one API key and process; 0: no limit"
    )
    processes: int = Field(1, ge=1, le=256, description="service processes on the one port, each with its own engine")
    listen_fd: int = Field(-1, ge=-1, description="the socket that the parent bound; -1: bind host and port")
    backlog: int = Field(2048, ge=1, description="connections that may wait to be taken; the system may allow fewer")
    max_connections: int = Field(10_000, ge=1, description="open connections of a process; more get 503 at once")
    header_timeout_s: float = Field(15.0, gt=0, description="a request's head is complete within this time, or 408")
    send_timeout_s: float = Field(30.0, gt=0, description="a client that reads none of its answer so long is cut off")
    drain_s: float = Field(0.0, ge=0, description="after SIGTERM, take requests this long with /readyz at 503")
    grace_s: int = Field(20, ge=1, description="then what was accepted is finished within this time")
    access_log: bool | None = Field(None, description="a log line a request; None: with log_format=json only")
    dashboard_url: str = Field(
        "", pattern=r"^(https?://\S+)?$", description="where / of the service leads to; empty: to the API's description"
    )
    otlp_endpoint: str = Field(
        "", pattern=r"^(https?://\S+)?$", description="OpenTelemetry collector (OTLP over HTTP); empty: no traces"
    )

    @model_validator(mode="after")
    def _default_to_the_standard_names(self) -> Self:
        if not self.otlp_endpoint:
            object.__setattr__(self, "otlp_endpoint", os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""))
        if self.access_log is None:
            object.__setattr__(self, "access_log", self.log_format == "json")
        return self

    @property
    def is_one_of_several(self) -> bool:
        """Whether this process was started by another to share its port."""
        return self.listen_fd >= 0


class DashboardSettings(Settings):
    """What ``python -m dashboard`` needs besides. It opens neither catalog nor store."""

    host: str = Field("127.0.0.1", description="address to bind; anything but loopback is a decision")
    port: int = Field(8001, ge=0, le=65535)
    service_url: str = Field(
        "http://127.0.0.1:8000", pattern=r"^https?://\S+$", description="the service that everything is asked of"
    )
    names_allowed: str = Field(
        "", description="Host names that the dashboard answers to, with commas; empty: those of loopback, or any"
    )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the pages."""
        return is_loopback(self.host)

    @property
    def names(self) -> list[str]:
        """``names_allowed``, read."""
        return [name.strip() for name in self.names_allowed.split(",") if name.strip()]


class BackgroundSettings(Settings):
    """What programs need besides that serve nobody."""

    heartbeat_file: Path | None = Field(None, description="touched while the program lives, for health checks")


class WorkerSettings(BackgroundSettings):
    """What ``python -m worker`` needs besides."""

    concurrency: int = Field(1, ge=1, description="pool processes; one an accelerator")
    provider: str = Field("auto", description="ONNX Runtime provider: auto, cpu, cuda or tensorrt")
    label_batch: int = Field(32, ge=1, description="images in one labeling batch")
    shard_images: int = Field(1000, ge=1, le=1000, description="most images in a shard")
    shard_bytes: int = Field(256 * 2**20, ge=1, description="most bytes in a shard")
    devices: str = Field(
        "",
        pattern=r"^[\w.:-]*(,[\w.:-]+)*$",
        description="GPUs, one for each pool process in turn: 0,1; empty: all there are",
    )
    keep_teachers: int = Field(
        0, ge=0, description="label sets of the last so many champions are kept, older ones deleted; 0: all are kept"
    )
    generate_after: int = Field(
        0, ge=0, lt=2**63, description="open the next generation by itself after so many newly labeled images; 0: never"
    )
    reconcile_s: float = Field(15.0, gt=0, description="how often overdue work is looked for")
    source_bytes: int = Field(64 * 2**30, ge=1, description="largest archive that is fetched from a remote source")


class TrainerSettings(BackgroundSettings):
    """What ``python -m trainer`` needs besides."""

    device: str = Field("auto", description="torch device: auto, cpu, cuda, cuda:1, mps")
    provider: str = Field("auto", description="ONNX Runtime provider for evaluation: auto, cpu, cuda or tensorrt")
    poll_s: float = Field(1.0, gt=0, description="how often a generation to work on is looked for")
    mlflow_url: str = Field(
        "", description="MLflow that every ended generation is told to: http://host:5000; empty: none"
    )
    data_workers: int = Field(
        -1, ge=-1, le=64, description="processes that make a student's batches; 0: threads; -1: by the cores"
    )


def read(kind: type[S], **overrides: object) -> S:
    """Read one program's settings from the environment, ``overrides`` first.

    Raises SettingsRefused naming each bad variable and the value it had.
    """
    try:
        return kind(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        faults = "; ".join(
            f"UNDERSTUDY_{'_'.join(map(str, e['loc'])).upper()}={e['input']!r}: {e['msg']}" for e in error.errors()
        )
        raise SettingsRefused(faults) from error


#: CUDA reads this when it is first used.
_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
#: prometheus_client reads this when it is imported, and keeps its numbers in files there.
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def sharing_metrics(environment: dict[str, str], folder: Path) -> dict[str, str]:
    """The environment of a process whose metrics are added to those of others that have the same folder."""
    return environment | {_METRICS_FOLDER: str(folder)}


def metrics_folder() -> Path | None:
    """Where this process' metrics meet those of others; None: it is alone."""
    folder = os.environ.get(_METRICS_FOLDER)
    return Path(folder) if folder else None


def use_one_device(child: int, devices: str = "", root: Path = Path("/dev")) -> str | None:
    """Show this process only the GPU that is its own, before a library looks for them; gives it. None: there is none.

    ``child`` is its number in the pool. ``devices`` are named as in ``CUDA_VISIBLE_DEVICES``; empty: those that it
    names, or all of this machine. More children than GPUs share them.
    """
    named = devices or os.environ.get(_VISIBLE_DEVICES)
    if named is None:
        numbers = (path.name.removeprefix("nvidia") for path in root.glob("nvidia[0-9]*"))
        named = ",".join(sorted((n for n in numbers if n.isdecimal()), key=int))
    theirs = [each.strip() for each in named.split(",") if each.strip()]
    if not theirs:
        return None
    chosen = theirs[child % len(theirs)]
    os.environ[_VISIBLE_DEVICES] = chosen
    return chosen


def threads_asked() -> int | None:
    """How many threads OMP_NUM_THREADS gives to the libraries that compute. None: it does not say."""
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(said) if said.isdecimal() else None


def is_one_of_several() -> bool:
    """Whether torchrun has started this process, with others that it trains with."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def stop_celery_softly() -> None:
    """Make SIGTERM stop a Celery worker as SIGQUIT does. Celery reads this when its worker is imported: call it before.

    Celery's own answer to SIGTERM is to wait for the running tasks however long they take.
    """
    os.environ["REMAP_SIGTERM"] = "SIGQUIT"


def keep_mlflow_short() -> None:
    """Let MLflow's client give up soon, and tell nobody else of its use, unless the user says otherwise.

    It reads this when it is imported: call it before. By itself it tries a server that is away for minutes, which a
    trainer that shall end within 30 s has not.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def redis_socket(data: Path) -> Path:
    """The bundled Redis' socket for a data folder: inside it, or in a short private one if that is too long."""
    inside = data.resolve() / "run" / "redis.sock"
    if len(str(inside).encode()) <= MAX_SOCKET_PATH:
        return inside
    name = hashlib.sha256(str(inside).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"understudy-{os.getuid()}-{name}" / "redis.sock"
