"""``understudy up`` as a person runs it: starts, refuses a second one, stops, leaves nothing behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

Until = Callable[..., None]


@contextmanager
def up(data: Path, port: int, *before: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, from another folder than the project's."""
    command = [*before, sys.executable, "-m", "understudy", "up", "--data", str(data), "--port", str(port)]
    with subprocess.Popen(
        command, cwd=data.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def answers(port: int) -> bool:
    """Whether the service says that it lives."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Everything that the command has started, and what that has started."""
    return psutil.Process(process.pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def assert_is_well(data: Path, port: int) -> None:
    """By the doctor, of what runs."""
    checks = [word for name in ("data", "database", "redis", "store", "service") for word in ("--only", name)]
    command = [sys.executable, "-m", "understudy", "doctor", "--data", str(data), *checks, "--json"]
    done = subprocess.run([*command, "--url", f"http://127.0.0.1:{port}"], capture_output=True, text=True, timeout=120)
    said = json.loads(done.stdout)
    assert (done.returncode, said["ok"]) == (0, True), said
    seen = {check["name"]: check["seen"] for check in said["checks"]}
    assert "in use by `understudy up`" in seen["data"]
    assert "noeviction" in seen["redis"]
    assert seen["service"].endswith("serves nothing")


def test_it_starts_everything_on_loopback_says_where_and_stops_on_one_signal(data: Path, port: int, until: Until):
    """One Ctrl-C, exit code 0, no process left."""
    with up(data, port) as process:
        until(lambda: answers(port))
        until(lambda: len(family(process)) >= 6)  # redis, service, worker and its pool, reconciler, trainer, guardian
        started = family(process)
        assert_is_well(data, port)
        listening = {c.laddr.ip for p in started for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        os.kill(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0, printed
        assert f"http://127.0.0.1:{port}" in printed
        assert "Stopped." in printed
        assert alive(started) == []
    assert (data / "catalog.db").exists()
    assert (data / "logs" / "understudy.log").stat().st_size > 0


@pytest.mark.thorough  # tests/understudy/test_local.py has the refusal without the start
def test_a_second_up_on_the_same_folder_is_refused_in_one_line(data: Path, port: int, until: Until):
    """It names the folder and the process that has it; the first one is not disturbed."""
    with up(data, port) as first:
        until(lambda: answers(port))
        with up(data, port + 1) as second:
            printed, _ = second.communicate(timeout=60)
        assert second.returncode == 1
        last = printed.strip().splitlines()[-1]
        assert str(data) in last
        assert str(first.pid) in last
        assert answers(port)
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 0


@pytest.mark.thorough  # the guide's test ends the same with a signal, tests/understudy/test_supervisor.py with this one
def test_sigterm_stops_it_where_ctrl_c_is_ignored(data: Path, port: int, until: Until):
    """As a script's background job, which its shell has made deaf to Ctrl-C."""
    with up(data, port, "sh", "-c", 'trap "" INT; exec "$0" "$@"') as process:
        until(lambda: answers(port))
        started = family(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert alive(started) == []


def test_kill_9_of_up_leaves_no_orphan_and_the_next_one_goes_on(data: Path, port: int, until: Until):
    """The guardian ends what is left; the folder can be used again at once."""
    with up(data, port) as process:
        until(lambda: answers(port))
        started = family(process)
        process.kill()
        until(lambda: alive(started) == [], 20)
    with up(data, port) as again:
        until(lambda: answers(port))
        again.send_signal(signal.SIGINT)
        assert again.wait(60) == 0


@pytest.mark.parametrize(
    "program",
    ["service", *(pytest.param(each, marks=pytest.mark.thorough) for each in ("worker", "trainer", "redis-server"))],
)
def test_a_killed_child_is_started_again(data: Path, port: int, until: Until, program: str):
    """Each program comes back under another process id, and the service answers."""

    def pid() -> int | None:
        for p in alive(psutil.Process(process.pid).children()):
            with contextlib.suppress(psutil.Error):
                if p.cmdline()[-2:] == ["-m", program] or program in p.name():
                    return p.pid
        return None

    with up(data, port) as process:
        until(lambda: answers(port) and pid() is not None)
        before = pid()
        assert before is not None
        os.kill(before, signal.SIGKILL)
        until(lambda: pid() not in (None, before))
        until(lambda: answers(port))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
