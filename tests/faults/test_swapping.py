"""Swaps under everything that can go wrong: load, bad artifacts, a catalog or Redis that is away, a service that stops."""

import gc
import hashlib
import socket
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

import httpx
import onnx
import pytest
from onnx import TensorProto
from sqlalchemy import make_url

from service.batcher import Batcher
from understudy import registry
from understudy.catalog import Catalog, versions
from understudy.engine import Engine
from understudy.records import ModelCard
from understudy.settings import ServiceSettings
from understudy.store import Store
from understudy.testing import picture, tiny_artifact

RED = picture(0, 3)
CLASSES = ("red", "green", "blue")

Opened = tuple[Catalog, Store]
Serving = Callable[..., str]
Served = Callable[..., AbstractContextManager[str]]
Metric = Callable[..., float]
Until = Callable[..., None]


def num_alive(kind: type) -> int:
    """How many objects of a class live in this process, where the service runs too."""
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


def test_thirty_swaps_under_load_fail_nobody_and_leave_one_engine(
    url: str, http: httpx.Client, serving: Serving, metric: Metric, until: Until
):
    """Every answer is 200 and says of a red image what the model that it names says; the old ones are freed."""
    engines, batchers = num_alive(Engine), num_alive(Batcher)
    said: dict[str, set[str]] = defaultdict(set)
    faults: list[str] = []
    stop = threading.Event()
    count = 0

    def ask() -> None:
        nonlocal count
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.is_set():
                answer = client.post("/classify", content=RED)
                if answer.status_code == 200:
                    said[answer.json()["model"]].add(answer.json()["predictions"][0]["label"])
                else:
                    faults.append(answer.text)
                count += 1

    expected = {serving(): "red"}
    with ThreadPoolExecutor(8) as pool:
        askers = [pool.submit(ask) for _ in range(8)]
        try:
            for swap in range(30):
                turn = swap % 3
                version = serving(rotated_by=turn, sharpness=5.0 + swap, generation=swap + 1)
                expected[version] = CLASSES[-turn]
                until(lambda before=count: count >= before + 16)
        finally:
            stop.set()
    assert [asker.result() for asker in askers] == [None] * 8
    assert faults == []
    assert {version: {expected[version]} for version in said} == said
    assert len(said) >= 30  # the first may have been gone before anybody asked
    assert metric(http, "understudy_swaps_total", outcome="served") == 31
    assert metric(http, "understudy_accepted_images") == 0
    until(lambda: num_alive(Batcher) <= batchers + 1)
    until(lambda: num_alive(Engine) <= engines + 2)  # one for lone images beside the one for batches


def sealed(artifact: bytes, card: ModelCard) -> ModelCard:
    """The card for other bytes."""
    return card.model_copy(update={"artifact_sha256": hashlib.sha256(artifact).hexdigest()})


def with_external_weights(artifact: bytes) -> bytes:
    """The same graph, whose weights are a file in the working directory of whoever loads it."""
    model = onnx.load_from_string(artifact)
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == "weight"]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "pyproject.toml"), ("offset", "0"), ("length", "36")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return bytes(model.SerializeToString())


