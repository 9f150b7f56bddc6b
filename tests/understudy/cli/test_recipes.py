"""``understudy recipes`` and ``--set``: no service is asked for the first, and the second is taken as it stands."""

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from understudy import recipes
from understudy.catalog import Catalog
from understudy.cli import commands
from understudy.cli.options import replaced_fields
from understudy.errors import RecipeRefused
from understudy.store import Store


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run a command which asks no service."""
    return lambda *words: CliRunner().invoke(commands.app, [*map(str, words)])


def test_every_recipe_is_listed(run: Callable[..., Result]):
    """With what it is for, and which is taken where none is named."""
    shown = run("recipes").stdout

    assert all(name in shown for name in recipes.RECIPES)
    assert "small (default)" in shown
    assert "ImageNet scale" in shown
    assert set(json.loads(run("recipes", "--json").stdout)) == set(recipes.RECIPES)


def test_a_recipe_is_shown_field_by_field(run: Callable[..., Result]):
    """Every field that may be replaced, its value for this turn, and what it means."""
    shown = run("recipes", "paper", "--generation", 3, "--num-labeled", 1281167).stdout

    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert {row[0] for row in rows} == recipes.FIELDS
    assert ["unlabeled_ratio", "28"] in [row[:2] for row in rows]
    assert all(row[2] for row in rows)
    assert json.loads(run("recipes", "paper", "--student", "efficientnet@b2", "--json").stdout)["size"] == 260


def test_replaced_fields_are_shown_as_they_would_be(run: Callable[..., Result]):
    """The same rules as when training; a contradiction says what to change."""
    made = json.loads(run("recipes", "small", "--set", "pseudo_labels=hard", "--set", "threshold=0.7", "--json").stdout)

    assert (made["pseudo_labels"], made["threshold"]) == ("hard", 0.7)
    refused = run("recipes", "small", "--set", "pseudo_labels=hard").exception
    assert isinstance(refused, RecipeRefused)
    assert isinstance(run("recipes", "huge").exception, RecipeRefused)


def test_values_are_json_or_text():
    """Numbers, lists, null and names."""
    words = ["threshold=0.5", 'students=["a", "b"]', "per_class=null", "balance=none", "flip=false"]

    assert replaced_fields(words) == {
        "threshold": 0.5, "students": ["a", "b"], "per_class": None, "balance": "none", "flip": False
    }  # fmt: skip
    assert replaced_fields(None) == {}


@pytest.mark.parametrize("words", [["threshold"], ["=1"], ["threshold=1", "threshold=2"]])
def test_what_is_no_setting_is_wrong_words(run: Callable[..., Result], words: list[str]):
    """Exit code 2, before anything is sent."""
    pairs = [part for word in words for part in ("--set", word)]

    assert run("generate", *pairs, "--url", "http://127.0.0.1:1").exit_code == 2


@pytest.mark.usefixtures("opened")
def test_a_generation_is_asked_what_the_words_say(run: Callable[..., Result], url: str, opened: tuple[Catalog, Store]):
    """What the service refuses ends the command with its sentence; no job is opened that fails later."""
    refused = run("generate", "--set", "teacher_stepz=5", "--url", url)

    assert "teacher_stepz" in str(refused.exception)
    assert "checkpoint_every" in str(refused.exception)
    assert "labeled set" in str(run("generate", "--set", "student_steps=500", "--seed", 3, "--url", url).exception)
