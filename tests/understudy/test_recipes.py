import pytest

from understudy import recipes
from understudy.errors import RecipeRefused
from understudy.recipes import Recipe


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_valid_and_survives_json(name):
    """A recipe is stored with the model it made, and read back for the next one."""
    recipe = recipes.recipe(name, {})

    assert recipe.name == name
    assert Recipe.model_validate_json(recipe.to_json()) == recipe


def test_overrides_replace_fields():
    """A request may change single fields, lists from JSON included."""
    recipe = recipes.recipe("tiny", {"teacher_steps": 77, "mean": [0.1, 0.2, 0.3]})

    assert (recipe.teacher_steps, recipe.mean) == (77, (0.1, 0.2, 0.3))
    assert recipe.student_steps == recipes.recipe("tiny", {}).student_steps


def test_the_last_student_repeats():
    """A recipe has students for any number of generations."""
    recipe = recipes.recipe("tiny", {"students": ["a", "b"]})

    assert [recipe.student(generation) for generation in range(4)] == ["a", "b", "b", "b"]


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("huge", {}, "there are tiny, small"),
        ("tiny", {"teacher_stepz": 1}, "checkpoint_every"),
        ("tiny", {"name": "mine"}, "another recipe"),
        ("tiny", {"teacher_steps": "many"}, "teacher_steps='many'"),
        ("tiny", {"threshold": 0.3}, "raise threshold to at least 0.6"),
        ("small", {"pseudo_labels": "hard"}, "pseudo_labels to soft"),
        ("tiny", {"drop_path_rate": 0.8}, "set 0.2"),
        ("tiny", {"warmup_steps": 300}, "train longer"),
        ("tiny", {"std": (0.5, 0.0, 0.5)}, "standard deviation"),
        ("tiny", {"augment_magnitude": 27}, "augment_magnitude=27"),
    ],
)
def test_a_recipe_that_contradicts_itself_says_what_to_change(name, overrides, says):
    """No run begins with a recipe that cannot work."""
    with pytest.raises(RecipeRefused, match=says):
        recipes.recipe(name, overrides)


def test_the_recipe_of_an_earlier_card_is_used_again():
    """Even if a field has gone since; what cannot be read is refused."""
    old = recipes.recipe("tiny", {"teacher_steps": 77}).model_dump(mode="json") | {"forgotten": 1}

    assert recipes.again(old, {"student_steps": 88}) == recipes.recipe(
        "tiny", {"teacher_steps": 77, "student_steps": 88}
    )
    with pytest.raises(RecipeRefused, match="name one"):
        recipes.again({}, {})
