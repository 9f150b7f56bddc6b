"""The plan: a generation's request resolved against the catalog, frozen before its first step.

Whatever is added later (labeled images, another champion), a generation is what its plan says.
"""

import hashlib
import logging

from torch import nn

from trainer import model, reviewed, weights
from trainer.reviewed import Reviewed
from understudy import turns
from understudy.catalog import Catalog, shards, versions
from understudy.errors import RecipeRefused
from understudy.recipes import Recipe
from understudy.records import Generation, ModelCard, Record, Sha256
from understudy.store import Store, weights_key

log = logging.getLogger(__name__)


class Plan(Record):
    """Everything that decides a generation, frozen before its first step."""

    generation: int
    recipe: Recipe
    student: str
    num_parameters: int
    classes: tuple[str, ...]  #: of the student
    teacher: str | None  #: None: a first teacher, on labeled data alone
    seed: int
    weights: Sha256 | None  #: of an uploaded file to start from; None: from scratch as in the paper, or its teacher's
    labeled_counts: dict[str, int]  #: of the labeled set and the reviewed images
    labeled: tuple[str, ...]  #: keys of the labeled set's shards
    reviewed: Reviewed = Reviewed()  #: images of buckets that join the labeled set, as people have labeled them by now
    holdout: tuple[str, ...]  #: keys of the holdout's shards: only evaluation reads them
    last_shard: int  #: id of the newest shard to learn from; what is ingested later is for a later generation


def make_plan(catalog: Catalog, store: Store, generation: Generation) -> Plan:
    """Resolve a request against the catalog. Raises RecipeRefused."""
    request = generation.request
    counts = shards.class_counts(catalog, "labeled")
    frozen, by_review = reviewed.freeze(catalog, store, generation.number)
    counts = {name: num + by_review.get(name, 0) for name, num in counts.items()}
    teacher = versions.get(catalog, generation.teacher).card if generation.teacher else None
    recipe = turns.resolve(catalog, request, generation.number, teacher)
    student = request.student or recipe.student(generation.number)
    classes = tuple(sorted({*counts, *(teacher.classes if teacher else ())}))
    fresh = fresh_student(student, len(classes), recipe)
    model.refuse_misfit(fresh, student, recipe.size)
    num_parameters = model.num_parameters(fresh)
    if teacher:
        model.refuse_smaller(
            student, num_parameters, teacher.student, teacher.num_parameters, is_allowed=recipe.allow_smaller
        )
    plan = Plan(
        generation=generation.number,
        recipe=recipe,
        student=student,
        num_parameters=num_parameters,
        classes=classes,
        teacher=generation.teacher,
        seed=request.seed,
        weights=turns.weights(store, request, recipe, teacher),
        labeled_counts=counts,
        labeled=tuple(shard.key for shard in shards.of_split(catalog, "labeled")),
        reviewed=frozen,
        holdout=tuple(shard.key for shard in shards.of_split(catalog, "holdout")),
        last_shard=shards.newest(catalog),
    )
    begin(fresh, plan, store, teacher)  # what does not fit is refused now, not after hours of labeling
    return plan


def begin(student: nn.Module, plan: Plan, store: Store, teacher: ModelCard | None) -> None:
    """Give a fresh student the weights that its plan names, and freeze what its recipe freezes, in place.

    Raises RecipeRefused where they do not fit, or are damaged.
    """
    if plan.recipe.start == "teacher":
        assert teacher is not None, "a plan that grows from a teacher has one"
        fresh = weights.grow(
            student,
            _weights_of(store, teacher),
            classes=plan.classes,
            teacher_classes=teacher.classes,
            teacher=f"{teacher.version} ({teacher.student})",
        )
        log.info("generation %d grows from %s; fresh classes: %s", plan.generation, teacher.version, fresh)
    elif plan.weights is not None:
        fresh = weights.start_from(student, store.get(weights_key(plan.weights)))
        log.info("generation %d starts from weights %s; left fresh: %s", plan.generation, plan.weights, fresh)
    if plan.recipe.frozen_blocks is not None:
        model.freeze(student, plan.recipe.frozen_blocks)


def _weights_of(store: Store, teacher: ModelCard) -> bytes:
    found = store.get(teacher.weights_key)
    promised = teacher.training.get("weights_sha256", "")
    if promised and hashlib.sha256(found).hexdigest() != promised:
        raise RecipeRefused(
            f"the weights of teacher {teacher.version} are not those that its card names ({teacher.weights_key} is "
            f"damaged); set start to scratch, or roll back to another champion"
        )
    return found


def fresh_student(student: str, num_classes: int, recipe: Recipe) -> nn.Module:
    """A student with the recipe's model noise and fresh weights."""
    return model.build(
        student,
        num_classes,
        dropout=recipe.dropout,
        drop_path_rate=recipe.drop_path_rate,
        batch_norm_momentum=recipe.batch_norm_momentum,
    )
