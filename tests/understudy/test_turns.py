"""What was asked for, resolved to a recipe before anything is worked on."""

import pytest

from understudy import recipes, turns
from understudy.errors import Conflict, RecipeRefused
from understudy.records import GenerationRequest, ModelCard
from understudy.store import Store, weights_key
from understudy.testing import tiny_artifact

SENT, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path) -> Store:
    """A store that one file of weights was sent to."""
    store = Store((tmp_path / "store").as_uri())
    store.put(weights_key(SENT), b"weights")
    return store


def card(**data) -> ModelCard:
    return tiny_artifact(["ant", "bee"])[1].model_copy(update={"data": data})


def weights(store, teacher=None, *, asked=None, **overrides):
    request = GenerationRequest(weights=asked)
    return turns.weights(store, request, recipes.recipe("small", overrides), teacher)


def test_a_student_starts_from_scratch_unless_weights_are_named(store):
    """As in the paper."""
    assert weights(store) is None
    assert weights(store, card(weights=SENT)) is None
    assert weights(store, asked=SENT) == SENT
    with pytest.raises(Conflict, match="upload them first"):
        weights(store, asked=OTHER)


def test_a_pretrained_student_has_its_teachers_start(store):
    """The file of the request, else that of the teacher; never fresh."""
    assert weights(store, start="pretrained", asked=SENT) == SENT
    assert weights(store, card(weights=SENT), start="pretrained") == SENT
    for teacher in (None, card(), card(weights=None)):
        with pytest.raises(RecipeRefused, match="init --weights"):
            weights(store, teacher, start="pretrained")


def test_a_student_grown_from_its_teacher_has_no_other_beginning(store):
    """Nor has a first teacher anything to grow from."""
    assert weights(store, card(weights=SENT), start="teacher") is None
    with pytest.raises(RecipeRefused, match="no teacher yet"):
        weights(store, start="teacher")
    with pytest.raises(RecipeRefused, match="two beginnings"):
        weights(store, card(), start="teacher", asked=SENT)
