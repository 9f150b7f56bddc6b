"""Files by https from public addresses only, and webhooks to them. The only door to httpcore.

A host is resolved once a connection; every address it has is judged, and the connection goes to a judged
address, while TLS and the Host header keep the name: a name that changes its mind in between changes nothing.
No proxy, no cookies, no credentials; each redirect is a new URL, judged as the first was.
"""

import email.utils
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import certifi
import httpcore

from understudy import addresses
from understudy.addresses import Allowance, Source
from understudy.errors import SourceAway, SourceRefused
from understudy.store import Listed

MAX_REDIRECTS = 5
CONNECT_S, READ_S = 10.0, 30.0
#: A body may always take this long; beyond, it must come faster than a bad telephone line.
FREE_S, MIN_BYTES_PER_S = 60.0, 16 * 1024
PIECE_BYTES = 2**20
#: Of a webhook's answer no more is read.
MAX_REPLY_BYTES = 2**12

_REDIRECTS = (301, 302, 303, 307, 308)
#: What is worth another attempt later.
_PASSING = (408, 425, 429)
_TIMEOUTS = {"connect": CONNECT_S, "read": READ_S, "write": CONNECT_S, "pool": CONNECT_S}

#: Gives the addresses of a host.
Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """By the system. Raises SourceAway for a name that it does not know."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SourceAway(f"the name {host} cannot be resolved") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True)
class Answer:
    """A file that is being sent."""

    listed: Listed
    pieces: Iterator[bytes]


@dataclass(frozen=True)
class Reply:
    """What a webhook answered."""

    status: int
    beginning: bytes  #: of its body


class Fetcher:
    """Fetches files, and tells webhooks. It keeps no connections, so threads may share it."""

    def __init__(
        self, allowed: Allowance, *, resolve: Resolve = resolve, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._allowed = allowed
        self._backend = _Judging(allowed, resolve)
        self._ssl_context = ssl_context or _trusting()

    @contextmanager
    def open(self, source: Source) -> Iterator[Answer]:
        """Ask for a file, following redirects. Raises SourceRefused, SourceAway, also while it is read."""
        with httpcore.ConnectionPool(
            ssl_context=self._ssl_context, network_backend=self._backend, keepalive_expiry=0, retries=0
        ) as pool:
            at = source
            for _ in range(MAX_REDIRECTS + 1):
                with (
                    _said(at.host),
                    pool.stream(
                        "GET", at.url, headers=[("host", at.netloc), *_ASKED], extensions=_extensions()
                    ) as reply,
                ):
                    if reply.status not in _REDIRECTS:
                        _refuse_status(at.host, reply.status)
                        headers = _Headers(reply.headers)
                        yield Answer(headers.listed(source.url), _pieces(at.host, reply.iter_stream()))
                        return
                    at = self._redirected(at, _Headers(reply.headers).get("location"))
        raise SourceRefused(f"{source.host} redirects more than {MAX_REDIRECTS} times", code="too_many_redirects")

    def post(self, to: Source, body: bytes, headers: Mapping[str, str], *, timeout_s: float) -> Reply:
        """Send a body within ``timeout_s`` for all of it; gives what was answered, be it a redirect, which is not followed.

        Raises SourceRefused, SourceAway.
        """
        backend = _Hurried(self._backend, time.monotonic() + timeout_s)
        sent = [("host", to.netloc), ("content-length", str(len(body))), *headers.items()]
        timeouts = {"timeout": dict.fromkeys(_TIMEOUTS, timeout_s)}
        with (
            httpcore.ConnectionPool(
                ssl_context=self._ssl_context, network_backend=backend, keepalive_expiry=0, retries=0
            ) as pool,
            _said(to.host),
            pool.stream("POST", to.url, headers=sent, content=body, extensions=timeouts) as reply,
        ):
            beginning = bytearray()
            for piece in reply.iter_stream():
                beginning += piece
                if len(beginning) >= MAX_REPLY_BYTES:
                    break
            return Reply(reply.status, bytes(beginning[:MAX_REPLY_BYTES]))

    def _redirected(self, at: Source, location: str | None) -> Source:
        try:
            to = addresses.parse(urljoin(at.url, location or ""), self._allowed, is_kept=False)
        except (SourceRefused, ValueError) as error:
            code = error.code if isinstance(error, SourceRefused) else SourceRefused.code
            raise SourceRefused(f"{at.host} redirects to what is refused: {error}", code=code) from error
        if to.is_store:
            raise SourceRefused(f"{at.host} redirects from https to {to.scheme}", code="scheme_refused")
        return to


class _Judging(httpcore.NetworkBackend):
    """Connects to judged addresses. TLS is told the host's name by the connection above, not by this."""

    def __init__(self, allowed: Allowance, resolve: Resolve) -> None:
        self._allowed, self._resolve = allowed, resolve
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """To the first address that answers; none is tried before all are judged."""
        found = addresses.judge_all(host, self._resolve(host, port), self._allowed)
        last: Exception = SourceAway(f"{host} has no address")
        for address in found:
            try:
                return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        """Never."""
        raise SourceRefused("sources are fetched over TCP only")


