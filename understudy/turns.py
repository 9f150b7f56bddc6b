"""A turn of the loop before it is worked on: what was asked for, resolved to a recipe.

The service asks it before it takes a request, so that nobody waits for a job to hear of a misspelled field;
the trainer asks it again when it freezes the plan, by what is in the catalog then.
"""

from understudy import architectures, recipes
from understudy.catalog import Catalog, generations, reviews, versions
from understudy.errors import Conflict, RecipeRefused
from understudy.recipes import Recipe, Teacher, Turn
from understudy.records import GenerationRequest, ModelCard, Sha256
from understudy.store import Store, weights_key


def resolve(catalog: Catalog, request: GenerationRequest, number: int, teacher: ModelCard | None) -> Recipe:
    """The recipe asked for; else that of the generation before; else the default. Raises RecipeRefused."""
    turn = Turn(
        generation=number,
        student=request.student,
        num_labeled=sum(reviews.labeled_counts(catalog).values()),
        teacher=Teacher(teacher.student, teacher.preprocessing) if teacher else None,
    )
    before = generations.previous(catalog, number)
    if request.recipe is None and before is not None and before.version is not None:
        recipe = recipes.again(versions.get(catalog, before.version).card.recipe, request.overrides, turn)
    else:
        recipe = recipes.recipe(request.recipe or recipes.DEFAULT, request.overrides, turn)
    architectures.parse(request.student or recipe.student(number))
    return recipe


def weights(store: Store, request: GenerationRequest, recipe: Recipe, teacher: ModelCard | None) -> Sha256 | None:
    """The uploaded file that a student starts from; None: from scratch, or from its teacher. Raises RecipeRefused and Conflict.

    A recipe that starts from pretrained weights goes on with its teacher's file where none is named: the student
    has the same start as its teacher had.
    """
    if recipe.start == "teacher":
        if teacher is None:
            raise RecipeRefused("start=teacher, and there is no teacher yet: set start to scratch for the first one")
        if request.weights:
            raise RecipeRefused("start=teacher and uploaded weights are two beginnings: leave one of them out")
        return None
    named: Sha256 | None = request.weights
    if named is None and recipe.start == "pretrained":
        named = teacher.data.get("weights") if teacher else None
        if named is None:
            raise RecipeRefused(
                f"recipe {recipe.name!r} starts from pretrained weights, and neither the request nor the teacher has "
                f"any: send a safetensors file with `understudy init --weights` or POST /weights and name it"
            )
    if named is not None and not store.exists(weights_key(named)):
        raise Conflict(f"there are no uploaded weights {named}; upload them first")
    return named


def check(catalog: Catalog, store: Store, request: GenerationRequest) -> None:
    """Raise RecipeRefused if the next generation could not be what is asked for, as far as is known without torch."""
    champion = versions.champion(catalog)
    teacher = versions.get(catalog, champion.version).card if champion else None
    recipe = resolve(catalog, request, generations.upcoming(catalog), teacher)
    weights(store, request, recipe, teacher)
