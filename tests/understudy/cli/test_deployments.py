"""The commands that move traffic between models. A real service answers, with tiny models."""

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from understudy import registry
from understudy.catalog import Catalog, versions
from understudy.cli import commands
from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.records import DeploymentState, VersionState
from understudy.store import Store
from understudy.testing import tiny_artifact


@pytest.fixture
def challenger(serving: Callable[..., str], opened: tuple[Catalog, Store]) -> str:
    """A model that nobody promoted, beside a champion."""
    serving()
    artifact, card = tiny_artifact(("red", "green", "blue"), generation=1, sharpness=5.0)
    registry.publish(opened[1], opened[0], card, artifact, b"")
    return card.version


def test_a_challenger_is_deployed_shown_and_taken_off(run: Callable[..., Result], url: str, challenger: str):
    """Each command says in a line what it did; the table names challenger, kind, share and reason."""
    with Client(url) as client:
        assert run("deployments").exit_code == 0
        made = run("deploy", challenger, "--shadow", "--share", 0.25, "--min-images", 50)
        (seen,) = client.deployments()
        assert made.stdout == f"deployment {seen.id}: {challenger} is a shadow with 0.25 of the requests\n"
        assert (seen.share, seen.limits.min_images) == (0.25, 50)
        assert run("undeploy", "--reason", "seen enough").stdout == f"deployment {seen.id} of {challenger} has ended\n"
        assert client.deployment(seen.id).state == DeploymentState.ENDED
    shown = run("deployments").stdout
    assert all(word in shown for word in (challenger, "shadow", "0.25", "ended", "seen enough"))
    assert json.loads(run("deployments", "--json").stdout)[0]["id"] == seen.id


def test_without_a_challenger_on_the_traffic_there_is_none_to_take_off(run: Callable[..., Result], challenger: str):
    """One sentence that says where to look."""
    result = run("undeploy", "--reason", "x")
    assert isinstance(result.exception, UnderstudyError)
    assert "no challenger is on live traffic" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["deploy", "g1"], "--shadow (its answers are only compared) or --canary"),
        (["deploy", "g1", "--canary", "--share", "0"], "share=0.0"),
        (["deploy", "g1", "--canary", "--share", "nan"], "share=nan"),
        (["deploy", "g 1", "--canary"], "version='g 1'"),
        (["deploy", "g1", "--canary", "--min-agreement", "2"], "min_agreement=2.0"),
        (["rollback"], "--reason"),
        (["rollback", "--reason", ""], "reason=''"),
        (["undeploy"], "--reason"),
    ],
)
def test_wrong_words_are_named(words: list[str], said: str):
    """Exit code 2, before anything is asked of the service."""
    result = CliRunner().invoke(commands.app, words, env={"TERM": "dumb"})
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_refused_model_is_promoted_with_a_reason(
    run: Callable[..., Result], challenger: str, opened: tuple[Catalog, Store]
):
    """One line when it serves."""
    with opened[0].write() as session:
        versions.judge(session, challenger, VersionState.REFUSED)
    done = run("promote", challenger, "--reason", "seen on the traffic")
    assert done.stdout == f"{challenger} serves, against the gate's verdict\n"


def test_a_rollback_waits_until_the_former_champion_serves(run: Callable[..., Result], serving: Callable[..., str]):
    """And says which that is; by name, one may go forth again."""
    first, second = serving(), serving(generation=1, sharpness=5.0)
    assert run("rollback", "--reason", "worse on cats").stdout == f"{first} serves again\n"
    assert run("rollback", second, "--reason", "it was the dogs").stdout == f"{second} serves again\n"
