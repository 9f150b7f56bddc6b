"""The commands that look at pseudo-labels, against a running service."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from understudy.testing import picture


@pytest.fixture
def run(run: Callable[..., Result], opened: Any, teaching: Any) -> Callable[..., Result]:
    """Run a command within this process, where three images of a bucket are labeled."""
    world = teaching(*opened)
    world.teacher()
    shard = world.shard("photos", [picture(0, 3, seed=i, size=8) for i in range(3)])
    world.label(shard, [[0.9, 0.05, 0.05], [0.1, 0.7, 0.2], [0.8, 0.1, 0.1]])

    return run


def test_the_commands_show_what_the_service_tells(run: Callable[..., Result]):
    """As a table, or as JSON: labels a line each."""
    shown = run("labels", "--class", "red", "--min-confidence", 0.85)
    assert "0.900" in shown.stdout
    assert "0.800" not in shown.stdout
    lines = run("labels", "--bucket", "photos", "--sort", "margin", "--json").stdout.splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["red", "red", "green"]
    assert json.loads(run("facets", "--json").stdout)["num_images"] == 3
    assert "3 images by" in run("facets").stdout
    assert json.loads(run("preview", "--threshold", 0.75, "--per-class", 1, "--json").stdout)["num_kept"] == 1
    shown = run("preview", "--threshold", 0.75, "--per-class", 1).stdout
    assert "1 of 2 images, 1 with copies" in shown
    assert "labeled as before: no teacher before" in shown
    everything = json.loads(run("preview", "--thresholds", "adaptive", "--balance", "none", "--json").stdout)
    assert everything["num_rows"] == everything["num_candidates"] == 3
    precise = run("preview", "--thresholds", "precision", "--min-precision", "0.95", "--balance", "none")
    assert "0 of 0 images" in precise.stdout  # nothing proves a precision


def test_a_preview_of_nonsense_is_refused(run: Callable[..., Result]):
    """In words, before the service is asked."""
    refused = run("preview", "--threshold", 1)

    assert refused.exit_code == 2
    assert "threshold" in refused.output
    assert "thresholds='mine'" in run("preview", "--thresholds", "mine").output
