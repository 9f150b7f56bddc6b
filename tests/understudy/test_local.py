"""The one-machine stack before it starts: its lock, its port, its Redis, its spool. The start itself: tests/e2e."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy import local
from understudy.errors import Conflict, SettingsRefused

#: Takes the lock of a folder as a stack does, and holds it until its input ends.
HOLDING = """
import sys
from pathlib import Path
from understudy import local

with local._locked(Path(sys.argv[1])):
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs on the folder."""
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_folder_is_held_by_one_process_and_the_second_is_told_which(tmp_path: Path, holder: subprocess.Popen[str]):
    """Conflict, with the number of the process and what to do."""
    assert local.is_running(tmp_path)

    with (
        pytest.raises(Conflict, match=rf"runs on {tmp_path} already \(process {holder.pid}\).*--data"),
        local.running(tmp_path, port=1),
    ):
        pass


def test_the_lock_goes_with_its_process_however_that_ends(tmp_path: Path, holder: subprocess.Popen[str]):
    """After a kill -9 the next one takes the folder, and names itself."""
    holder.kill()
    holder.wait()

    assert not local.is_running(tmp_path)
    with local._locked(tmp_path):
        assert (tmp_path / "up.lock").read_text() == f"process {os.getpid()}"
        assert local.is_running(tmp_path)


def test_a_folder_that_is_not_there_is_held_by_nobody(tmp_path: Path):
    """Asking does not make it."""
    assert not local.is_running(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_taken_port_is_refused_before_anything_is_started(tmp_path: Path, taken_port: int):
    """SettingsRefused names the port and the option; there is no catalog and no Redis, and the folder is free again."""
    lines: list[str] = []

    with (
        pytest.raises(SettingsRefused, match=rf"port {taken_port} is taken.*--port"),
        local.running(tmp_path, port=taken_port, on_line=lambda name, line: lines.append(line)),
    ):
        pass

    assert lines == []
    assert not (tmp_path / "catalog.db").exists()
    assert not (tmp_path / "redis").exists()
    assert not local.is_running(tmp_path)


def test_a_port_that_somebody_used_a_moment_ago_is_free():
    """A stack that was just stopped can be started on the same port: what lingers of its connections is no listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the side that closes first lingers

    local._require_free_port(port)


def test_the_bundled_redis_is_there_and_runs():
    """The wheel brings a real server that this machine can run."""
    said = subprocess.run([local.redis_server(), "--version"], capture_output=True, text=True, check=True).stdout

    assert said.startswith("Redis server v=")


def test_the_spool_is_emptied_of_whatever_killed_programs_left(tmp_path: Path):
    """Files, folders and links go; what a link points to stays, and so does the spool."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("not ours")
    spool = tmp_path / "spool"
    (spool / "job" / "deeper").mkdir(parents=True)
    (spool / "job" / "deeper" / "part").write_text("half")
    (spool / "upload").write_text("half")
    (spool / "link").symlink_to(kept)
    (spool / "dangling").symlink_to(tmp_path / "nothing")

    local._clear_spool(spool)

    assert list(spool.iterdir()) == []
    assert (kept / "file").read_text() == "not ours"


def test_a_spool_that_is_not_there_is_made(tmp_path: Path):
    """The first start on a folder finds none."""
    local._clear_spool(tmp_path / "spool")

    assert list((tmp_path / "spool").iterdir()) == []


def test_a_log_file_that_cannot_be_written_does_not_silence_the_terminal():
    """A full disk: the line is shown all the same."""
    shown: list[tuple[str, str]] = []

    def full(line: str) -> int:
        raise OSError("no space left on device")

    local._both(full, lambda name, line: shown.append((name, line)))("worker", "a line")

    assert shown == [("worker", "a line")]
