"""One serving process: uvicorn with limits on its connections, and with a stop that loses nothing.

SIGTERM or Ctrl-C: ``/readyz`` answers 503 from now on; ``drain_s`` seconds later no connection is taken any more; what
was accepted is answered within ``grace_s``; then the process ends with 0. A second signal ends it at once, with 1.
"""

import gc
import logging
import os
import resource
import socket
import tempfile
import threading
import time
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from service import memory
from service.app import create_app
from service.connections import BoundedProtocol, Connections
from service.listening import address_of
from service.metrics import Metrics
from understudy import settings as environment
from understudy import telemetry
from understudy.settings import ServiceSettings

log = logging.getLogger(__name__)

#: What does not end even after drain and grace (an engine that hangs) is ended from outside the event loop.
LAST_RESORT_S = 5.0
#: Files that are no connections: the catalog, the store, uploads, libraries.
OTHER_FILES = 256


def run(settings: ServiceSettings, bound: socket.socket) -> None:
    """Serve on a bound socket until told to stop."""
    settings.spool.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(settings.spool)  # multipart files wait there: /tmp is memory on many machines
    stop_tracing = (
        telemetry.start_tracing(settings.otlp_endpoint, "understudy-service") if settings.otlp_endpoint else None
    )
    server = build(settings, max_connections=_connections_within(settings.max_connections))
    memory.freeze()  # before an engine is loaded, which is to go one day
    try:
        server.run(sockets=[bound])
    finally:
        gc.unfreeze()  # libraries that look at their leaks when the process ends would find what is frozen
        if stop_tracing is not None:
            stop_tracing()


def build(settings: ServiceSettings, *, max_connections: int | None = None) -> "Server":
    """The server for one set of settings. ``max_connections`` overrides the settings' where files are fewer."""
    metrics = Metrics(environment.metrics_folder())
    connections = Connections(
        header_timeout_s=settings.header_timeout_s,
        send_timeout_s=settings.send_timeout_s,
        max_connections=max_connections or settings.max_connections,
        metrics=metrics,
    )
    app = create_app(settings, metrics)
    config = uvicorn.Config(
        app,
        http=partial(BoundedProtocol, connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        backlog=settings.backlog,
        timeout_graceful_shutdown=settings.grace_s,
        server_header=False,
    )
    return Server(config, app.state, connections, drain_s=settings.drain_s)


def _connections_within(wanted: int) -> int:
    """Raise the limit on open files, each connection being one, and as many connections as it allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most == resource.RLIM_INFINITY or wanted + OTHER_FILES <= most:
        return wanted
    allowed = max(1, most - OTHER_FILES)
    log.warning(
        "only %d connections instead of %d: a process may open %d files here (ulimit -n)", allowed, wanted, most
    )
    return allowed


class Server(uvicorn.Server):
    """uvicorn's server, which stops in the order above. ``state`` is the application's."""

    def __init__(self, config: uvicorn.Config, state: Any, connections: Connections, *, drain_s: float) -> None:
        super().__init__(config)
        self._state, self._connections, self._drain_s = state, connections, drain_s
        self._stop_at: float | None = None  # None: no signal has come

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal. uvicorn's own answer ends in the signal's default action, so not with exit code 0."""
        if self._stop_at is not None:
            self.should_exit = self.force_exit = True
            return
        self._state.is_stopping = True
        self._stop_at = time.monotonic() + self._drain_s
        grace_s = self.config.timeout_graceful_shutdown or 0
        last_resort = threading.Timer(self._drain_s + grace_s + LAST_RESORT_S, os._exit, [1])
        last_resort.daemon = True
        last_resort.start()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for bound in sockets or []:
            log.info("serving on %s", address_of(bound))

    async def on_tick(self, counter: int) -> bool:
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._connections.is_stopping = True
        await super().shutdown(sockets)
        if self.force_exit:
            log.warning("a second signal: ending at once, with %d requests unanswered", len(self.server_state.tasks))
            os._exit(1)  # an orderly end would wait for the engine