class _Hurried(httpcore.NetworkBackend):
    """Connections that end at a time, however little is waited for each piece. Another's backend connects."""

    def __init__(self, inner: httpcore.NetworkBackend, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """As the other does."""
        left = _left(self._deadline, httpcore.ConnectTimeout)
        return _HurriedStream(self._inner.connect_tcp(host, port, left, local_address, socket_options), self._deadline)


class _HurriedStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(self._deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(self._deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(self._deadline, httpcore.ConnectTimeout)
        return _HurriedStream(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _left(deadline: float, error: type[httpcore.TimeoutException]) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise error("the time is over")
    return left_s


class _Headers:
    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = {name.lower(): value.decode("latin-1") for name, value in raw}

    def get(self, name: str) -> str | None:
        return self._raw.get(name.encode())

    def listed(self, key: str) -> Listed:
        length = self.get("content-length") or ""
        return Listed(
            key,
            int(length) if length.isdecimal() and len(length) < 19 else None,
            self.get("etag"),
            _timestamp(self.get("last-modified")),
        )


def _timestamp(text: str | None) -> float | None:
    try:
        return None if text is None else email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


#: As it is: what a server compresses on the way would be counted and judged as something else.
_ASKED = [("user-agent", "understudy"), ("accept", "*/*"), ("accept-encoding", "identity")]


def _trusting() -> ssl.SSLContext:
    """The authorities that everybody trusts, and those of this machine (``SSL_CERT_FILE``)."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _extensions() -> dict[str, Any]:
    return {"timeout": dict(_TIMEOUTS)}


def _refuse_status(host: str, status: int) -> None:
    if status in _PASSING or status >= 500:
        raise SourceAway(f"{host} answered {status}")
    if status != 200:
        raise SourceRefused(f"{host} answered {status}; a public file answers 200", code=f"http_{status}")


def _pieces(host: str, stream: Iterable[bytes]) -> Iterator[bytes]:
    began, num_bytes, held = time.monotonic(), 0, bytearray()
    with _said(host):
        for piece in stream:
            held += piece
            num_bytes += len(piece)
            late_s = time.monotonic() - began - FREE_S
            if late_s > num_bytes / MIN_BYTES_PER_S:
                raise SourceAway(f"{host} sends too slowly: {num_bytes:,} bytes in {late_s + FREE_S:.0f} s")
            if len(held) >= PIECE_BYTES:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


@contextmanager
def _said(host: str) -> Iterator[None]:
    """The library's errors as ours."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise SourceAway(f"{host} does not answer in time") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as error:
        raise SourceAway(f"the connection to {host} failed: {type(error).__name__}: {str(error)[:200]}") from error
