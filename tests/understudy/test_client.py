"""The client against the real service over real HTTP; what is away or answers strangely is a socket of the test's own."""

import hashlib
import io
import random
import re
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from understudy import labels
from understudy.annotations import reading
from understudy.catalog import Catalog, claims, jobs
from understudy.catalog.tables import JobRow
from understudy.client import Client, RequestFailed
from understudy.errors import NotReady, SettingsRefused, UnderstudyError
from understudy.records import (
    Generation,
    GenerationRequest,
    GenerationState,
    Job,
    JobKind,
    JobState,
    Outcome,
    Problem,
    ReceiptEntry,
)
from understudy.settings import ServiceSettings
from understudy.store import Store, receipt_key, weights_key
from understudy.testing import picture

Opened = tuple[Catalog, Store]


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """A client of a running service."""
    with Client(url) as connected:
        yield connected


def sent_bytes(opened: Opened, job: Job) -> list[bytes]:
    """What arrived in the store for a job, file by file."""
    return [opened[1].get(upload["key"]) for upload in job.params["uploads"]]


@pytest.fixture
def strange() -> Callable[..., AbstractContextManager[tuple[str, list[bytes]]]]:
    """Something on a port that is no Understudy."""
    return _strange


@contextmanager
def _strange(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Answers each connection with the next bytes (then always the last) and hangs up; gives its address and requests."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                connection, _ = server.accept()
                with connection:
                    head = connection.recv(65536)
                    if head == b"end":
                        return
                    requests.append(head)  # before it is answered: then it is there for who has the answer
                    connection.sendall(answers[min(len(requests), len(answers)) - 1])
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):  # closing on unread bytes would reset the connection
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = server.getsockname()
        try:
            yield "http://{}:{}".format(*address), requests
        finally:
            with socket.create_connection(address) as last:
                last.sendall(b"end")
            thread.join(20)


# -- asking ---------------------------------------------------------------------------------------


def test_bytes_and_a_file_are_classified_alike(client: Client, serving: Callable[..., str], tmp_path: Path):
    """The most probable class first, as many as asked for, and the version that said so."""
    version = serving()
    file = tmp_path / "green.png"
    file.write_bytes(picture(1, 3))

    answer = client.classify(file, top_k=2)

    assert answer == client.classify(picture(1, 3), top_k=2)
    assert answer.model == version
    (prediction,) = answer.predictions
    assert prediction.label == "green"
    assert (prediction.classes[0].label, len(prediction.classes)) == ("green", 2)


def test_many_images_are_classified_in_their_order(client: Client, serving: Callable[..., str], tmp_path: Path):
    """More than go into a request, from threads that share the client; what is no image has its problem only."""
    version = serving()
    file = tmp_path / "blue.png"
    file.write_bytes(picture(2, 3))
    images = [*(picture(i % 2, 3, seed=i) for i in range(30)), b"no image", file, b"none either"]

    def labels() -> list[str | None]:
        answers = list(client.classify_many(iter(images), top_k=1))
        assert {answer.model for answer in answers} == {version}
        (named,) = answers[31].predictions
        (lone,) = answers[32].predictions
        assert lone.name is None
        assert (named.name, len(named.classes)) == ("blue.png", 1)
        assert lone.problem is not None
        assert lone.problem.code == "not_an_image"
        return [answer.predictions[0].label for answer in answers]

    with ThreadPoolExecutor(4) as threads:
        seen = [future.result() for future in [threads.submit(labels) for _ in range(4)]]

    assert seen == [[*(["red", "green"] * 15), None, "blue", None]] * 4
    assert list(client.classify_many([])) == []


def test_readiness_is_told_whether_ready_or_not(client: Client, serving: Callable[..., str]):
    """Before the first champion the 503 is an answer, not an error."""
    assert client.readiness()["ready"] is False

    version = serving()

    assert client.readiness()["ready"] is True
    client.wait_until_serving(version, timeout_s=0.1)
    with pytest.raises(NotReady, match="does not serve another after 0 s"):
        client.wait_until_serving("another", timeout_s=0.1)


