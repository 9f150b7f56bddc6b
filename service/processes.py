"""Several service processes on one port, as children of one that does nothing but keep them.

They share its listening socket and a folder for their metrics. One that dies is started again; a stop ends all of
them at the same time; the supervisor's guardian leaves none behind, even after ``kill -9``.
"""

import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from service.listening import address_of
from understudy import settings as environment
from understudy.settings import ServiceSettings
from understudy.supervisor import Program, Supervisor

log = logging.getLogger(__name__)

#: A child ends itself before this is over; see LAST_RESORT_S of service.server.
MARGIN_S = 7.0


def run(settings: ServiceSettings, bound: socket.socket) -> None:
    """Keep the processes of the settings until told to stop; a second signal ends them all at once."""
    stopping = _stop_on_signals()
    folder = _metrics_folder(settings, bound)
    supervisor = Supervisor(_pass_on(settings.log_format), stop_grace_s=settings.drain_s + settings.grace_s + MARGIN_S)
    log.info("%d processes for %s", settings.processes, address_of(bound))
    try:
        for number in range(settings.processes):
            supervisor.start(_child(settings, bound, folder, f"service-{number + 1}"))
        stopping.wait()
    finally:
        bound.close()  # it refuses connections when the children have closed theirs
        supervisor.stop(together=True)
        shutil.rmtree(folder, ignore_errors=True)


def _child(settings: ServiceSettings, bound: socket.socket, folder: Path, name: str) -> Program:
    variables = settings.environment() | {"UNDERSTUDY_LISTEN_FD": str(bound.fileno())}
    return Program(
        name,
        [sys.executable, "-m", "service"],
        environment.sharing_metrics(variables, folder),
        pass_fds=(bound.fileno(),),
    )


def _stop_on_signals() -> threading.Event:
    stopping = threading.Event()

    def stop(sign: int, frame: object) -> None:
        if stopping.is_set():
            os._exit(1)  # the guardian ends the children
        stopping.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)
    return stopping


def _metrics_folder(settings: ServiceSettings, bound: socket.socket) -> Path:
    """An empty one; other machines and other ports on the same data folder have their own."""
    folder = settings.data / "run" / f"metrics-{socket.gethostname()}-{bound.getsockname()[1]}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _pass_on(log_format: str) -> Callable[[str, str], None]:
    """Children's lines go to our standard error, whole. As JSON, each is a JSON object, whoever wrote it."""
    lock = threading.Lock()

    def write(name: str, line: str) -> None:
        if log_format == "json" and not line.startswith("{"):
            log.warning("%s", line, extra={"program": name})
            return
        with lock:
            sys.stderr.write(f"{line}\n" if log_format == "json" else f"{name}: {line}\n")
            sys.stderr.flush()

    return write
