"""Child processes under supervision: one log, restarts, an orderly stop, and no orphan whatever happens.

It knows nothing of what the programs do; which ones make up the system is told in ``local``.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

#: A program that dies is started again after this long, then twice as long, up to the limit.
FIRST_RESTART_S, LAST_RESTART_S = 0.3, 10.0
#: A program that ran this long has recovered: its next restart is a first one again.
HEALTHY_AFTER_S = 30.0
#: After this long a program that was asked to stop is killed.
STOP_GRACE_S = 25.0
#: What a program printed last is read within this time of its end: its pipe ends with its group, unless a
#: process has left the group and holds it open.
LAST_WORDS_S = 2.0


@dataclass(frozen=True)
class Program:
    """One child: what to run, and what it is called in the log."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    pass_fds: Sequence[int] = ()  #: open files that it inherits, such as a listening socket


@dataclass
class _Child:
    program: Program
    process: subprocess.Popen[bytes]
    pump: threading.Thread
    started_at: float
    restart_s: float = FIRST_RESTART_S
    restart_at: float | None = None  # None: it runs
    stop_by: float | None = None  # None: it was not asked to stop


class Supervisor:
    """Runs programs until ``stop``. ``on_line(name, line)`` gets every line that any of them prints."""

    def __init__(self, on_line: Callable[[str, str], None], *, stop_grace_s: float = STOP_GRACE_S) -> None:
        self._on_line, self._stop_grace_s = on_line, stop_grace_s
        self._children: list[_Child] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._guardian: subprocess.Popen[bytes] | None = None
        self._watching = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def start(self, program: Program) -> None:
        """Start a program, and again whenever it dies."""
        with self._lock:
            self._children.append(_Child(program, *self._spawn(program), time.monotonic()))
        if not self._watching.is_alive():
            self._watching.start()

    def pids(self) -> dict[str, int]:
        """The process ids by program."""
        with self._lock:
            return {c.program.name: c.process.pid for c in self._children}

    def stop(self, *, together: bool = False) -> None:
        """Ask every program to stop, the last started first; kill what does not.

        One after the other, for the later ones may need the earlier; or ``together``, where each is its own.
        """
        self._stopping.set()
        if self._watching.is_alive():
            self._watching.join()
        for child in self._children if together else ():
            self._ask_to_stop(child)
        while self._children:  # so a stop that was interrupted can be taken up again
            self._end(self._children[-1])
            self._children.pop()
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.close()
            self._guardian.wait()

    def _end(self, child: _Child) -> None:
        if child.restart_at is None:  # else it is dead, and its number may be another's by now
            self._ask_to_stop(child)
            _wait(child.process, child.stop_by)
            self._tell(f"-{child.process.pid}")
        child.pump.join(LAST_WORDS_S)
        self._say(child.program.name, "stopped")

    def _ask_to_stop(self, child: _Child) -> None:
        """Once: to many programs a second request means to drop everything."""
        if child.restart_at is None and child.stop_by is None:
            child.stop_by = time.monotonic() + self._stop_grace_s
            child.process.terminate()

    def _spawn(self, program: Program) -> tuple[subprocess.Popen[bytes], threading.Thread]:
        """A running process that the guardian knows of, and the thread that reads its lines. Raises OSError."""
        self._keep_guardian()
        process = subprocess.Popen(
            program.argv,
            env=dict(program.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us only, and its whole group can be killed
            pass_fds=program.pass_fds,
        )
        self._tell(f"+{process.pid}")
        pump = threading.Thread(target=self._pump, args=(program.name, process), daemon=True)
        pump.start()
        return process, pump

    def _pump(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._say(name, line.decode(errors="replace").rstrip())

    def _say(self, name: str, line: str) -> None:
        """A line that nobody takes is lost; the programs go on."""
        with contextlib.suppress(Exception, SystemExit):  # rich raises SystemExit when its terminal has gone
            self._on_line(name, line)

    def _watch(self) -> None:
        while not self._stopping.wait(0.1):
            with self._lock:
                for child in self._children:
                    self._revive(child)
                with contextlib.suppress(OSError):  # no process to be had: at the next look there may be
                    self._keep_guardian()

    def _revive(self, child: _Child) -> None:
        now = time.monotonic()
        if child.restart_at is None and child.process.poll() is not None:
            if now - child.started_at > HEALTHY_AFTER_S:
                child.restart_s = FIRST_RESTART_S
            _kill_group(child.process.pid)  # what it left behind, such as pool processes
            self._tell(f"-{child.process.pid}")
            self._postpone(child, f"ended ({_how(child.process.returncode)})")
        elif child.restart_at is not None and now >= child.restart_at:
            try:
                child.process, child.pump = self._spawn(child.program)
            except OSError as error:
                self._postpone(child, f"cannot be started ({error})")
            else:
                child.started_at, child.restart_at = now, None

    def _postpone(self, child: _Child, why: str) -> None:
        child.restart_at = time.monotonic() + child.restart_s
        self._say(child.program.name, f"{why}; starts again in {child.restart_s:.1f} s")
        child.restart_s = min(child.restart_s * 2, LAST_RESTART_S)

    def _keep_guardian(self) -> None:
        """The guardian kills what it was told of when this process dies, however it dies."""
        if self._guardian is not None and self._guardian.poll() is None:
            return
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.close()
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "understudy.guardian"],
            stdin=subprocess.PIPE,
            bufsize=0,  # a line is told whole or not at all
            start_new_session=True,
        )
        for child in self._children:
            if child.restart_at is None:
                self._tell(f"+{child.process.pid}")

    def _tell(self, line: str) -> None:
        assert self._guardian is not None
        assert self._guardian.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a new guardian is told of everything
            self._guardian.stdin.write(f"{line}\n".encode())


def _how(returncode: int) -> str:
    return f"exit code {returncode}" if returncode >= 0 else f"signal {signal.Signals(-returncode).name}"


def _wait(process: subprocess.Popen[bytes], stop_by: float | None) -> None:
    if process.poll() is None and stop_by is not None:
        try:
            process.wait(max(0.0, stop_by - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process %d did not stop in time; killing it", process.pid)
    _kill_group(process.pid)
    process.wait()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
