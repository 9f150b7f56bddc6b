"""As many connections at once as this machine allows: silent ones and slow ones, and a client that is answered beside them."""

import asyncio
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from understudy.testing import picture

RED = picture(0, 3)
#: What the service is asked to bear; on a machine that allows fewer files, as many as it does.
MOST_CONNECTIONS = 10_000
#: Files that this process needs besides; each connection is two, for the service runs here too.
OTHER_FILES = 500
#: Opened at the same time: the queue of connections that wait to be accepted is shorter than all of them.
AT_ONCE = 500

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


def seconds_of(http: httpx.Client, num_requests: int = 20) -> float:
    """The middle of the times in which a good client is answered, and rightly."""
    seconds = []
    for _ in range(num_requests):
        began = time.perf_counter()
        assert http.post("/classify", content=RED).json()["predictions"][0]["label"] == "red"
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


async def open_all(url: str, num_connections: int) -> list[asyncio.StreamWriter]:
    """So many connections that have begun and do not go on."""
    address = urlsplit(url)
    turn = asyncio.Semaphore(AT_ONCE)

    async def begin(number: int) -> asyncio.StreamWriter:
        async with turn:
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(BEGINNINGS[number % len(BEGINNINGS)])
            await writer.drain()
            return writer

    return await asyncio.gather(*(begin(number) for number in range(num_connections)))


async def test_a_good_client_is_answered_beside_as_many_bad_ones_as_the_machine_allows(
    url: str, http: httpx.Client, serving: Serving, until: Callable[..., None], num_connections: int
):
    """They cost it nothing but their sockets; when they leave, every one of these is given back."""
    await asyncio.to_thread(serving)
    alone_s = await asyncio.to_thread(seconds_of, http)
    before = num_files()
    connections = await open_all(url, num_connections)
    assert num_files() >= before + 2 * num_connections * 0.95  # the service may have closed some as too slow
    beside_s = await asyncio.to_thread(seconds_of, http)
    assert beside_s < 20 * alone_s + 0.5
    for connection in connections:
        connection.close()
    await asyncio.gather(*(connection.wait_closed() for connection in connections), return_exceptions=True)
    connections.clear()
    await asyncio.to_thread(until, lambda: num_files() <= before + 5)
    assert await asyncio.to_thread(seconds_of, http) < 20 * alone_s + 0.5
