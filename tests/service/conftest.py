"""A plain HTTP client of the service that ``tests/conftest.py`` runs, challengers, and services that are processes of their own."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from understudy import registry
from understudy.catalog import Catalog
from understudy.settings import ServiceSettings
from understudy.store import Store
from understudy.testing import free_port, tiny_artifact


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    """A client of the running service."""
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def challenge(opened: tuple[Catalog, Store]) -> Callable[..., str]:
    """Publish a tiny model as a challenger, or one whose file is damaged; the version is the answer."""
    catalog, store = opened

    def published(classes: tuple[str, ...] = ("red", "green", "blue"), *, damaged: bool = False, **kwargs: Any) -> str:
        artifact, card = tiny_artifact(classes, **kwargs)
        registry.publish(store, catalog, card, artifact[:-1] if damaged else artifact, b"")
        return card.version

    return published


@dataclass(frozen=True)
class ServiceProcess:
    """``python -m service`` as anybody would start it."""

    process: subprocess.Popen[bytes]
    port: int
    log_file: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log so far, every line of which is JSON."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def ready(self) -> dict[str, Any]:
        """What /readyz says; nothing while nobody answers."""
        with suppress(httpx.TransportError):
            return dict(httpx.get(f"{self.url}/readyz", timeout=10).json())
        return {}

    def metric(self, line: str) -> float:
        """One sample of /metrics; 0 where it is not there."""
        with suppress(httpx.TransportError):
            text = httpx.get(f"{self.url}/metrics", timeout=10).text
            found = [each for each in text.splitlines() if each.startswith(f"{line} ")]
            return float(found[0].split()[-1]) if found else 0.0
        return 0.0


@pytest.fixture
def start_service(
    service_settings: ServiceSettings, tmp_path: Path, until: Callable[..., None]
) -> Iterator[Callable[..., ServiceProcess]]:
    """Starts a service with some settings changed, and waits until it answers. What is left at the end is killed."""
    with ExitStack() as stack:

        def started(*, answers: bool = True, **changed: Any) -> ServiceProcess:
            port = free_port()
            chosen = service_settings.model_copy(
                update={"port": port, "log_format": "json", "access_log": True, "champion_poll_s": 0.1, **changed}
            )
            log_file = tmp_path / f"service-{port}.log"
            with log_file.open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "service"], env=chosen.environment(), stderr=log, cwd=Path.cwd()
                )
            stack.callback(process.wait, 30)
            stack.callback(process.kill)
            service = ServiceProcess(process, port, log_file)
            if answers:
                until(lambda: bool(service.ready()) or process.poll() is not None)
                assert process.poll() is None, log_file.read_text()
            return service

        yield started
