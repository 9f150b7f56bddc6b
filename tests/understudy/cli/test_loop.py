"""``understudy pause`` and ``resume``: a real service answers."""

import json
from collections.abc import Callable

from typer.testing import Result


def test_a_pause_is_said_by_every_command(run: Callable[..., Result]):
    """Its reason stands in the status until the loop goes on."""
    assert "paused by anonymous since" in run("pause", "--reason", "[red]cleaning").stdout
    assert "([red]cleaning)" in run("status").stdout
    assert json.loads(run("status", "--json").stdout)["loop"]["reason"] == "[red]cleaning"
    assert run("resume").stdout.startswith("next: nothing: send labeled images")
    assert json.loads(run("resume", "--json").stdout)["paused"] is False


def test_a_pause_without_a_reason_is_wrong_words(run: Callable[..., Result]):
    """Exit code 2."""
    assert run("pause").exit_code == 2
    assert run("pause", "--reason", "").exit_code == 2
