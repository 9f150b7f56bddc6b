"""Clients of the service that ``tests/conftest.py`` runs: a good one, and one that does what it likes with its socket."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPResponse
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import pytest

#: No answer of these tests takes longer, whatever the machine is busy with.
PATIENCE_S = 60.0


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    """A client of the running service."""
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of a problem."""
        return str(self.json()["code"])

    def json(self) -> Any:
        """The document in the body."""
        return json.loads(self.body)


class Line:
    """One connection, byte by byte."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S)

    def send(self, *pieces: bytes) -> Self:
        """All of them, or as many as the service takes before it hangs up."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except ConnectionError:
            pass  # what it answered before is still to be read
        return self

    def post(self, *headers: str, body: bytes = b"", path: str = "/classify", length: int | None = None) -> Self:
        """A whole request; ``length`` is what it says of its body."""
        head = [
            f"POST {path} HTTP/1.1",
            "Host: test",
            *headers,
            f"Content-Length: {len(body) if length is None else length}",
        ]
        return self.send("\r\n".join([*head, "", ""]).encode("latin-1"), body)

    def answer(self) -> Answer:
        """The next one. Raises http.client.HTTPException if the service hangs up without."""
        response = HTTPResponse(self.socket)
        response.begin()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def is_closed(self) -> bool:
        """Whether the service hangs up; waits for it."""
        try:
            while self.socket.recv(2**16):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@pytest.fixture
def line() -> Iterator[Callable[[str], Line]]:
    """Opens connections to an address; they are closed at the end."""
    with ExitStack() as stack:
        yield lambda address: stack.enter_context(Line(address))


@pytest.fixture
def metric() -> Callable[..., float]:
    """One sample of a service's metrics, by name and labels; 0 where it has never been counted."""

    def sample(client: httpx.Client, name: str, **labels: str) -> float:
        for text in client.get("/metrics").text.splitlines():
            is_it = text.startswith((f"{name} ", f"{name}{{")) and all(f'{k}="{v}"' in text for k, v in labels.items())
            if is_it:
                return float(text.split()[-1])
        return 0.0

    return sample