def test_models_come_the_newest_first_with_their_cards(client: Client, serving: Callable[..., str]):
    """One of them is the champion."""
    first, second = serving(), serving(sharpness=5.0)

    models = client.models()

    assert [m.id for m in models] == [second, first]
    assert [m.is_champion for m in models] == [True, False]
    assert models[0].card.version == second


def test_what_comes_from_elsewhere_is_passed_on_as_it_comes(client: Client, opened: Opened):
    """A raw body under its name, and a form as the form that it is."""
    raw = client.relay("photos", iter([b"an arch", b"ive"]), name="holiday.zip")
    assert sent_bytes(opened, raw) == [b"an archive"]
    assert raw.params["uploads"][0]["name"] == "holiday.zip"
    form = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="%d.png"\r\n\r\n%d\r\n' % (i, i) for i in (1, 2)
    )
    several = client.relay(
        "photos", iter([form[:30], form[30:], b"--x--\r\n"]), name="", media_type="multipart/form-data; boundary=x"
    )
    assert sent_bytes(opened, several) == [b"1", b"2"]
    assert [upload["name"] for upload in several.params["uploads"]] == ["1.png", "2.png"]


def test_a_receipt_is_read_to_its_end_page_by_page(client: Client, opened: Opened):
    """More lines than the service gives at once; none is lost between two pages."""
    catalog, store = opened
    job = client.ingest("photos", io.BytesIO(b"an archive of many entries"))
    lines = [ReceiptEntry(index=i, name=f"{i}.png", outcome=Outcome.ACCEPTED) for i in range(2500)]
    store.replace(receipt_key(job.id, 1), labels.receipt_to_parquet(lines))
    claim = claims.claim(catalog, JobRow, job.id, lease_s=60)
    assert claim is not None
    with catalog.write() as session:
        jobs.succeed(session, claim, {"entries": 2500, "receipt_key": receipt_key(job.id, 1)})

    assert list(client.receipt(job.id)) == lines
    assert next(client.receipt(job.id, first=2042)) == lines[2042]
    assert client.wait_for_job(job.id).state == JobState.SUCCEEDED


@pytest.mark.usefixtures("labeled_set")
def test_generations_are_opened_and_followed_to_their_end(client: Client, opened: Opened):
    """The wait shows every look, and ends with one that failed, too."""
    catalog, _ = opened
    generation = client.generate(GenerationRequest(recipe="tiny", seed=3))

    assert (generation.number, generation.request.seed) == (0, 3)
    assert client.generation(0) == generation
    assert [g.model_dump() for g in client.generations()] == [generation.model_dump()]
    seen: list[Generation] = []

    def fail_after_the_first_look(looked_at: Generation) -> None:
        seen.append(looked_at)
        if len(seen) == 1:
            claim = claims.claim(catalog, JobRow, looked_at.job.id, lease_s=60)
            assert claim is not None
            jobs.fail(catalog, claim, Problem(code="diverged", detail="it did not learn"))

    ended = client.wait_for_generation(0, fail_after_the_first_look)

    assert ended.state == GenerationState.FAILED
    assert ended.job.problem == Problem(code="diverged", detail="it did not learn")
    assert len(seen) == 2


@pytest.mark.usefixtures("labeled_set")
def test_waiting_gives_what_ended_well_and_raises_what_did_not(client: Client, opened: Opened):
    """A job and a generation alike; when the time is over it goes on, and can be waited for again."""
    catalog, _ = opened
    job, turn = client.ingest("photos", io.BytesIO(b"an archive")), client.generate()
    assert [each.id for each in client.jobs(limit=2)] == [turn.job.id, job.id]
    seen: list[Job] = []
    for wait in (lambda: client.wait(job, seen.append, timeout_s=0), lambda: client.wait(turn, timeout_s=0)):
        with pytest.raises(NotReady, match="has not ended after 0 s; it goes on") as late:
            wait()
        assert late.value.code == "wait_timeout"
    assert seen == [job]

    claim = claims.claim(catalog, JobRow, job.id, lease_s=60)
    failing = claims.claim(catalog, JobRow, turn.job.id, lease_s=60)
    assert claim is not None
    assert failing is not None
    with catalog.write() as session:
        jobs.succeed(session, claim, {"entries": 0})
    jobs.fail(catalog, failing, Problem(code="diverged", detail="it did not learn"))

    assert client.wait(job).result == {"entries": 0}
    with pytest.raises(UnderstudyError, match=r"generation 0 failed: it did not learn \(diverged\)") as failed:
        client.wait(turn)
    assert failed.value.code == "diverged"


