"""The shipped rules and dashboard: every metric that they ask for is one that the service has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from service.metrics import Metrics

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
#: What Prometheus itself knows.
ITS_OWN = {"up"}
_NAME = re.compile(r"\b(?:understudy|process)_[a-z_]+\b|\bup\b")


def _alerts() -> list[dict[str, str]]:
    (group,) = yaml.safe_load((FOLDER / "understudy.rules.yml").read_text())["groups"]
    return list(group["rules"])


def _panels() -> list[dict[str, object]]:
    return list(json.loads((FOLDER / "grafana" / "understudy.json").read_text())["panels"])


def _expressions() -> Iterator[tuple[str, str]]:
    yield from ((alert["alert"], alert["expr"]) for alert in _alerts())
    for panel in _panels():
        yield from ((str(panel["title"]), target["expr"]) for target in panel["targets"])  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def known() -> set[str]:
    """The names of all series that ``/metrics`` may have."""
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "unknown": ("",)}
    return ITS_OWN | {
        f"{family.name}{end}" for family in Metrics().registry.collect() for end in ends.get(family.type, ("",))
    }


@pytest.mark.parametrize(("where", "expression"), list(_expressions()), ids=lambda said: said[:40])
def test_every_metric_that_is_asked_for_exists(where: str, expression: str, known: set[str]):
    """A renamed metric would leave an alarm silent for ever."""
    asked = set(_NAME.findall(re.sub(r"\{[^}]*\}|by \([^)]*\)", "", expression)))
    assert asked
    assert asked <= known, where


def test_every_alarm_says_what_it_means_and_is_in_the_docs():
    """Who is woken by it finds it in docs/operations.md."""
    docs = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    for alert in _alerts():
        assert alert["annotations"]["summary"]  # type: ignore[index]
        assert f"`{alert['alert']}`" in docs


def test_every_panel_has_a_place_of_its_own():
    """No two overlap, and none is wider than the page."""
    places = [panel["gridPos"] for panel in _panels()]
    cells = [(p["x"] + i, p["y"] + j) for p in places for i in range(p["w"]) for j in range(p["h"])]  # type: ignore[index]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
