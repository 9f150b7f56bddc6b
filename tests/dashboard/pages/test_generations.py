"""What the form of a new generation makes of what is typed into it."""

import pytest

from dashboard.pages.generations import fields_of, request_of
from understudy.errors import RecipeRefused


def test_lines_are_fields():
    """Values are JSON where they can be, else text; empty lines are nothing."""
    assert fields_of("threshold = 0.7\n\nper_class=null\noptimizer=rmsprop\n") == {
        "threshold": 0.7,
        "per_class": None,
        "optimizer": "rmsprop",
    }


@pytest.mark.parametrize(
    ("recipe", "lines", "message"),
    [
        ("", "threshold", "FIELD=VALUE"),
        ("small", "treshold=1", "no field treshold"),
        ("small", "threshold=2", "threshold=2"),
    ],
)
def test_what_no_recipe_takes_is_refused_before_it_is_sent(recipe, lines, message):
    """In the words of the recipes."""
    with pytest.raises(RecipeRefused, match=message):
        request_of(recipe, "", lines, 0)


def test_what_is_left_empty_is_the_recipes_own():
    """Nothing chosen: as the generation before."""
    request = request_of("", " ", "", None)
    assert (request.recipe, request.student, request.overrides, request.seed) == (None, None, {}, 0)