def test_one_key_is_one_upload(client: Client, opened: Opened, tmp_path: Path):
    """Sent twice by hand it is one job; without a key every call is another."""
    data = lambda: io.BytesIO(b"the same bytes")  # noqa: E731
    assert client.ingest("photos", data(), key="k").id == client.ingest("photos", data(), key="k").id
    assert client.labeled(data(), key="k").id == client.labeled(data(), key="k").id
    assert client.ingest("photos", data()).id != client.ingest("photos", data()).id
    with pytest.raises(RequestFailed, match="Idempotency-Key") as caught:
        client.ingest("photos", io.BytesIO(b"others"), key="k")
    assert (caught.value.status, caught.value.code) == (409, "idempotency_mismatch")
    assert caught.value.request_id


# -- sending --------------------------------------------------------------------------------------


def test_an_archive_arrives_as_it_is_and_the_progress_is_of_its_bytes(client: Client, opened: Opened, tmp_path: Path):
    """The last call says that all of them were sent; the bucket is there, the job waits for a worker."""
    file = tmp_path / "some.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("noise", random.Random(0).randbytes(3 * 2**20))
    progress: list[tuple[int, int]] = []

    job = client.ingest("photos", file, on_bytes=lambda sent, total: progress.append((sent, total)))

    size = file.stat().st_size
    assert progress == sorted(progress)
    assert len(progress) == 4
    assert progress[-1] == (size, size)
    assert (job.kind, job.state, job.bucket) == (JobKind.INGEST, JobState.QUEUED, "photos")
    assert job.params["uploads"][0]["name"] == "some.zip"
    assert sent_bytes(opened, job) == [file.read_bytes()]
    assert client.job(job.id) == job
    assert [b.name for b in client.buckets()] == ["photos"]


def test_a_folder_arrives_as_a_tar_of_what_can_be_read(client: Client, opened: Opened, tmp_path: Path):
    """In a fixed order, with empty class folders, without owners; a link counts as what it points to, or not at all."""
    folder = tmp_path / "animals"
    (folder / "dogs" / "small").mkdir(parents=True)
    (folder / "cats").mkdir()
    (folder / "dogs" / "small" / "b.png").write_bytes(picture(0, 3))
    (folder / "dogs" / "a.png").write_bytes(picture(1, 3))
    (folder / "dogs" / "link.png").symlink_to("a.png")
    (folder / "dogs" / "dangling.png").symlink_to("nowhere.png")

    job = client.ingest("photos", folder)

    assert job.params["uploads"][0]["name"] == "animals.tar"
    with tarfile.open(fileobj=io.BytesIO(*sent_bytes(opened, job))) as tar:
        members = {m.name: m for m in tar.getmembers()}
        content = {name: tar.extractfile(m).read() for name, m in members.items() if m.isfile()}  # type: ignore[union-attr]
    assert list(members) == ["cats", "dogs", "dogs/a.png", "dogs/link.png", "dogs/small", "dogs/small/b.png"]
    assert {name for name, m in members.items() if m.isdir()} == {"cats", "dogs", "dogs/small"}
    assert content == {
        "dogs/a.png": picture(1, 3),
        "dogs/link.png": picture(1, 3),
        "dogs/small/b.png": picture(0, 3),
    }
    assert {(m.uid, m.uname) for m in members.values()} == {(0, "")}


def test_one_image_is_an_upload_too(client: Client, opened: Opened, tmp_path: Path):
    """It arrives under its own name, which need not be ASCII."""
    file = tmp_path / "grün & blau.png"
    file.write_bytes(picture(1, 3))

    job = client.ingest("photos", file)

    assert job.params["uploads"][0]["name"] == "grün & blau.png"
    assert sent_bytes(opened, job) == [picture(1, 3)]


