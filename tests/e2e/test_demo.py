"""``understudy demo`` as a person runs it, with everything killed once but the service."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from understudy.client import Client, RequestFailed
from understudy.records import Generation

#: About 80 s on two quiet cores, kills and restarts included; these machines are not always quiet.
TIMEOUT_S = 600


@pytest.mark.thorough  # docs/test_guide.py turns the same loop; test_killing.py and test_up.py kill
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_the_demo_turns_the_loop_under_load_and_survives_the_death_of_its_children(
    data: Path, port: int, until: Callable[..., None]
):
    """Exit code 0: students proved better than the first teacher, no failed request, whatever was killed."""
    report = data.parent / "report.json"
    command = [sys.executable, "-m", "understudy", "demo", "--exit", "--data", str(data), "--port", str(port)]
    command += ["--students", "1"]  # the second is trained as the first, for as long again
    with subprocess.Popen(
        [*command, "--report", str(report)],
        cwd=data.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        with Client(f"http://127.0.0.1:{port}") as client:
            until(lambda: is_training(client, 0), TIMEOUT_S)
            kill(demo.pid, "trainer")
            until(lambda: is_training(client, 1), TIMEOUT_S)
            for program in ("trainer", "worker", "reconcile", "redis-server"):
                kill(demo.pid, program)
        printed, _ = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 0, printed
    said = json.loads(report.read_text())
    first, *students = said["generations"]
    promoted = [s for s in students if s["state"] == "promoted"]
    assert (first["state"], first["human_labels"], first["pseudo_labels"]) == ("promoted", 30, 0)
    assert promoted
    assert promoted[-1]["accuracy"] >= first["accuracy"] + 0.04
    assert promoted[-1]["p_value"] < 0.05
    assert said["requests_failed"] == 0
    assert all(s["served_during_swap"] > 0 and s["failed_during_swap"] == 0 for s in promoted)
    assert str(first["model"]) in printed
    assert "0 failed" in printed


def is_training(client: Client, number: int) -> bool:
    """Whether a generation is in the middle of its training."""
    try:
        turn: Generation = client.generation(number)
    except RequestFailed:
        return False
    assert not turn.state.is_ended, turn
    return turn.job.step == "train" and turn.job.done > 20


def kill(demo_pid: int, program: str) -> None:
    """``kill -9`` of one of the demo's programs."""
    for child in psutil.Process(demo_pid).children():
        with contextlib.suppress(psutil.ZombieProcess):
            if program in " ".join(child.cmdline()[-1:]) or program in child.name():
                os.kill(child.pid, signal.SIGKILL)
                return
    raise AssertionError(f"the demo has no child {program}")
