"""Metrics are named by Prometheus' conventions, documented, and one whole when several processes have a share in them."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import Gauge
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics
from understudy import engine, settings
from understudy.testing import tiny_artifact

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"

#: Prometheus counts in base units; what is counted in something else is spelled out.
NO_BASE_UNIT = re.compile(r"_(ms|milliseconds|minutes|kb|mb|kilobytes|megabytes|percent)(_|$)")

#: One process of several: counts, and ends when it is told to.
COUNTING = """
import sys
from service.metrics import Metrics
from understudy import settings

metrics = Metrics(settings.metrics_folder())
metrics.requests.labels("GET", "/x", "200").inc(2)
metrics.request_seconds.labels("/x").observe(0.1)
metrics.swapped("g0", succeeded=True)
metrics.swapped("g1", succeeded=True)
metrics.in_flight.inc()
print("counted", flush=True)
if sys.stdin.readline():
    print(metrics.render().decode())
"""


def families(text: str) -> dict[str, str]:
    """The type of each metric by the name that it has at /metrics."""
    found = {family.name: family.type for family in text_string_to_metric_families(text)}
    return {name + ("_total" if kind == "counter" else ""): kind for name, kind in found.items()}


@pytest.fixture
def of_one_process() -> dict[str, str]:
    """Every metric of the service."""
    text = Metrics().render().decode()
    named = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    return {name: kind for name, kind in named.items() if not name.endswith("_created")}


def test_names_keep_to_the_conventions(of_one_process: dict[str, str]):
    """A prefix that says whose it is, base units, counters in _total and only those, times in _seconds."""
    for name, kind in of_one_process.items():
        assert re.fullmatch(r"(understudy|process|python)(_[a-z0-9]+)+", name)
        assert not NO_BASE_UNIT.search(name), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert not name.endswith(("_count", "_sum", "_bucket")), name
        assert ("duration" not in name and "latency" not in name) or name.endswith("_seconds"), name


def test_every_metric_says_what_it_is():
    """The HELP line is a sentence."""
    for help_text in re.findall(r"^# HELP \S+ (.*)$", Metrics().render().decode(), re.MULTILINE):
        assert len(help_text) > 10


def test_every_metric_is_in_the_table_of_the_documentation(of_one_process: dict[str, str]):
    """And the table has none that is not there."""
    told = set(re.findall(r"^\| `((?:understudy|process|python)_\w+)`", DOCUMENT.read_text(), re.MULTILINE))

    assert set(of_one_process) - told == set(), f"add these to the table in {DOCUMENT.name}"
    assert told - set(of_one_process) == set(), f"these are not there any more; take them out of {DOCUMENT.name}"


def test_gauges_of_dead_processes_do_not_count():
    """Every gauge says how those of several processes become one, and only of the living."""
    gauges = [metric for metric in vars(Metrics()).values() if isinstance(metric, Gauge)]

    assert gauges
    assert [g._name for g in gauges if not g._multiprocess_mode.startswith("live")] == []


def test_several_processes_are_one_whole(tmp_path: Path):
    """Counts are summed, also of the dead; gauges are of the living; a model that nobody serves any more is at 0."""
    environment = settings.sharing_metrics(dict(os.environ), tmp_path)

    def counting() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", COUNTING]
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "counted\n"
        return process

    one, killed, last = counting(), counting(), counting()
    killed.kill()
    killed.communicate()
    text, _ = last.communicate("render\n", timeout=60)
    one.communicate()

    assert 'understudy_http_requests_total{method="GET",route="/x",status="200"} 6.0' in text
    assert 'understudy_http_request_duration_seconds_count{route="/x"} 3.0' in text
    assert "understudy_processes 2.0" in text
    assert "understudy_http_requests_in_flight 2.0" in text
    assert 'understudy_serving_model{model="g0"} 0.0' in text
    assert 'understudy_serving_model{model="g1"} 2.0' in text
    assert "understudy_build_info{version=" in text
    assert "pid=" not in text
    assert set(families(text)) >= {"process_resident_memory_bytes", "process_cpu_seconds_total", "python_info"}


def test_a_single_process_names_only_the_model_that_serves():
    """Old versions leave no series behind."""
    metrics = Metrics()
    for version in ("g0", "g1", "g2"):
        metrics.swapped(version, succeeded=True)
    metrics.swapped("g3", succeeded=False)

    text = metrics.render().decode()

    assert re.findall(r"^understudy_serving_model.*$", text, re.MULTILINE) == [
        'understudy_serving_model{model="g2"} 1.0'
    ]
    assert 'understudy_swaps_total{outcome="refused"} 1.0' in text


def test_gauges_are_read_when_somebody_asks():
    """So that they are as old as the answer."""
    metrics, waiting = Metrics(), iter([3, 5])
    metrics.read_at_scrape(lambda: metrics.queue_images.set(next(waiting)))

    assert b"understudy_queue_images 3.0" in metrics.render()
    assert b"understudy_queue_images 5.0" in metrics.render()


def test_a_model_that_fell_back_to_the_cpu_is_counted():
    """An alert can be set on it; it ends when a model is on the GPU again."""
    metrics = Metrics()
    loaded = engine.load(*tiny_artifact(("red", "green", "blue")), provider="cpu", threads=1)

    metrics.runs_on(replace(loaded, fallback="cuda: driver too old"))
    assert b"understudy_engine_fallback 1.0" in metrics.render()

    metrics.runs_on(replace(loaded, provider="cuda", variant="fp16"))
    text = metrics.render().decode()
    assert "understudy_engine_fallback 0.0" in text
    assert f'understudy_engine_info{{model="{loaded.version}",provider="cuda",variant="fp16"}} 1.0' in text
    assert text.count("understudy_engine_info{") == 1