def bad_artifacts() -> Iterator[tuple[str, bytes | None, ModelCard, str]]:
    """What is wrong, the file (None: it is lost), the card, and what the refusal says."""
    for generation, wrong in enumerate(
        ("flipped", "cut", "cut at export", "empty", "missing", "noise", "classes", "nan", "probe", "external", "size"),
        1,
    ):
        artifact, card = tiny_artifact(CLASSES, generation=generation, sharpness=20.0)
        match wrong:
            case "flipped":
                yield wrong, artifact[:99] + bytes([artifact[99] ^ 1]) + artifact[100:], card, "sha-256"
            case "cut":
                yield wrong, artifact[: len(artifact) // 2], card, "sha-256"
            case "cut at export":
                yield wrong, artifact[:100], sealed(artifact[:100], card), "cannot be loaded"
            case "empty":
                yield wrong, b"", sealed(b"", card), ""
            case "missing":
                yield wrong, None, card, "missing from the store"
            case "noise":
                yield wrong, bytes(range(256)), sealed(bytes(range(256)), card), "cannot be loaded"
            case "classes":
                yield wrong, artifact, card.model_copy(update={"classes": (*CLASSES, "black")}), "its card says"
            case "nan":
                broken, _ = tiny_artifact(CLASSES, generation=generation, sharpness=float("nan"))
                yield wrong, broken, sealed(broken, card), "not finite"
            case "probe":
                off = tuple(tuple(reversed(row)) for row in card.probe.probabilities)
                yield (
                    wrong,
                    artifact,
                    card.model_copy(update={"probe": card.probe.model_copy(update={"probabilities": off})}),
                    "probe",
                )
            case "external":
                outside = with_external_weights(artifact)
                yield wrong, outside, sealed(outside, card), "cannot be loaded"
            case "size":
                other = card.preprocessing.model_copy(update={"size": 9})
                yield wrong, artifact, card.model_copy(update={"preprocessing": other}), "its card says"


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the model that gives NaN is made so
def test_whatever_is_wrong_with_an_artifact_the_champion_goes_on_and_the_reason_is_shown(
    http: httpx.Client, serving: Serving, opened: Opened, metric: Metric, until: Until
):
    """One bad champion after the other; then a good one is served as if nothing had been."""
    catalog, store = opened
    champion = good = serving()
    for num_refused, (wrong, artifact, card, says) in enumerate(bad_artifacts(), 1):
        registry.publish(store, catalog, card, b"" if artifact is None else artifact, b"")
        if artifact is None:
            store.delete(card.artifact_key)
        with catalog.write() as session:
            versions.promote(session, card.version, instead_of=champion, reason="test", actor="test")
        champion = card.version
        until(lambda card=card: card.version in http.get("/readyz").json()["refused"])
        ready = http.get("/readyz").json()
        assert (ready["ready"], ready["model"]) == (True, good), wrong
        assert says in ready["refused"][card.version], wrong
        assert http.post("/classify", content=RED).json()["model"] == good, wrong
        assert metric(http, "understudy_swaps_total", outcome="refused") >= num_refused, wrong
    assert serving(sharpness=7.0, generation=99) == http.post("/classify", content=RED).json()["model"]


class Cut:
    """A line to PostgreSQL that can be cut and mended: TCP here, its Unix socket there."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._is_cut = threading.Event()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing comes through any more."""
        self._is_cut.set()
        for end in self._open:
            with suppress(OSError):  # the other side has hung up already
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """New connections come through."""
        self._is_cut.clear()

    def close(self) -> None:
        self.cut()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for end in self._open:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listening.accept()
            except OSError:
                return
            if self._is_cut.is_set():
                here.close()
                continue
            there = socket.socket(socket.AF_UNIX)
            there.connect(self._target)
            self._open += [here, there]
            for source, target in ((here, there), (there, here)):
                threading.Thread(target=_relay, args=(source, target), daemon=True).start()


def _relay(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(2**16):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


@pytest.fixture
def cut(postgres_database: str) -> Iterator[Cut]:
    """The line to the database of this test."""
    line = Cut(f"{make_url(postgres_database).query['host']}/.s.PGSQL.5432")
    yield line
    line.close()
    with warnings.catch_warnings():  # a connection that was cut while it was opened is nobody's to close
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_without_the_catalog_classify_goes_on_and_a_swap_happens_when_it_is_back(
    service_settings: ServiceSettings, served: Served, postgres_database: str, cut: Cut, until: Until
):
    """What needs the catalog is told to come again; the new champion is served once the catalog can name it."""
    behind = make_url(postgres_database).set(host="127.0.0.1", port=cut.port, query={})
    chosen = service_settings.model_copy(update={"catalog_url": behind.render_as_string(hide_password=False)})
    catalog, store = Catalog(postgres_database), Store(chosen.store_url)
    catalog.migrate()
    champion = None
    try:
        with served(chosen) as url, httpx.Client(base_url=url, timeout=60) as client:
            for turn in (0, 1):
                if turn:
                    cut.cut()
                artifact, card = tiny_artifact(CLASSES, generation=turn)
                registry.publish(store, catalog, card, artifact, b"")
                with catalog.write() as session:
                    versions.promote(session, card.version, instead_of=champion, reason="test", actor="test")
                if turn:
                    for _ in range(50):
                        assert client.post("/classify", content=RED).json()["model"] == champion
                    away = client.get("/jobs")
                    assert (away.status_code, away.json()["code"]) == (503, "catalog_away")
                    assert int(away.headers["retry-after"]) >= 1
                    assert client.post("/ingest?bucket=b", content=b"PK").status_code == 503
                    assert client.get("/readyz").status_code == 200
                    cut.mend()
                until(lambda card=card: client.get("/readyz").json()["model"] == card.version)
                champion = card.version
            assert client.get("/jobs").status_code == 200
    finally:
        catalog.close()


def test_without_redis_classify_uploads_and_swaps_go_on(
    service_settings: ServiceSettings, served: Served, promote: Serving, until: Until, tmp_path: Path
):
    """Redis is a doorbell: nothing that is answered here waits for it."""
    chosen = service_settings.model_copy(update={"broker_url": f"redis+socket://{tmp_path}/nobody.sock"})
    with served(chosen) as url, httpx.Client(base_url=url, timeout=60) as client:
        for sharpness in (3.0, 4.0):
            version = promote(sharpness=sharpness)
            until(lambda version=version: client.get("/readyz").json()["model"] == version)
            assert client.post("/classify", content=RED).status_code == 200
            assert client.post("/ingest?bucket=b", content=b"PK").status_code == 202


def test_a_swap_in_the_middle_of_a_drain_fails_nobody(
    service_settings: ServiceSettings, served: Served, promote: Serving, metric: Metric, until: Until
):
    """The service is told to stop with requests in flight while a champion appears: all are answered, and it stops."""
    num_clients = 20
    old = promote(work=80)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(num_clients))
        url = stack.enter_context(served(service_settings.model_copy(update={"max_batch": 1})))
        client = stack.enter_context(httpx.Client(base_url=url, timeout=60))
        until(lambda: client.get("/readyz").json()["model"] == old)

        def num_taken() -> float:
            answered = metric(client, "understudy_http_requests_total", route="/classify", status="200")
            return answered + metric(client, "understudy_accepted_images")

        running = [pool.submit(httpx.post, f"{url}/classify", content=RED, timeout=60) for _ in range(num_clients)]
        until(lambda: num_taken() >= num_clients)
        promote(work=40)
    answers = [one.result() for one in running]
    assert [answer.status_code for answer in answers] == [200] * num_clients
    assert {answer.json()["predictions"][0]["label"] for answer in answers} == {"red"}


def test_two_services_on_one_catalog_converge(
    service_settings: ServiceSettings, served: Served, promote: Serving, until: Until
):
    """Each sees the same champion for itself, swap after swap."""
    with ExitStack() as stack:
        urls = [stack.enter_context(served(service_settings)) for _ in range(2)]
        clients = [stack.enter_context(httpx.Client(base_url=url, timeout=60)) for url in urls]
        for generation in range(3):
            version = promote(generation=generation)
            until(lambda version=version: all(c.get("/readyz").json()["model"] == version for c in clients))
            assert {c.post("/classify", content=RED).json()["model"] for c in clients} == {version}
