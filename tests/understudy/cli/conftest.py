"""Commands within this process, on a screen so wide that no table is folded."""

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from understudy.cli import commands, output


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide screen, for what commands print and for their help."""
    monkeypatch.setattr(output.console, "width", 300)
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def run(url: str) -> Callable[..., Result]:
    """Run a command against the running service."""
    return lambda *words: CliRunner().invoke(commands.app, [*map(str, words), "--url", url])
