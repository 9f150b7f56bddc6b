"""As many connections at once as this machine allows: silent ones and slow ones, and a client that is answered beside them."""

import gc
import re
import resource
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from understudy.settings import ServiceSettings
from understudy.testing import picture

RED = picture(0, 3)
#: What the service is asked to bear; on a machine that allows fewer files, as many as it does.
MOST_CONNECTIONS = 10_000
#: Files that this process needs besides; each connection is two, for the service runs here too.
OTHER_FILES = 500
#: Opened before the service has accepted them: a few less than its queue holds. What overflows it may be lost for ever where
#: the system answers with SYN cookies and the client, which believes to be connected, says nothing.
AT_ONCE = 50
#: So few of all may be lost on the way, and none by the service.
LOST = 20
#: How long a connection may take to come about, whatever the machine is busy with.
PATIENCE_S = 60.0

Serving = Callable[..., str]

#: What they send, and then nothing: no byte, half a head, a head and half a body.
BEGINNINGS = (
    b"",
    b"POST /classify HTTP/1.1\r\nHost: te",
    b"POST /classify HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\nhalf",
)


def num_files() -> int:
    """Files and sockets that this process has open."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


@pytest.fixture
def num_connections() -> Iterator[int]:
    """How many connections this process can have to itself, with its limit of files raised as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield min(MOST_CONNECTIONS, (hard - num_files() - OTHER_FILES) // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def num_accepted(http: httpx.Client) -> float:
    """Connections that the service has open, as it says itself: other tests' files come and go."""
    (line,) = re.findall(r"^understudy_connections (\S+)$", http.get("/metrics").text, re.MULTILINE)
    return float(line)


def seconds_of(http: httpx.Client, num_requests: int = 20) -> float:
    """The middle of the times in which a good client is answered, and rightly."""
    seconds = []
    for _ in range(num_requests):
        began = time.perf_counter()
        assert http.post("/classify", content=RED).json()["predictions"][0]["label"] == "red"
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@pytest.fixture
def service_settings(service_settings: ServiceSettings) -> ServiceSettings:
    """Slow clients may take their time, so that all are there at once however slow the machine is."""
    return service_settings.model_copy(update={"header_timeout_s": 600.0, "body_timeout_s": 600.0})


def begun(url: str, number: int) -> socket.socket:
    """A connection that has begun and does not go on."""
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S)
    connection.sendall(BEGINNINGS[number % len(BEGINNINGS)])
    return connection


def test_a_good_client_is_answered_beside_as_many_bad_ones_as_the_machine_allows(
    url: str, http: httpx.Client, serving: Serving, until: Callable[..., None], num_connections: int
):
    """They cost it nothing but their sockets; when they leave, every one of these is given back."""
    serving()
    alone_s = seconds_of(http)
    gc.collect()
    before = num_files()
    with ExitStack() as stack:
        for number in range(num_connections):
            stack.enter_context(begun(url, number))
            if number % AT_ONCE == 0 or number == num_connections - 1:
                until(lambda wanted=number - LOST: num_accepted(http) >= wanted)  # and none of them is closed
        assert seconds_of(http) < 20 * alone_s + 0.5
    until(lambda: num_files() <= before + 5)
    assert seconds_of(http) < 20 * alone_s + 0.5
