"""``python -m trainer`` as long as there is nothing to train."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import __main__


@pytest.fixture
def environment(sqlite_url: str, tmp_path: Path) -> dict[str, str]:
    """A catalog without a generation."""
    return os.environ | {"UNDERSTUDY_CATALOG_URL": sqlite_url, "UNDERSTUDY_DATA": str(tmp_path)}


def test_it_waits_with_empty_hands_and_ends_when_told(environment: dict[str, str]):
    """Neither torch nor what else takes memory is loaded, and SIGTERM ends it with 0."""
    with subprocess.Popen([sys.executable, "-m", "trainer"], env=environment, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            assert b"ready" in process.stderr.readline()
            assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("device", ["cuda:7", "abacus"])
def test_a_device_that_is_not_here_is_said_at_once(
    environment: dict[str, str], device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Not with the first generation, which may be days later."""
    for name, value in (environment | {"UNDERSTUDY_DEVICE": device}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert __main__.main() == 2
    assert f"trainer: UNDERSTUDY_DEVICE='{device}' is not to be had here: " in capsys.readouterr().err
