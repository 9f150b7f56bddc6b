"""A serving process from its start to its end, by signals, under load."""

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing

import httpx
import pytest

from understudy.testing import picture

#: A process that has nothing left to do is gone within this, on a busy machine too.
SOON_S = 15.0
NUM_CLIENTS = 8

#: A server whose application never comes to its end, as one with an engine that hangs.
HANGING = """
import socket, sys, threading
from types import SimpleNamespace
import uvicorn
from service import server
from service.connections import Connections
from service.metrics import Metrics

async def hangs(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    print("started", flush=True)
    await receive()
    threading.Event().wait()

server.LAST_RESORT_S = 0.5
limits = Connections(header_timeout_s=1, send_timeout_s=1, max_connections=1, metrics=Metrics())
config = uvicorn.Config(hangs, lifespan="on", log_config=None, timeout_graceful_shutdown=1)
server.Server(config, SimpleNamespace(), limits, drain_s=0.5).run([socket.create_server(("127.0.0.1", 0))])
"""
IMAGE = picture(0, 3)
HEAD = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


class Asking(threading.Thread):
    """A client that keeps its connection and asks again and again, until the service takes no connection."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        while self._ask_over_one_connection():
            pass

    def _ask_over_one_connection(self) -> bool:
        """Whether to open another: the service ended this one after an answer."""
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as connection:
            num_answers = 0
            try:
                while True:
                    connection.request("POST", "/classify", IMAGE, {"Content-Type": "image/png"})
                    answer = connection.getresponse()
                    answer.read()
                    self.outcomes[str(answer.status)] += 1
                    num_answers += 1
                    if answer.will_close:
                        return True
            except OSError as error:
                # Never answered on: it waited for a process that has stopped taking connections.
                self.outcomes[type(error).__name__ if num_answers else "refused"] += 1
                return False


def half_sent(port: int) -> socket.socket:
    """A request whose body has not come to its end, so that it is accepted and not answered."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(HEAD % len(IMAGE) + IMAGE[:10])
    return connection


def is_refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_sigterm_under_load_answers_all_that_was_accepted(start_service, promote, until: Callable[..., None]):
    """Each client gets 200 for each request until it is told to close; then nobody is there; the exit code is 0."""
    version = promote()
    service = start_service()
    until(lambda: service.ready().get("model") == version)
    clients = [Asking(service.port) for _ in range(NUM_CLIENTS)]
    for client in clients:
        client.start()
    until(lambda: all(client.outcomes["200"] >= 5 for client in clients))

    service.process.send_signal(signal.SIGTERM)

    assert service.process.wait(SOON_S) == 0
    for client in clients:
        client.join(SOON_S)
    assert all(set(client.outcomes) == {"200", "refused"} for client in clients), [c.outcomes for c in clients]
    assert all(client.outcomes["refused"] == 1 for client in clients)


def test_a_request_that_was_begun_is_finished_after_sigterm(start_service, promote, until: Callable[..., None]):
    """New connections are refused, idle ones closed; the one that is being sent is answered, then all is over."""
    version = promote()
    service = start_service()
    until(lambda: service.ready().get("model") == version)
    idle = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    with closing(half_sent(service.port)) as begun, closing(idle):
        idle.request("POST", "/classify", IMAGE)
        assert idle.getresponse().read() != b""
        assert idle.sock is not None
        until(lambda: service.metric("understudy_http_requests_in_flight") == 2)  # it, and the question

        service.process.send_signal(signal.SIGTERM)
        until(lambda: is_refused(service.port), 10)
        assert idle.sock.recv(1) == b""
        begun.sendall(IMAGE[10:])
        with begun.makefile("rb") as reading:
            answer = reading.read()

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    assert version.encode() in answer
    assert service.process.wait(SOON_S) == 0


def test_with_a_drain_it_goes_on_serving_and_says_that_it_stops(start_service, promote, until: Callable[..., None]):
    """A load balancer that asks /readyz sends its requests elsewhere before connections are refused."""
    version = promote()
    service = start_service(drain_s=3.0)
    until(lambda: service.ready().get("model") == version)

    began = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    until(lambda: service.ready().get("stopping") is True, 2)

    answer = httpx.get(f"{service.url}/readyz")
    assert (answer.status_code, answer.json()["ready"], answer.json()["model"]) == (503, False, version)
    assert httpx.get(f"{service.url}/healthz").status_code == 200
    assert httpx.post(f"{service.url}/classify", content=IMAGE).status_code == 200
    assert service.process.wait(SOON_S) == 0
    assert time.monotonic() - began >= 3.0


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)])
def test_a_second_signal_ends_it_at_once(
    start_service, until: Callable[..., None], first: signal.Signals, second: signal.Signals
):
    """Whatever is still being answered; the exit code says that it was cut off."""
    service = start_service(grace_s=100)
    with closing(half_sent(service.port)):
        until(lambda: service.metric("understudy_http_requests_in_flight") == 2)
        service.process.send_signal(first)
        until(lambda: is_refused(service.port), 10)

        service.process.send_signal(second)

        assert service.process.wait(SOON_S) == 1
    assert any("second signal" in event["message"] for event in service.log)


def test_what_is_not_finished_when_the_grace_is_over_is_cut_off(start_service, until: Callable[..., None]):
    """A client that never ends its request does not keep the process alive."""
    service = start_service(grace_s=1)
    with closing(half_sent(service.port)) as begun:
        until(lambda: service.metric("understudy_http_requests_in_flight") == 2)

        service.process.send_signal(signal.SIGTERM)

        assert service.process.wait(SOON_S) == 0
        assert b"200" not in begun.recv(65536)


def test_what_hangs_is_ended_from_outside_the_event_loop():
    """When drain, grace and a little more are over; the exit code says that it was no orderly end."""
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", HANGING], stdout=subprocess.PIPE) as hanging:
        assert hanging.stdout is not None
        assert hanging.stdout.readline() == b"started\n"
        hanging.send_signal(signal.SIGTERM)

        assert hanging.wait(SOON_S) == 1
    assert time.monotonic() - began >= 2.0


def test_every_line_of_its_log_is_json(start_service, promote, until: Callable[..., None]):
    """Its own lines and uvicorn's; a request has one, with the id that its answer carried."""
    version = promote()
    service = start_service()
    until(lambda: service.ready().get("model") == version)
    answer = httpx.post(f"{service.url}/classify", content=IMAGE)
    service.process.send_signal(signal.SIGTERM)
    service.process.wait(SOON_S)

    loggers = {event["logger"] for event in service.log}
    lines = [event for event in service.log if event["logger"] == "service.requests"]
    (line,) = lines
    assert {"service.server", "uvicorn.error", "service.requests"} <= loggers
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/classify", 200)


def test_traces_go_to_the_collector_of_the_settings(start_service, collector, until: Callable[..., None]):
    """The last ones when it stops."""
    url, spans = collector
    service = start_service(otlp_endpoint=url)
    httpx.get(f"{service.url}/jobs")
    service.process.send_signal(signal.SIGTERM)

    assert service.process.wait(SOON_S) == 0
    assert [span.name for span in spans] == ["GET /jobs"]
