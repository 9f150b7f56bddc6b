"""Starting and stopping a server, and what its whole process tree weighs. It knows nothing of what is measured."""

import contextlib
import http.client
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.serving.photos import Bodies

ROOT = Path(__file__).parents[2]
START_S, STOP_S = 90.0, 15.0
MB = 1e6


class ServerFailed(Exception):
    """A server did not start or did not answer; the message ends with its log."""


@dataclass(frozen=True)
class Memory:
    """Of a process tree. RSS counts shared pages once a process, PSS once in all."""

    rss_mb: float
    pss_mb: float


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    process: psutil.Process

    def memory(self) -> Memory:
        """What it weighs now."""
        return _weigh(_tree(self.process))

    def rss_mb(self) -> float:
        """Its RSS alone, which costs next to nothing to read, so that it may be read under load."""
        rss = 0
        for process in _tree(self.process):
            with contextlib.suppress(psutil.NoSuchProcess):
                rss += process.memory_info().rss
        return rss / MB


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], url: str, bodies: Bodies, log: Path
) -> Iterator[Running]:
    """Start a server, wait until it answers a photo with 200, and stop it and all its children in the end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("UNDERSTUDY_")}
    with log.open("wb") as file:
        started = subprocess.Popen(
            command,
            cwd=ROOT,
            env=inherited | {"PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await_answer(started, url, bodies, log)
        yield Running(url, psutil.Process(started.pid))
    finally:
        _stop(started)


def _await_answer(started: subprocess.Popen[bytes], url: str, bodies: Bodies, log: Path) -> None:
    body, pause, deadline = bodies.read()[0], threading.Event(), time.monotonic() + START_S
    seen = "nobody listens"
    while time.monotonic() < deadline:
        if started.poll() is not None:
            raise ServerFailed(f"the server ended with {started.returncode}: {_end_of(log)}")
        try:
            status, answer = _post(url, body, bodies.content_type)
            if status == 200:
                return
            seen = f"{status} {answer[:300]!r}"
        except (OSError, http.client.HTTPException) as error:
            seen = str(error)
        pause.wait(0.1)
    raise ServerFailed(f"no answer within {START_S:.0f} s but {seen}: {_end_of(log)}")


def _post(url: str, body: bytes, content_type: str) -> tuple[int, bytes]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10.0)
    with contextlib.closing(connection):
        connection.request("POST", address.path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        return response.status, response.read()


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-1500:] or "its log is empty"


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _weigh(processes: Sequence[psutil.Process]) -> Memory:
    rss = pss = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            weight = process.memory_full_info()
            rss += weight.rss
            pss += getattr(weight, "pss", weight.rss)  # only Linux tells
    return Memory(rss / MB, pss / MB)


def _stop(started: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the parent, as a supervisor would; then the end of whatever is left of its tree."""
    try:
        tree = _tree(psutil.Process(started.pid))
    except psutil.NoSuchProcess:
        tree = []
    started.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        started.wait(STOP_S)
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    started.wait()
