"""The real stack on this machine: real Redis, real Celery worker, real HTTP, real training."""

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from understudy import local
from understudy.client import Client
from understudy.local import Stack
from understudy.testing import free_port, picture, zipped

CLASSES = ("amber", "jade", "lilac")


@pytest.fixture
def port() -> int:
    """One that nobody listens on now."""
    return free_port()


@pytest.fixture
def data() -> Iterator[Path]:
    """An empty data folder."""
    with tempfile.TemporaryDirectory(prefix="understudy-") as folder:
        yield Path(folder) / "data"


@pytest.fixture
def log_lines() -> list[str]:
    """What the programs of the stack printed, shown when a test fails."""
    return []


@pytest.fixture
def stack(data: Path, port: int, log_lines: list[str]) -> Iterator[Stack]:
    """A running system, stopped at the end."""

    def keep(name: str, line: str) -> None:
        print(f"{name}: {line}")
        log_lines.append(f"{name}: {line}")

    with local.running(data, port=port, on_line=keep) as running:
        yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    """A client of the running system."""
    with Client(stack.url) as connected:
        yield connected


@pytest.fixture
def pictures() -> Callable[..., io.BytesIO]:
    """An archive of coloured pictures: in a folder a class, or in none."""

    def made(count: int, *, first_seed: int = 0, in_folders: bool = False, size: int = 16) -> io.BytesIO:
        named = {}
        for i in range(count):
            c = i % len(CLASSES)
            folder = f"{CLASSES[c]}/" if in_folders else ""
            # Noise that a student of a few steps gets over, so that training takes seconds.
            named[f"{folder}{first_seed + i}.png"] = picture(c, len(CLASSES), seed=first_seed + i, size=size, noise=60)
        return zipped(named)

    return made
