"""Deliveries to a real receiver: signed, tried again, never to private addresses, and sent again after a kill -9."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import update

from understudy import webhooks as signing
from understudy.addresses import Allowance
from understudy.catalog import Catalog, webhooks
from understudy.catalog.tables import DeliveryRow
from understudy.errors import SourceAway
from understudy.records import JobState, WebhookEvent
from worker import webhooks as courier
from worker.fetching import MAX_REPLY_BYTES, Fetcher

HERE = Allowance.read("127.0.0.1/32", setting="UNDERSTUDY_ALLOWED_HOOKS")
EVERYTHING = tuple(WebhookEvent)


@dataclass
class Receiver:
    """A real HTTP server: what it was sent, and what it answers, the last for ever."""

    url: str
    answers: list[tuple[int, bytes]] = field(default_factory=lambda: [(200, b"ok")])
    sent: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Receiving(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            here.sent.append((self.path, dict(self.headers), body))
            assert here.may_answer.wait(30)
            status, answer = here.answers.pop(0) if len(here.answers) > 1 else here.answers[0]
            self.send_response(status)
            self.send_header("Location", f"{here.url}/elsewhere")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Not to the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiving) as server:
        server.handle_error = lambda request, address: None  # type: ignore[method-assign]  # who hangs up, may
        here = Receiver(f"http://127.0.0.1:{server.server_port}")
        here.may_answer.set()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield here
        here.may_answer.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def hook(sqlite_catalog, receiver):
    return webhooks.add(sqlite_catalog, url=f"{receiver.url}/hook?token=t0ken", events=EVERYTHING, actor="me")


@pytest.fixture
def deliver(sqlite_catalog, hook):
    """Sends what is due, once; gives whether there was something."""

    def once(allowed=HERE, fetcher=None):
        return courier.deliver(sqlite_catalog, fetcher or Fetcher(allowed), allowed, hook.id)

    return once


def lapse(catalog):
    with catalog.write() as session:
        session.execute(update(DeliveryRow).where(DeliveryRow.lease_until.is_not(None)).values(lease_until=1.0))


def test_a_delivery_is_signed_and_logged(sqlite_catalog, receiver, hook, deliver):
    """The receiver checks it with the secret; what it answers is kept as far as it is short."""
    receiver.answers = [(202, b"thanks \x00 " + b"x" * 10_000)]
    sent = webhooks.ping(sqlite_catalog, hook.id)
    assert [deliver(), deliver()] == [True, False]
    ((path, headers, body),) = receiver.sent
    assert path == "/hook?token=t0ken"
    event = signing.verify(hook.secret, headers, body)
    assert (event["type"], event["subject"], event["id"]) == ("ping", hook.id, sent.event_id)
    assert headers["content-type"] == "application/json"
    done = webhooks.delivery(sqlite_catalog, hook.id, sent.id)
    assert (done.state, done.attempts[0].status, done.attempts[0].problem) == (JobState.SUCCEEDED, 202, None)
    assert done.attempts[0].answer.startswith("thanks \ufffd xxx")
    assert len(done.attempts[0].answer) == courier.ANSWER_CHARS


def test_after_a_500_it_is_sent_again(sqlite_catalog, receiver, hook, deliver, caplog):
    """Under the same id and with the same body; the log has neither secret nor token."""
    receiver.answers = [(500, b"not now"), (200, b"ok")]
    sent = webhooks.ping(sqlite_catalog, hook.id)
    assert [deliver(), deliver()] == [True, False]
    assert webhooks.delivery(sqlite_catalog, hook.id, sent.id).state is JobState.QUEUED
    lapse(sqlite_catalog)
    assert deliver()
    assert [a.status for a in webhooks.delivery(sqlite_catalog, hook.id, sent.id).attempts] == [500, 200]
    (_, first, body), (_, second, again) = receiver.sent
    assert body == again
    assert first["webhook-id"] == second["webhook-id"]
    assert f"webhook {hook.id}, delivery {sent.id}: it answered 500; tried again later" in caplog.text
    assert "t0ken" not in caplog.text
    assert hook.secret not in caplog.text


def test_a_redirect_is_not_followed(sqlite_catalog, receiver, hook, deliver):
    """It could lead anywhere."""
    receiver.answers = [(307, b"")]
    sent = webhooks.ping(sqlite_catalog, hook.id)
    assert deliver()
    assert [path for path, *_ in receiver.sent] == ["/hook?token=t0ken"]
    (attempt,) = webhooks.delivery(sqlite_catalog, hook.id, sent.id).attempts
    assert (attempt.status, attempt.problem) == (307, "it answered 307; redirects are not followed")


def test_a_private_address_is_not_connected_to(sqlite_catalog, receiver, deliver, hook):
    """Neither by its number nor by a name that resolves to it since the webhook was added."""
    sent = webhooks.ping(sqlite_catalog, hook.id)
    assert deliver(allowed=Allowance.read("", setting="UNDERSTUDY_ALLOWED_HOOKS"))
    named = webhooks.add(sqlite_catalog, url="http://hooks.example/", events=EVERYTHING, actor="me")
    webhooks.ping(sqlite_catalog, named.id)
    nobody = Allowance.read("", setting="UNDERSTUDY_ALLOWED_HOOKS")
    rebound = Fetcher(nobody, resolve=lambda host, port: ["169.254.169.254"])
    assert courier.deliver(sqlite_catalog, rebound, nobody, named.id)
    assert receiver.sent == []
    (attempt,) = webhooks.delivery(sqlite_catalog, hook.id, sent.id).attempts
    assert attempt.status is None
    assert (
        attempt.problem
        == "127.0.0.1 is a private, local or reserved address; UNDERSTUDY_ALLOWED_HOOKS allows what is meant"
    )
    (other,) = webhooks.deliveries(sqlite_catalog, named.id, limit=9)
    assert "hooks.example resolves to an address that is refused: 169.254.169.254" in other.attempts[0].problem


def test_a_receiver_that_does_not_answer_is_left_in_time(receiver):
    """The time is for all of it; and of a long answer no more than the beginning is read."""
    from understudy import addresses

    to = addresses.hook(f"{receiver.url}/slow", HERE)
    receiver.may_answer.clear()
    with pytest.raises(SourceAway, match="does not answer in time"):
        Fetcher(HERE).post(to, b"{}", {}, timeout_s=0.2)
    receiver.may_answer.set()
    receiver.answers = [(200, b"x" * 1_000_000)]
    reply = Fetcher(HERE).post(to, b"{}", {}, timeout_s=10)
    assert len(reply.beginning) == MAX_REPLY_BYTES


def test_an_answer_that_drips_is_left_in_time(drip):
    """However little is waited for each byte."""
    from understudy import addresses

    with pytest.raises(SourceAway, match="does not answer in time"):
        Fetcher(HERE).post(addresses.hook(drip, HERE), b"{}", {}, timeout_s=0.3)


@pytest.fixture
def drip() -> Iterator[str]:
    """The address of a server that sends a byte of its answer now and then."""
    ended = threading.Event()

    class Dripping(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            while not ended.wait(0.05):
                self.wfile.write(b"H")

        def log_message(self, format: str, *args: object) -> None:
            """Not to the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as server:
        server.handle_error = lambda request, address: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        ended.set()
        server.shutdown()
        thread.join()


