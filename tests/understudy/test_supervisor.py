"""Supervision of real processes: restarts, lines, the orderly stop, and no orphan after kill -9."""

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from understudy.supervisor import FIRST_RESTART_S, Program, Supervisor

#: After a kill -9 of the supervisor everything is gone within this; it takes a tenth.
NO_ORPHAN_WITHIN_S = 10.0

#: Holds a lock for as long as it lives, as does its child if it is given a second file. What it does on
#: SIGINT and SIGTERM it says; on the latter it ends, if it is not a stubborn one.
HOLDER = """
import fcntl, os, signal, subprocess, sys

def on_sigint(*_):
    print("interrupted", flush=True)

def on_sigterm(*_):
    print("asked to stop", flush=True)
    if "stubborn" not in sys.argv:
        os._exit(0)

signal.signal(signal.SIGINT, on_sigint)
signal.signal(signal.SIGTERM, on_sigterm)
held = open(sys.argv[1], "w")
fcntl.flock(held, fcntl.LOCK_EX)
if len(sys.argv) > 2 and sys.argv[2] != "stubborn":
    child = subprocess.Popen([sys.executable, __file__, sys.argv[2]])
print("holds", sys.argv[1], flush=True)
while True:
    signal.pause()
"""

#: Supervises two holders, the first with a child of its own, until Ctrl-C.
SUPERVISING = """
import os, signal, sys
from understudy.supervisor import Program, Supervisor

holder, first, grandchild, second = sys.argv[1:]
supervisor = Supervisor(lambda name, line: print(name, line, flush=True))
try:
    supervisor.start(Program("first", [sys.executable, holder, first, grandchild], os.environ))
    supervisor.start(Program("second", [sys.executable, holder, second], os.environ))
    while True:
        signal.pause()
except KeyboardInterrupt:
    supervisor.stop()
"""


class Lines:
    """Keeps every line, and lets a test wait for one."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []
        self._come = threading.Condition()

    def __call__(self, name: str, line: str) -> None:
        with self._come:
            self.all.append((name, line))
            self._come.notify_all()

    def of(self, name: str) -> list[str]:
        return [line for by, line in self.all if by == name]

    def wait_for(self, name: str, words: str, count: int = 1) -> None:
        """Until a program has said something so many times."""

        def is_said() -> bool:
            return sum(words in line for line in self.of(name)) >= count

        with self._come:
            assert self._come.wait_for(is_said, timeout=20), f"{name} never said {words!r}: {self.all}"


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def supervisor(lines: Lines) -> Iterator[Supervisor]:
    """A supervisor with little patience, stopped at the end."""
    supervisor = Supervisor(lines, stop_grace_s=0.5)
    yield supervisor
    supervisor.stop()


@pytest.fixture
def holder(tmp_path: Path) -> Path:
    """The program that holds a lock."""
    path = tmp_path / "holder.py"
    path.write_text(HOLDER)
    return path


def running(name: str, code: str, *arguments: str) -> Program:
    """A Python program of a few lines."""
    return Program(name, [sys.executable, "-S", "-c", code, *arguments], dict(os.environ))


def is_held(path: Path) -> bool:
    """Whether a process lives that holds this file's lock; the kernel lets go of it with the process."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_program_that_dies_is_started_again_after_rising_pauses(supervisor: Supervisor, lines: Lines):
    """Each pause is twice the one before; the line says how it ended."""
    supervisor.start(running("mortal", "import sys; sys.exit(3)"))

    lines.wait_for("mortal", "starts again", count=3)

    said = [re.fullmatch(r"ended \(exit code 3\); starts again in ([\d.]+) s", line) for line in lines.of("mortal")]
    pauses = [float(match[1]) for match in said[:3] if match]
    assert pauses == [FIRST_RESTART_S, 2 * FIRST_RESTART_S, 4 * FIRST_RESTART_S]


