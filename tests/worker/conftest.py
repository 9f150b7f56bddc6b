"""A worker's resources over a real catalog and a real store, and archives to send it."""

import io
import ssl
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import update
from sqlalchemy.orm import Session

from understudy import labels, registry, settings
from understudy.catalog import Catalog, jobs, versions
from understudy.catalog.tables import JobRow, LabelSetRow
from understudy.records import Job, JobKind, ModelCard, ReceiptEntry, Upload
from understudy.settings import WorkerSettings
from understudy.store import Store, upload_key
from understudy.testing import tiny_artifact, zipped
from worker.checkers import Checkers
from worker.resources import Resources

Send = Callable[..., Job]


@pytest.fixture
def worker_settings(tmp_path: Path) -> WorkerSettings:
    """Small shards, so that few images make several."""
    return settings.read(WorkerSettings, data=tmp_path, shard_images=2, label_batch=2, provider="cpu")


@pytest.fixture(scope="session")
def checkers() -> Iterator[Checkers]:
    """Decoding children for all tests: they remember nothing, and take a while to start."""
    shared = Checkers(2)
    yield shared
    shared.close()


@pytest.fixture
def rings() -> list[tuple[str, str | int]]:
    """Everything that was rung for."""
    return []


@pytest.fixture
def resources(
    sqlite_catalog: Catalog,
    local_store: Store,
    worker_settings: WorkerSettings,
    rings: list[tuple[str, str | int]],
    checkers: Checkers,
) -> Resources:
    return Resources(
        sqlite_catalog,
        local_store,
        worker_settings,
        lambda task, work_id: rings.append((task, work_id)),
        checkers,
    )


@pytest.fixture
def champion(resources: Resources) -> ModelCard:
    """A promoted model that calls an image by its colour."""
    artifact, card = tiny_artifact(["red", "green", "blue"])
    registry.publish(resources.store, resources.catalog, card, artifact, b"")
    with resources.catalog.write() as session:
        versions.promote(session, card.version, instead_of=None, reason="first", actor="test")
    return card


def send_job(
    resources: Resources,
    *uploads: bytes | tuple[str, bytes],
    bucket: str | None = "photos",
    kind: JobKind = JobKind.INGEST,
    **params: Any,
) -> Job:
    """What the service does with an upload: bytes, or (split, bytes)."""
    job = jobs.open_upload(resources.catalog, kind, bucket=bucket, params=params)
    sent = []
    for index, upload in enumerate(uploads):
        split, data = upload if isinstance(upload, tuple) else ("unlabeled", upload)
        key = upload_key(job.id, index)
        resources.store.put(key, data)
        sent.append(Upload(key=key, name=f"upload-{index}", num_bytes=len(data), split=split))  # type: ignore[arg-type]
    return jobs.received(resources.catalog, job.id, sent)


@pytest.fixture
def send(resources: Resources) -> Send:
    return lambda *uploads, **options: send_job(resources, *uploads, **options)


def zip_of(files: Mapping[str, bytes]) -> bytes:
    return zipped(files).getvalue()


def tar_of(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def pack_zip() -> Callable[[Mapping[str, bytes]], bytes]:
    return zip_of


@pytest.fixture
def pack_tar() -> Callable[..., bytes]:
    return tar_of


@dataclass
class FileServer:
    """A real HTTPS server for ``files.example``: what it answers by path, and what it was asked."""

    port: int
    authority: Path  #: of its certificate
    answers: dict[str, tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, str | None, str | None]]  #: path, Host, and the name in TLS

    @property
    def url(self) -> str:
        return f"https://files.example:{self.port}"


def certificate_for(host: str, folder: Path) -> tuple[Path, Path]:
    """A certificate that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host), x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    for path, data in zip(paths, (certificate.public_bytes(serialization.Encoding.PEM), key_bytes), strict=True):
        path.write_bytes(data)
    return paths


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FileServer]:
    """Gives what is put into its ``answers``; a Content-Length there may be a lie."""
    (folder := tmp_path / "tls").mkdir()
    certificate, key = certificate_for("files.example", folder)
    names: list[str | None] = []

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append((self.path, self.headers["Host"], names[-1]))
            status, headers, body = server.answers.get(self.path, (404, {}, b"none"))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Not to the terminal."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda socket, name, context: names.append(name)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as http:
        http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        http.handle_error = lambda request, address: None  # type: ignore[method-assign]  # who hangs up, may
        server = FileServer(http.server_port, certificate, {}, [])
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        http.shutdown()
        thread.join()


@pytest.fixture
def receipt_of(resources: Resources) -> Callable[[Job], list[ReceiptEntry]]:
    """The receipt of a job that succeeded."""

    def read(job: Job) -> list[ReceiptEntry]:
        result = jobs.get(resources.catalog, job.id).result
        assert result is not None
        return labels.read_receipt(resources.store, result["receipt_key"], offset=0, limit=10_000)

    return read


@pytest.fixture
def lapse_leases() -> Callable[[Catalog], None]:
    """Let every lease have run out a while ago, as after the death of its holder."""

    def lapse(catalog: Catalog) -> None:
        with catalog.write() as session:
            for work in (JobRow, LabelSetRow):
                session.execute(update(work).where(work.lease_until.is_not(None)).values(lease_until=1.0))

    return lapse


class Killed(BaseException):
    """Stands for kill -9: nothing on the way answers it."""


class Fuse:
    """Burns down by one at every write, and kills when it is at its end."""

    def __init__(self, num_writes: int) -> None:
        self.left = num_writes

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class MortalStore(Store):
    """A real store whose process dies before or after one of its writes."""

    def __init__(self, url: str, fuse: Fuse) -> None:
        super().__init__(url)
        self._fuse = fuse

    def put(self, key: str, data: bytes | Path) -> bool:
        self._fuse.burn()
        is_new = super().put(key, data)
        self._fuse.burn()
        return is_new

    def pour(self, key: str, chunks: Iterable[bytes]) -> None:
        self._fuse.burn()
        super().pour(key, chunks)
        self._fuse.burn()

    def replace(self, key: str, data: bytes | Path) -> None:
        self._fuse.burn()
        super().replace(key, data)
        self._fuse.burn()


class MortalCatalog(Catalog):
    """A real catalog whose process dies before or after one of its commits."""

    def __init__(self, url: str, fuse: Fuse) -> None:
        super().__init__(url)
        self._fuse = fuse

    @contextmanager
    def write(self) -> Iterator[Session]:
        with super().write() as session:
            yield session
            self._fuse.burn()
        self._fuse.burn()


@pytest.fixture
def run_with_fuse(resources: Resources) -> Callable[[int, Callable[[Resources], None]], bool]:
    """Run something that dies at its n-th write. True: it did; False: it came to its end before."""

    def run(num_writes: int, task: Callable[[Resources], None]) -> bool:
        fuse = Fuse(num_writes)
        catalog = MortalCatalog(resources.settings.catalog_url, fuse)
        store = MortalStore(resources.settings.store_url, fuse)
        try:
            task(Resources(catalog, store, resources.settings, resources.ring, resources.checkers))
        except Killed:
            return True
        finally:
            catalog.close()
        return False

    return run


@pytest.fixture
def send_to() -> Callable[..., Job]:
    """As ``send``, to other resources."""
    return send_job
