"""What a generation's page says, without a browser."""

import pytest

from dashboard.pages.generation import place_of, recipe_fields, steps_of
from understudy import recipes
from understudy.records import Generation, GenerationRequest, GenerationState, Job, JobKind, JobState


def turn(step, state=GenerationState.RUNNING, teacher="g0000-0fe658"):
    job = Job(id="1", kind=JobKind.GENERATION, state=JobState.RUNNING, step=step, created_at=0.0, updated_at=0.0)
    return Generation(number=1, state=state, request=GenerationRequest(), teacher=teacher, job=job, created_at=0.0)


@pytest.mark.parametrize(
    ("step", "title"),
    [
        (None, "Plan"),
        ("wait for labels", "Labels"),
        ("train", "Training"),
        ("make variants", "Export"),
        ("evaluate under corruption", "Evaluation"),
        ("a step of another release", "Plan"),
    ],
)
def test_the_step_is_found_by_its_first_word(step, title):
    """As the trainer shows them."""
    at = turn(step)
    assert steps_of(at)[place_of(at)][1] == title


def test_a_first_teacher_has_no_labels_to_wait_for():
    """Nor anything to select from; one that is judged has done all."""
    assert [title for _, title in steps_of(turn("train", teacher=None))][:2] == ["Plan", "Training"]
    judged = turn("gate", GenerationState.REFUSED)
    assert place_of(judged) == len(steps_of(judged)) == 8


def test_what_was_replaced_is_told_first_and_what_is_usual_last():
    """With its meaning; a field of another release is told too."""
    recipe = recipes.recipe("tiny", {"threshold": 0.7}).model_dump(mode="json") | {"of_another_release": [1]}

    told, usual = recipe_fields(recipe)

    assert (told[0].name, told[0].value, told[0].why) == ("threshold", "0.7", "replaced")
    assert told[0].meaning == "Least confidence of the teacher."
    assert {"dropout": "of the recipe", "of_another_release": "of the recipe"}.items() <= {
        one.name: one.why for one in told
    }.items()
    assert {"weight_decay", "augment_ops"} <= {one.name for one in usual}
    assert not {"name", "asked"} & {one.name for one in told + usual}