def test_the_pauses_grow_up_to_a_day():
    """By chance a quarter more or less, so that many do not come at once."""
    for number in range(1, webhooks.MAX_ATTEMPTS):
        pauses = {courier.pause_s(number) for _ in range(20)}
        assert len(pauses) > 1
        assert all(0.75 <= pause / (5 * 4 ** (number - 1)) <= 1.25 for pause in pauses)
        assert max(pauses) <= 24 * 3600
    assert 20 * 3600 < sum(courier.pause_s(number) for number in range(1, webhooks.MAX_ATTEMPTS)) < 48 * 3600


def test_a_slow_webhook_holds_up_no_other(sqlite_catalog, receiver, until):
    """Each has a thread of its own, and is sent one thing at a time."""
    slow, fast = (
        webhooks.add(sqlite_catalog, url=f"{receiver.url}/{name}", events=EVERYTHING, actor="me").id
        for name in ("slow", "fast")
    )
    receiver.may_answer.clear()
    for _ in range(2):
        webhooks.ping(sqlite_catalog, slow)
    stopped = threading.Event()
    running = courier.Courier(sqlite_catalog, Fetcher(HERE), HERE, stopped)
    running.look()
    until(lambda: len(receiver.sent) == 1)
    webhooks.ping(sqlite_catalog, fast)
    running.look()
    until(lambda: len(receiver.sent) == 2)
    assert sorted(path for path, *_ in receiver.sent) == ["/fast", "/slow"]
    receiver.may_answer.set()
    until(lambda: webhooks.due(sqlite_catalog) == [] and len(receiver.sent) == 3)
    stopped.set()
    running.join(10)


class Rounds(threading.Event):
    """Is set after so many waits, none of which takes any time."""

    def __init__(self, num: int) -> None:
        super().__init__()
        self.left = num

    def wait(self, timeout: float | None = None) -> bool:
        self.left -= 1
        if self.left == 0:
            self.set()
        return self.is_set()


def test_a_catalog_that_is_away_is_told_once(tmp_path, caplog):
    """Not each second; it goes on looking."""
    with closing(Catalog(f"sqlite:///{tmp_path / 'nothing.db'}")) as away:
        courier.Courier(away, Fetcher(HERE), HERE, rounds := Rounds(3)).run()
        assert rounds.left == 0
        assert caplog.text.count("could not look for what webhooks are to be told") == 1
        away.migrate()
        courier.Courier(away, Fetcher(HERE), HERE, Rounds(1)).run()
    assert caplog.text.count("could not look") == 1


@contextmanager
def reconciling(settings, log: Path, **changed: str) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m worker reconcile``, killed at the end."""
    with log.open("ab") as into:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "reconcile"], env=settings.environment() | changed, stderr=into
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_what_a_killed_reconciler_was_sending_another_sends_again(
    sqlite_catalog, resources, redis_url, receiver, hook, tmp_path, until: Callable[..., None]
):
    """kill -9 while the receiver thinks: it comes again, under the same id, and once more it is not sent."""
    settings = resources.settings.model_copy(update={"broker_url": redis_url, "allowed_hooks": "127.0.0.1/32"})
    log = tmp_path / "reconcile.log"
    sent = webhooks.ping(sqlite_catalog, hook.id)
    receiver.may_answer.clear()
    with reconciling(settings, log) as first:
        until(lambda: len(receiver.sent) == 1)
        first.send_signal(signal.SIGKILL)
        first.wait()
    receiver.may_answer.set()
    assert webhooks.delivery(sqlite_catalog, hook.id, sent.id).state is JobState.RUNNING
    with reconciling(settings, log) as second:
        until(lambda: webhooks.delivery(sqlite_catalog, hook.id, sent.id).state is JobState.SUCCEEDED)
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0
    assert [json.loads(body)["id"] for *_, body in receiver.sent] == [sent.event_id] * 2
    assert hook.secret not in log.read_text()
    assert "t0ken" not in log.read_text()