def test_labeled_images_and_a_holdout_arrive_as_two_uploads_of_one_job(client: Client, opened: Opened, tmp_path: Path):
    """Each with its split; what was asked of generation 0 comes along."""
    for part, seed in (("labeled", 0), ("holdout", 1)):
        (tmp_path / part / "red").mkdir(parents=True)
        (tmp_path / part / "red" / "a.png").write_bytes(picture(0, 3, seed=seed))

    asked = GenerationRequest(student="tiny", recipe="tiny", overrides={"size": 24}, seed=5)
    job = client.labeled(tmp_path / "labeled", tmp_path / "holdout", request=asked)

    assert job.kind == JobKind.LABELED
    assert [u["split"] for u in job.params["uploads"]] == ["labeled", "holdout"]
    assert [u["name"] for u in job.params["uploads"]] == ["labeled.tar", "holdout.tar"]
    assert GenerationRequest(**job.params["request"]) == asked
    for data, seed in zip(sent_bytes(opened, job), (0, 1), strict=True):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert tar.extractfile("red/a.png").read() == picture(0, 3, seed=seed)  # type: ignore[union-attr]


def test_a_holdout_may_come_alone_and_nothing_is_no_upload(client: Client, opened: Opened):
    """More of a holdout is one upload of that split; with nothing to send, nothing is asked of the service."""
    job = client.labeled(holdout=io.BytesIO(b"an archive"))

    assert [u["split"] for u in job.params["uploads"]] == ["holdout"]
    assert sent_bytes(opened, job) == [b"an archive"]
    with pytest.raises(ValueError, match="nothing to send"):
        client.labeled()


