"""The plan: a generation's request resolved against the catalog, frozen before its first step.

Whatever is added later (labeled images, another champion), a generation is what its plan says.
"""

from torch import nn

from trainer import model
from understudy import recipes
from understudy.catalog import Catalog, generations, shards, versions
from understudy.errors import RecipeRefused
from understudy.recipes import Recipe, Turn
from understudy.records import Generation, Record, Sha256
from understudy.store import Store, weights_key


class Plan(Record):
    """Everything that decides a generation, frozen before its first step."""

    generation: int
    recipe: Recipe
    student: str
    num_parameters: int
    classes: tuple[str, ...]  #: of the student
    teacher: str | None  #: None: a first teacher, on labeled data alone
    seed: int
    weights: Sha256 | None  #: of an uploaded file to start from; None: from scratch, as in the paper
    labeled_counts: dict[str, int]
    labeled: tuple[str, ...]  #: keys of the labeled set's shards
    holdout: tuple[str, ...]  #: keys of the holdout's shards: only evaluation reads them
    last_shard: int  #: id of the newest shard to learn from; what is ingested later is for a later generation


def make_plan(catalog: Catalog, store: Store, generation: Generation) -> Plan:
    """Resolve a request against the catalog. Raises RecipeRefused."""
    request = generation.request
    counts = shards.class_counts(catalog, "labeled")
    recipe = _recipe(catalog, generation, sum(counts.values()))
    student = request.student or recipe.student(generation.number)
    teacher = versions.get(catalog, generation.teacher).card if generation.teacher else None
    classes = tuple(sorted({*counts, *(teacher.classes if teacher else ())}))
    fresh = fresh_student(student, len(classes), recipe)
    model.refuse_misfit(fresh, student, recipe.size)
    num_parameters = model.num_parameters(fresh)
    if teacher and not recipe.allow_smaller:
        model.refuse_smaller(student, num_parameters, teacher.student, teacher.num_parameters)
    if request.weights and not store.exists(weights_key(request.weights)):
        raise RecipeRefused(f"there are no uploaded weights {request.weights}; upload them first")
    return Plan(
        generation=generation.number,
        recipe=recipe,
        student=student,
        num_parameters=num_parameters,
        classes=classes,
        teacher=generation.teacher,
        seed=request.seed,
        weights=request.weights,
        labeled_counts=counts,
        labeled=tuple(shard.key for shard in shards.of_split(catalog, "labeled")),
        holdout=tuple(shard.key for shard in shards.of_split(catalog, "holdout")),
        last_shard=shards.newest(catalog),
    )


def _recipe(catalog: Catalog, generation: Generation, num_labeled: int) -> Recipe:
    """The recipe asked for; else that of the generation before; else the default."""
    request = generation.request
    turn = Turn(generation.number, request.student, num_labeled)
    before = generations.previous(catalog, generation.number)
    if request.recipe is None and before is not None and before.version is not None:
        return recipes.again(versions.get(catalog, before.version).card.recipe, request.overrides, turn)
    return recipes.recipe(request.recipe or recipes.DEFAULT, request.overrides, turn)


def fresh_student(student: str, num_classes: int, recipe: Recipe) -> nn.Module:
    """A student with the recipe's model noise and fresh weights."""
    return model.build(student, num_classes, dropout=recipe.dropout, drop_path_rate=recipe.drop_path_rate)