def test_what_a_dead_program_leaves_behind_is_killed_before_it_starts_again(
    supervisor: Supervisor, lines: Lines, holder: Path, tmp_path: Path, until: Callable[..., None]
):
    """The child of a program that was killed does not live on beside the next one's."""
    own, childs = tmp_path / "own", tmp_path / "child"
    supervisor.start(Program("parent", [sys.executable, str(holder), str(own), str(childs)], dict(os.environ)))
    lines.wait_for("parent", f"holds {childs}")

    os.kill(supervisor.pids()["parent"], signal.SIGKILL)

    lines.wait_for("parent", "ended (signal SIGKILL)")
    lines.wait_for("parent", f"holds {childs}", count=2)  # it got the lock, so the first child is dead
    assert is_held(own)


def test_a_program_that_cannot_be_started_again_is_tried_again(supervisor: Supervisor, lines: Lines, tmp_path: Path):
    """A program that is missing for a moment, as in an upgrade, does not end the supervision."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho up\n")
    script.chmod(0o700)
    supervisor.start(Program("script", [str(script)], dict(os.environ)))
    lines.wait_for("script", "up")

    away = script.rename(tmp_path / "away")
    lines.wait_for("script", "cannot be started")
    num_ups = lines.of("script").count("up")
    away.rename(script)

    lines.wait_for("script", "up", count=num_ups + 1)


def test_every_line_reaches_on_line_with_its_name(supervisor: Supervisor, lines: Lines):
    """Of both streams, in order, whatever the bytes; the last one too though it has no end."""
    code = (
        "import os, signal, sys\n"
        "for i in range(1000): os.write(1 + i % 2, f'line {i}\\n'.encode())\n"
        "os.write(1, b'\\xff is no UTF-8\\n')\n"
        "os.write(1, b'no end')\n"
        "os.write(1, b'' if sys.argv[1:] else b'!')\n"
        "signal.pause()"
    )
    supervisor.start(running("one", code))
    supervisor.start(running("two", code, "other"))
    for name in ("one", "two"):
        lines.wait_for(name, "is no UTF-8")

    supervisor.stop()

    expected = [*(f"line {i}" for i in range(1000)), "\N{REPLACEMENT CHARACTER} is no UTF-8"]
    assert lines.of("one") == [*expected, "no end!", "stopped"]
    assert lines.of("two") == [*expected, "no end", "stopped"]


def test_last_words_are_heard(supervisor: Supervisor, lines: Lines):
    """What a program prints while it ends has come when stop() returns."""
    code = (
        "import os, signal, sys\n"
        "def end(*_):\n"
        "    sys.stdout.writelines(f'last {i}\\n' for i in range(5000))\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('up', flush=True)\n"
        "signal.pause()"
    )
    supervisor.start(running("talker", code))
    lines.wait_for("talker", "up")

    supervisor.stop()

    assert lines.of("talker") == ["up", *(f"last {i}" for i in range(5000)), "stopped"]


def test_a_reader_that_fails_stops_no_program(lines: Lines):
    """A log that cannot be written, a terminal that has gone: the programs run on, and are started again."""

    def on_line(name: str, line: str) -> None:
        lines(name, line)
        raise SystemExit if "ended" in line else OSError("no space left on device")

    supervisor = Supervisor(on_line)
    supervisor.start(running("unheard", "print(1, flush=True); print(2)"))
    lines.wait_for("unheard", "2", count=2)
    supervisor.stop()

    assert [line for line in lines.of("unheard") if line.isdigit()][:4] == ["1", "2", "1", "2"]


def test_stop_ends_all_in_reverse_order(supervisor: Supervisor, lines: Lines, holder: Path, tmp_path: Path):
    """The last started is asked first, and the next only when it has ended."""
    locks = [tmp_path / name for name in ("redis", "service", "worker")]
    for lock in locks:
        supervisor.start(Program(lock.name, [sys.executable, str(holder), str(lock)], dict(os.environ)))
        lines.wait_for(lock.name, "holds")
    before = len(lines.all)

    supervisor.stop()

    expected = [(name, said) for name in ("worker", "service", "redis") for said in ("asked to stop", "stopped")]
    assert lines.all[before:] == expected
    assert not any(map(is_held, locks))


def test_what_ignores_sigterm_is_killed_when_its_grace_is_over(
    supervisor: Supervisor, lines: Lines, holder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Said in the log; stop() does not return before it is gone."""
    lock = tmp_path / "lock"
    supervisor.start(Program("stubborn", [sys.executable, str(holder), str(lock), "stubborn"], dict(os.environ)))
    lines.wait_for("stubborn", "holds")

    with caplog.at_level(logging.WARNING):
        supervisor.stop()

    assert lines.of("stubborn")[1:] == ["asked to stop", "stopped"]
    assert "did not stop" in caplog.text
    assert not is_held(lock)


