"""Connections over raw sockets: slow ones, silent ones, one too many, and those that are as they should be."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import httpx
import pytest

from service.connections import MAX_HEAD_BYTES, Corked
from understudy.settings import ServiceSettings

#: Long enough for a whole request on a busy machine, short enough to wait for.
HEADER_TIMEOUT_S = 1.0
MAX_CONNECTIONS = 5

WHOLE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-More: "

Connect = Callable[[], socket.socket]


@pytest.fixture
def address(service_settings: ServiceSettings, served: Callable[..., contextlib.AbstractContextManager[str]]):
    """A service that has little patience and takes few connections."""
    chosen = service_settings.model_copy(
        update={
            "header_timeout_s": HEADER_TIMEOUT_S,
            "send_timeout_s": HEADER_TIMEOUT_S,
            "max_connections": MAX_CONNECTIONS,
        }
    )
    with served(chosen) as url:
        yield url


@pytest.fixture
def connect(address: str) -> Iterator[Connect]:
    """Opens raw connections, closed at the end."""
    with contextlib.ExitStack() as stack:

        def connected() -> socket.socket:
            host, port = address.removeprefix("http://").split(":")
            return stack.enter_context(closing(socket.create_connection((host, int(port)), timeout=20)))

        yield connected


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side has ended."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer with a length: status, headers, body."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        assert chunk, f"closed after {received!r}"
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(status.split()[1]), headers, body


def refusals(address: str, reason: str) -> float:
    text = httpx.get(f"{address}/metrics").text
    lines = [line for line in text.splitlines() if f'understudy_refused_connections_total{{reason="{reason}"}}' in line]
    return float(lines[0].split()[-1]) if lines else 0.0


def test_half_a_head_gets_408_and_is_closed(address: str, connect: Connect):
    """The problem says how long was waited; the connection is closed and counted."""
    began = time.monotonic()
    connection = connect()
    connection.sendall(HALF)

    status, headers, body = answer(connection)

    assert status == 408
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert headers["x-request-id"]
    assert json.loads(body)["code"] == "head_timeout"
    assert "1 s" in json.loads(body)["detail"]
    assert everything(connection) == b""
    assert time.monotonic() - began >= HEADER_TIMEOUT_S
    assert refusals(address, "head_timeout") == 1


def test_a_head_that_trickles_gets_no_more_time(connect: Connect):
    """Each byte that comes does not start the clock anew."""
    connection = connect()
    pause = threading.Event()

    def trickle() -> None:
        with contextlib.suppress(OSError):
            connection.sendall(HALF)
            while not pause.wait(HEADER_TIMEOUT_S / 10):
                connection.sendall(b"x")

    writer = threading.Thread(target=trickle)
    began = time.monotonic()
    writer.start()

    assert answer(connection)[0] == 408
    assert time.monotonic() - began < 5 * HEADER_TIMEOUT_S
    pause.set()
    writer.join()


@pytest.mark.parametrize("said", [b"", b"\r\n"])
def test_a_connection_that_asks_nothing_is_closed(address: str, connect: Connect, said: bytes):
    """There is nothing to answer: it is closed without a word."""
    connection = connect()
    connection.sendall(said)

    assert everything(connection) == b""
    assert refusals(address, "silent") == 1


def test_a_kept_connection_has_the_same_time_for_its_next_request(connect: Connect):
    """The second head of a connection is as limited as its first."""
    connection = connect()
    connection.sendall(WHOLE)
    assert answer(connection)[0] == 200
    connection.sendall(HALF)

    assert answer(connection)[0] == 408


def test_a_head_in_pieces_and_a_kept_connection_are_served(connect: Connect):
    """Whoever is slow but in time gets his answer, again and again."""
    connection = connect()
    for _ in range(3):
        for i in range(0, len(WHOLE), 9):
            connection.sendall(WHOLE[i : i + 9])
        assert answer(connection)[0] == 200


def test_requests_that_come_together_are_answered_in_order(connect: Connect):
    """Pipelining works as before, also when the last one comes in halves."""
    connection = connect()
    connection.sendall(WHOLE * 2 + b"GET /nothing HTTP/1.1\r\n")
    connection.sendall(b"Host: x\r\nConnection: close\r\n\r\n")

    received = everything(connection)

    assert [line.split()[1] for line in received.split(b"HTTP/1.1")[1:] for line in [b"x" + line]] == [
        b"200",
        b"200",
        b"404",
    ]


def test_the_body_has_its_own_time(connect: Connect):
    """A head that is complete is not cut off because its body takes longer than a head may."""
    connection = connect()
    connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
    connection.settimeout(2 * HEADER_TIMEOUT_S)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.settimeout(20)
    connection.sendall(b"nope")

    assert answer(connection)[0] in (415, 503)


def test_an_endless_head_gets_431(address: str, connect: Connect):
    """It is refused as soon as it is too large, not when its time is over."""
    connection = connect()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(HALF + b"x" * (MAX_HEAD_BYTES + 2**10))
        connection.sendall(b"x" * 2**10)

    status, _, body = answer(connection)

    assert (status, json.loads(body)["code"]) == (431, "head_too_large")
    assert str(MAX_HEAD_BYTES) in json.loads(body)["detail"]


@pytest.mark.parametrize(
    "said", [b"\x16\x03\x01\x02\x00\x01", b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"]
)
def test_what_is_no_http_gets_a_problem(connect: Connect, said: bytes):
    """Also a TLS hello that was meant for another port."""
    connection = connect()
    connection.sendall(said)

    status, headers, body = answer(connection)

    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert json.loads(body)["code"] == "bad_request"


def test_a_body_that_breaks_its_own_rules_ends_its_request(address: str, connect: Connect, until: Callable[..., None]):
    """A chunk without a length: the client hears of it, and nothing waits for the rest."""
    connection = connect()
    connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")

    assert answer(connection)[0] == 400
    # The one that asks is in flight itself.
    until(lambda: "understudy_http_requests_in_flight 1.0" in httpx.get(f"{address}/metrics").text, 10)


def test_one_connection_too_many_gets_503_at_once(address: str, connect: Connect, until: Callable[..., None]):
    """It is told when to come back; those that are open are served, and a place that becomes free is given away."""
    held = [connect() for _ in range(MAX_CONNECTIONS)]
    for each in held:
        each.sendall(WHOLE)
        assert answer(each)[0] == 200
    began = time.monotonic()
    refused = connect()

    status, headers, body = answer(refused)  # nothing was asked

    assert time.monotonic() - began < HEADER_TIMEOUT_S
    assert status == 503
    assert headers["retry-after"] == "1"
    assert json.loads(body)["code"] == "too_many_connections"
    assert str(MAX_CONNECTIONS) in json.loads(body)["detail"]
    assert everything(refused) == b""
    for each in held:
        each.sendall(WHOLE)
        assert answer(each)[0] == 200
    for each in held[:2]:
        each.close()
    until(lambda: httpx.get(f"{address}/healthz").status_code == 200, 10)
    assert refusals(address, "too_many_connections") >= 1


def test_open_connections_are_counted(address: str, connect: Connect, until: Callable[..., None]):
    """The gauge goes up and comes down again."""
    with connect() as held, httpx.Client(base_url=address) as asking:
        held.sendall(WHOLE)
        answer(held)
        assert "understudy_connections 2.0" in asking.get("/metrics").text
        held.close()
        until(lambda: "understudy_connections 1.0" in asking.get("/metrics").text, 10)


def test_a_client_that_does_not_read_its_answers_is_cut_off(address: str, until: Callable[..., None]):
    """It asks and asks; when nothing could be sent for so long, its connection and its request are over."""
    host, port = address.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 200)

        until(lambda: refusals(address, "not_read") == 1, 20)

        until(lambda: "understudy_http_requests_in_flight 1.0" in httpx.get(f"{address}/metrics").text, 10)


class Wire:
    """A transport that keeps what is written to it, a piece a write."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_extra_info(self, name: str) -> None:
        return None


async def test_a_head_and_its_body_go_out_in_one_write():
    """The body does not wait either, when it comes later than the turn of the event loop in which its head came."""
    wire = Wire()
    corked = Corked(wire, asyncio.get_running_loop())
    corked.write(b"head ")
    corked.write(b"body")
    corked.write(b"another head")
    assert wire.written == [b"head body"]
    await asyncio.sleep(0)
    assert wire.written == [b"head body", b"another head"]


async def test_a_connection_is_closed_after_what_was_written_to_it():
    """What waits for more goes out first, and once."""
    wire = Wire()
    corked = Corked(wire, asyncio.get_running_loop())
    corked.write(b"all")
    corked.close()
    await asyncio.sleep(0)
    assert wire.written == [b"all"]
    assert wire.is_closed
    assert corked.is_closing()
