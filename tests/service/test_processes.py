"""Several service processes on one port, as real ones."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import httpx
import psutil
import pytest

from understudy.testing import picture

SOON_S = 30.0
IMAGE = picture(0, 3)


def children_of(pid: int) -> list[psutil.Process]:
    """The serving processes, without the guardian."""
    return [child for child in psutil.Process(pid).children() if is_serving(child)]


def is_serving(process: psutil.Process) -> bool:
    """Not the guardian, and none that is dead and not yet buried."""
    with suppress(psutil.NoSuchProcess):  # a zombie is one of these
        return "service" in process.cmdline()
    return False


@pytest.fixture
def two(start_service, until: Callable[..., None]):
    """A service of two processes, both of which have started."""
    service = start_service(processes=2)
    until(lambda: service.metric("understudy_processes") == 2)
    return service


def test_all_follow_the_champion_and_are_measured_together(two, promote, until: Callable[..., None]):
    """Each swaps by itself; /metrics says how many serve which model, and counts what any of them did."""
    first = promote()
    until(lambda: two.metric(f'understudy_serving_model{{model="{first}"}}') == 2)
    second = promote(sharpness=3.0)
    until(lambda: two.metric(f'understudy_serving_model{{model="{second}"}}') == 2)
    assert two.metric(f'understudy_serving_model{{model="{first}"}}') == 0
    assert two.metric('understudy_swaps_total{outcome="served"}') == 4

    for _ in range(20):  # each over a connection of its own, so that both get some
        assert httpx.post(f"{two.url}/classify", content=IMAGE).json()["model"] == second

    assert two.metric(f'understudy_classified_images_total{{model="{second}"}}') == 20
    assert two.metric('understudy_http_requests_total{method="POST",route="/classify",status="200"}') == 20
    assert two.metric("process_resident_memory_bytes") > 100e6
    assert two.metric("understudy_http_requests_in_flight") == 1


def test_one_that_dies_is_replaced_and_what_it_counted_stays(two, promote, until: Callable[..., None]):
    """kill -9: the other serves on, a new one joins, the sums do not fall."""
    version = promote()
    until(lambda: two.metric(f'understudy_serving_model{{model="{version}"}}') == 2)
    for _ in range(10):
        assert httpx.post(f"{two.url}/classify", content=IMAGE).status_code == 200
    victim = children_of(two.process.pid)[0]

    victim.kill()

    until(lambda: victim.pid not in [child.pid for child in children_of(two.process.pid)])
    until(lambda: len(children_of(two.process.pid)) == 2)
    until(lambda: two.metric(f'understudy_serving_model{{model="{version}"}}') == 2)
    assert two.metric("understudy_processes") == 2
    assert two.metric(f'understudy_classified_images_total{{model="{version}"}}') == 10
    assert any("SIGKILL" in event["message"] and event["logger"] == "service.processes" for event in two.log)


def test_sigterm_stops_all_of_them(two):
    """With exit code 0; no process and no file of theirs is left, and every line of the one log is JSON."""
    serving = children_of(two.process.pid)

    two.process.send_signal(signal.SIGTERM)

    assert two.process.wait(SOON_S) == 0
    assert not any(child.is_running() for child in serving)
    assert {event["process"] for event in two.log} >= {child.pid for child in serving}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{two.url}/healthz")


def test_kill_9_of_the_parent_leaves_no_orphan(two):
    """The guardian sees to that."""
    serving = children_of(two.process.pid)

    two.process.kill()

    gone, alive = psutil.wait_procs(serving, SOON_S)
    assert len(gone) == 2
    assert alive == []


def test_a_second_signal_ends_them_at_once(two, until: Callable[..., None]):
    """Also those that have not finished yet."""
    serving = children_of(two.process.pid)
    os.kill(serving[0].pid, signal.SIGSTOP)  # it will not stop by itself

    two.process.send_signal(signal.SIGTERM)
    until(lambda: not serving[1].is_running())
    two.process.send_signal(signal.SIGTERM)

    assert two.process.wait(SOON_S) == 1
    assert psutil.wait_procs(serving, SOON_S)[1] == []


def test_a_port_that_is_taken_is_refused_in_one_line(two, start_service):
    """Exit code 2, and what to change."""
    refused = start_service(answers=False, processes=2, port=two.port)

    assert refused.process.wait(SOON_S) == 2
    assert f"UNDERSTUDY_PORT={two.port}" in refused.log_file.read_text()
    assert len(refused.log_file.read_text().splitlines()) == 1


def test_the_parent_loads_neither_engine_nor_application():
    """It costs a few megabytes: what it must not import is what makes a serving process large."""
    code = "import sys, service.__main__, service.processes\nheavy = 'fastapi', 'onnxruntime', 'uvicorn', 'numpy'\n"
    code += "print([name for name in heavy if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"