def test_programs_that_are_stopped_together_share_one_grace(
    lines: Lines, holder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """All are asked at once, and each only once; those that are stubborn are killed at the same time."""
    supervisor = Supervisor(lines, stop_grace_s=1.0)
    for name in ("a", "b", "c"):
        command = [sys.executable, str(holder), str(tmp_path / name), "stubborn"]
        supervisor.start(Program(name, command, dict(os.environ)))
        lines.wait_for(name, "holds")
    began = time.monotonic()

    supervisor.stop(together=True)

    assert time.monotonic() - began < 2.5
    assert [lines.of(name)[1:] for name in ("a", "b", "c")] == [["asked to stop", "stopped"]] * 3


def test_a_program_inherits_the_files_that_it_is_given(supervisor: Supervisor, lines: Lines, tmp_path: Path):
    """Such as a socket that several listen on."""
    with (tmp_path / "shared").open("w+") as shared:
        shared.write("words")
        shared.flush()
        program = running("reader", "import os, sys; print(os.pread(int(sys.argv[1]), 9, 0))", str(shared.fileno()))
        supervisor.start(replace(program, pass_fds=(shared.fileno(),)))
        lines.wait_for("reader", "b'words'")


def test_a_program_that_waits_for_its_restart_stays_down_after_stop(supervisor: Supervisor, lines: Lines):
    """Stopping between a death and the next start is the end."""
    supervisor.start(running("mortal", "print('up')"))
    lines.wait_for("mortal", "starts again", count=2)

    supervisor.stop()

    assert lines.of("mortal")[-1] == "stopped"
    assert supervisor.pids() == {}


def children_of(pid: int) -> dict[int, str]:
    """The children of a process, and their command lines."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in table.splitlines()]
    return {int(row[0]): row[2] for row in rows if int(row[1]) == pid}


def guardian_of(pid: int) -> int | None:
    return next((child for child, args in children_of(pid).items() if "understudy.guardian" in args), None)


@pytest.fixture
def locks(tmp_path: Path) -> list[Path]:
    """Of the first program, its child, and the second program."""
    return [tmp_path / "first", tmp_path / "grandchild", tmp_path / "second"]


@pytest.fixture
def supervising(holder: Path, locks: list[Path], until: Callable[..., None]) -> Iterator[subprocess.Popen[str]]:
    """A process that supervises two programs, of which the first has a child; all three run."""
    command = [sys.executable, "-c", SUPERVISING, str(holder), *map(str, locks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        until(lambda: all(map(is_held, locks)))
        yield process
        process.kill()


def test_kill_9_leaves_no_orphan(supervising: subprocess.Popen[str], locks: list[Path], until: Callable[..., None]):
    """The guardian ends the programs and their children when the supervisor had no time for it."""
    supervising.kill()

    until(lambda: not any(map(is_held, locks)), NO_ORPHAN_WITHIN_S)


def test_kill_9_leaves_no_orphan_even_after_the_guardian_was_killed(
    supervising: subprocess.Popen[str], locks: list[Path], until: Callable[..., None]
):
    """A guardian that is gone is replaced by one that is told of all that runs."""
    first = guardian_of(supervising.pid)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: guardian_of(supervising.pid) not in (None, first))

    supervising.kill()

    until(lambda: not any(map(is_held, locks)), NO_ORPHAN_WITHIN_S)


def test_ctrl_c_reaches_the_supervisor_alone(
    supervising: subprocess.Popen[str], locks: list[Path], until: Callable[..., None]
):
    """SIGINT to its whole group, as a terminal sends it: the programs are asked to stop, and not interrupted."""
    os.killpg(supervising.pid, signal.SIGINT)

    said, _ = supervising.communicate(timeout=20)

    assert supervising.returncode == 0
    expected = ["second asked to stop", "second stopped", "first asked to stop", "first stopped"]
    assert [line for line in said.splitlines() if "holds" not in line] == expected
    until(lambda: not any(map(is_held, locks)))