def test_what_another_tool_said_is_sent_as_folders(client: Client, opened: Opened, tmp_path: Path):
    """Annotations of a CSV file arrive as a tar of a folder a class, which lay nowhere on disk."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture(0, 3, seed=ord(name[0])))
    (tmp_path / "labels.csv").write_text('path,label\na.png,"a, cat"\nb.png,dog\n')
    before = set(tmp_path.iterdir())

    job = client.labeled(reading.read(tmp_path / "labels.csv").packed())

    (data,) = sent_bytes(opened, job)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["labels/a, cat/000000-a.png", "labels/dog/000001-b.png"]
        assert tar.extractfile("labels/dog/000001-b.png").read() == (tmp_path / "b.png").read_bytes()  # type: ignore[union-attr]
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "data"}


def test_without_a_holdout_the_share_to_freeze_comes_along(client: Client, opened: Opened):
    """One upload, from a file that was opened by somebody else."""
    job = client.labeled(io.BytesIO(b"an archive"), holdout_fraction=0.3)

    assert job.params["holdout_fraction"] == 0.3
    assert sent_bytes(opened, job) == [b"an archive"]


def test_weights_are_named_by_their_content(client: Client, opened: Opened, tmp_path: Path):
    """The answer is the sha-256 of the file, under which the store has it."""
    file = tmp_path / "weights.safetensors"
    file.write_bytes((2).to_bytes(8, "little") + b"{}" + bytes(100))

    sha256 = client.weights(file)

    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert opened[1].get(weights_key(sha256)) == file.read_bytes()


# -- what goes wrong ------------------------------------------------------------------------------


def test_a_problem_is_raised_with_its_code_status_and_sentence(client: Client, serving: Callable[..., str]):
    """Programs look at the code, people read the message."""
    serving()
    cases: list[tuple[Callable[[], object], str, int]] = [
        (lambda: client.classify(b"no image"), "not_an_image", 415),
        (lambda: client.job("nobody"), "not_found", 404),
        (lambda: list(client.receipt("nobody")), "not_found", 404),
        (lambda: client.ingest("Not A Bucket", io.BytesIO(b"x")), "invalid_request", 422),
        (lambda: client.ingest("photos", io.BytesIO(b"")), "empty_upload", 422),
        (lambda: client.generate(), "not_ready", 503),
    ]
    for call, code, status in cases:
        with pytest.raises(RequestFailed) as caught:
            call()
        assert (caught.value.code, caught.value.status) == (code, status)
        assert len(str(caught.value)) > 10


def test_an_upload_over_the_limit_is_a_problem_and_not_a_broken_connection(
    service_settings: ServiceSettings, served: Callable[..., AbstractContextManager[str]]
):
    """The service answers and hangs up while the client still sends; the answer is what counts."""
    small = service_settings.model_copy(update={"max_upload_bytes": 1000})
    with served(small) as url, Client(url) as client, pytest.raises(RequestFailed) as caught:
        client.ingest("photos", io.BytesIO(bytes(2**25)))

    assert caught.value.status == 413


@pytest.mark.parametrize("call", ["classify", "readiness", "buckets"])
def test_nobody_answers_is_one_clear_sentence(call: str):
    """Where nobody was, and what to do."""
    with closing(socket.socket()) as deaf:  # bound, so nobody else gets the port; not listening
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with Client(url, patience_s=0) as client, pytest.raises(RequestFailed) as caught:
            getattr(client, call)(*[b"an image"] if call == "classify" else [])

    assert (caught.value.code, caught.value.status) == ("not_connected", None)
    assert re.fullmatch(rf"no answer from {url} \(.+\); start it with `understudy up`, or .+ --url", str(caught.value))


def test_reading_is_retried_while_the_service_is_away(
    service_settings: ServiceSettings, served: Callable[..., AbstractContextManager[str]]
):
    """The first request is hung up on; the service comes late, and answers the same call."""
    with (
        ThreadPoolExecutor(1) as caller,
        socket.create_server(("127.0.0.1", 0)) as server,
        Client("http://{}:{}".format(*server.getsockname())) as client,
    ):
        asked = caller.submit(client.buckets)
        server.accept()[0].close()
        with served(service_settings, server):
            assert asked.result(timeout=20) == []


def test_an_upload_that_was_hung_up_on_arrives_whole(
    service_settings: ServiceSettings, served: Callable[..., AbstractContextManager[str]], opened: Opened
):
    """It is read again from where it began, and is one job."""
    archive = io.BytesIO(b"not sent" + b"the archive")
    archive.seek(8)
    with (
        ThreadPoolExecutor(1) as caller,
        socket.create_server(("127.0.0.1", 0)) as server,
        Client("http://{}:{}".format(*server.getsockname())) as client,
    ):
        asked = caller.submit(client.ingest, "photos", archive)
        server.accept()[0].close()
        with served(service_settings, server):
            assert sent_bytes(opened, asked.result(timeout=20)) == [b"the archive"]
            assert len(client.jobs()) == 1


def test_what_could_act_twice_is_not_retried(strange: Callable[..., AbstractContextManager[tuple[str, list[bytes]]]]):
    """A POST that was hung up on may have been heard: the caller decides."""
    with strange(b"") as (url, requests), Client(url) as client:
        for call in (lambda: client.rollback(reason="x"), lambda: client.add_source("b", "s3://x/")):
            requests.clear()
            with pytest.raises(RequestFailed, match="no answer"):
                call()
            assert len(requests) == 1


def problem(status: int, code: str, *headers: str) -> bytes:
    """A refusal as the service writes it."""
    body = f'{{"code": "{code}", "detail": "a sentence", "status": {status}}}'
    lines = (f"HTTP/1.1 {status} No", "Connection: close", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join((*lines, "", body)).encode()


def header(request: bytes, name: str) -> str:
    """What a request says under a name."""
    lines = request.decode("latin-1").split("\r\n")
    return next(line.split(": ", 1)[1] for line in lines if line.lower().startswith(f"{name}: "))


def test_what_bears_a_key_is_sent_again_under_the_same_key(
    strange: Callable[..., AbstractContextManager[tuple[str, list[bytes]]]],
):
    """The first was hung up on, the second refused for now, the third refused for good; other calls, other keys."""
    lasting = problem(409, "conflict")
    for call in (Client.generate, lambda client: client.ingest("b", io.BytesIO(b"some bytes"))):
        with strange(b"", problem(503, "overloaded"), lasting) as (url, requests), Client(url) as client:
            for _ in range(2):
                with pytest.raises(RequestFailed) as caught:
                    call(client)

        keys = [header(request, "idempotency-key") for request in requests]
        assert caught.value.code == "conflict"
        assert len(keys) == 4
        assert keys[0] == keys[1] == keys[2] != keys[3]


@pytest.mark.parametrize(
    ("call", "refusal", "num_requests"),
    [
        (lambda client: client.buckets(), problem(429, "rate_limited", "Retry-After: 0"), 2),
        (lambda client: client.rollback(reason="x"), problem(429, "rate_limited", "Retry-After: 0"), 2),
        (lambda client: client.rollback(reason="x"), problem(503, "overloaded", "Retry-After: 0"), 1),
        (lambda client: client.buckets(), problem(503, "overloaded", "Retry-After: 3600"), 1),
        (lambda client: client.champion(), problem(503, "no_champion", "Retry-After: 0"), 1),
    ],
)
def test_a_refusal_that_passes_is_waited_for_as_the_service_asks(
    strange: Callable[..., AbstractContextManager[tuple[str, list[bytes]]]],
    call: Callable[[Client], object],
    refusal: bytes,
    num_requests: int,
):
    """Where that may help, is safe, and is no longer than the client's patience."""
    with strange(refusal, problem(404, "not_found", "X-Request-Id: 8f2c")) as (url, requests), Client(url) as client:
        with pytest.raises(RequestFailed) as caught:
            call(client)
        assert len(requests) == num_requests

    if num_requests == 2:
        assert (caught.value.status, caught.value.detail, caught.value.request_id) == (404, "a sentence", "8f2c")
    else:
        assert caught.value.retry_after_s is not None


def test_a_fault_of_the_service_is_told_with_the_request_to_look_for(
    strange: Callable[..., AbstractContextManager[tuple[str, list[bytes]]]],
):
    """In the log; of a refusal there is nothing to look for."""
    with (
        strange(problem(500, "internal", "X-Request-Id: 8f2c")) as (url, _),
        Client(url) as client,
        pytest.raises(RequestFailed, match=r"^a sentence \(request 8f2c\)$"),
    ):
        client.buckets()


def test_a_service_that_was_never_there_is_not_waited_for():
    """However patient the client is; one that was there is, whatever is asked of it: nothing was heard of it."""
    with closing(socket.socket()) as deaf:
        deaf.bind(("127.0.0.1", 0))
        with Client("http://{}:{}".format(*deaf.getsockname()), patience_s=1.0) as client:
            began = time.monotonic()
            with pytest.raises(RequestFailed, match="no answer"):
                client.buckets()
            assert time.monotonic() - began < 0.8
            client._was_there = True
            with pytest.raises(RequestFailed, match="no answer"):
                client.rollback(reason="x")
            assert time.monotonic() - began > 0.25


def test_a_client_is_shown_without_its_key():
    """Neither in a log nor on a screen."""
    with Client("http://127.0.0.1:1", key="us_secret") as client:
        assert repr(client) == "Client('http://127.0.0.1:1')"


def test_an_answer_that_is_not_of_understudy_is_told_in_one_line(
    strange: Callable[..., AbstractContextManager[tuple[str, list[bytes]]]],
):
    """Another server on that address: what it said, shortened, and a doubt about the address."""
    page = b"<html>\n<h1>It works</h1>\n</html>" + b"\n" * 10 + b"more " * 1000
    with strange(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n" + page) as (url, _), Client(url) as client:
        with pytest.raises(RequestFailed) as caught:
            client.buckets()
        with pytest.raises(RequestFailed, match="no answer"):
            client.readiness()

    assert caught.value.status == 404
    assert "\n" not in str(caught.value)
    assert "<html> <h1>It works</h1> </html>" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_good_answer_that_is_no_json_is_not_believed(
    strange: Callable[..., AbstractContextManager[tuple[str, list[bytes]]]],
):
    """A page that welcomes is not a prediction."""
    page = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<html>welcome</html>"
    with (
        strange(page) as (url, _),
        Client(url) as client,
        pytest.raises(RequestFailed, match="answered 200 as Understudy does not"),
    ):
        client.classify(b"an image")


@pytest.mark.parametrize("url", ["http://127.0.0.1:port", "http://[::1"])
def test_what_is_no_address_is_refused_at_once(url: str):
    """SettingsRefused, with an example of one."""
    with pytest.raises(SettingsRefused, match=re.escape("http://127.0.0.1:8000")):
        Client(url)


def test_this_machine_is_asked_directly_whatever_proxy_the_environment_names(url: str, monkeypatch: pytest.MonkeyPatch):
    """Behind a company's proxy the stack on one's own machine must still be found."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    with Client(url) as client:
        assert client.buckets() == []
