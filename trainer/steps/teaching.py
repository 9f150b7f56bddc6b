"""Train the student, in one process or in several."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from trainer import data, export, model, pictures, reviewed, train, validation
from trainer.card import Training
from trainer.checkpoints import Checkpoints
from trainer.diary import Diary
from trainer.distributed import Ranks
from trainer.plan import Plan, begin, fresh_student
from trainer.work import Work
from understudy.catalog import versions
from understudy.catalog.claims import renew
from understudy.label_records import Selection
from understudy.records import ModelCard, Record
from understudy.store import Store, selection_key

log = logging.getLogger(__name__)


class Order(Record):
    """What all processes of one training must know."""

    plan: Plan
    selected: Selection | None
    teacher: ModelCard | None  #: whose weights a student may grow from


def train_student(work: Work, plan: Plan, selected: Selection | None, prefix: str = "") -> Training:
    """Train, or go on training from the newest checkpoint; the averaged weights go to ``weights.safetensors``.

    ``prefix`` begins the names of all files of another run of the same plan.
    """
    place = work.place
    teacher = versions.get(place.catalog, plan.teacher).card if plan.teacher else None
    order = Order(plan=plan, selected=selected, teacher=teacher)
    checkpoints = Checkpoints(
        place.store, work.number, work.claim.attempt, lambda: renew(place.catalog, work.claim), f"{prefix}checkpoints"
    )
    run = training_run(
        order, place.store, place.device, place.ranks, checkpoints, data_workers=place.data_workers,
        show=work.shows(f"train {prefix.rstrip('-')}"), is_stopping=lambda: work.progress.is_stopping,
    )  # fmt: skip
    diary = None if prefix else _diary(work, plan, run)
    if diary is not None:
        work.draw("augmented.jpg", partial(pictures.of_student, run.batches, plan.classes))
        run = replace(
            run, observer=diary, show=lambda done, total: work.progress.show("train", done, total, diary.figures)
        )
    beginning = _beginning(place.store, order)
    place.ranks.tell(order.to_json())
    student, state = run.train(beginning)
    if diary is not None:
        diary.write(state)
    weights = work.keep(f"{prefix}weights.safetensors", partial(export.weights_to_safetensors, student))
    pseudo = run.batches.pseudo
    return Training(
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        num_steps=run.num_steps,
        num_labeled=len(run.batches.labeled),
        num_pseudo=0 if pseudo is None else len(pseudo),
        seconds=state.seconds,
        device=str(run.device),
        learning_rate_factor=state.learning_rate_factor,
        history=state.history,
        validations=state.validations,
    )


def training_run(
    order: Order,
    store: Store,
    device: str,
    ranks: Ranks,
    checkpoints: Checkpoints,
    *,
    data_workers: int,
    show: Callable[[int, int], None],
    is_stopping: Callable[[], bool],
) -> train.Run:
    """The run of a plan in one process, be it the only one or one of several."""
    plan, recipe = order.plan, order.plan.recipe
    labeled = data.labeled_rows(store, plan.labeled, plan.classes, recipe)
    joined = reviewed.read(store, plan.generation, plan.reviewed)
    labeled = data.with_reviewed(store, labeled, joined, plan.classes, recipe)
    pseudo = None
    if order.selected is not None:
        key = selection_key(plan.generation, order.selected.rows_sha256)
        pseudo = data.pseudo_rows(store, key, order.selected, plan.classes, recipe)
        for sentence in data.lone_classes(labeled, pseudo, plan.classes):
            log.warning("generation %d: %s", plan.generation, sentence)
    num_steps = recipe.teacher_steps if plan.teacher is None else recipe.student_steps
    return train.Run(
        batches=data.batches(
            store, labeled, pseudo, recipe, plan.seed, num_steps, data_workers, part=(ranks.rank, ranks.size)
        ),
        checkpoints=checkpoints,
        recipe=recipe,
        num_steps=num_steps,
        seed=plan.seed,
        device=model.device(device),
        show=show,
        is_stopping=is_stopping,
        ranks=ranks,
    )


def train_along(store: Store, device: str, ranks: Ranks, data_workers: int, is_stopping: Callable[[], bool]) -> None:
    """What every process but the first does: train what rank 0 tells, until it tells the end.

    Raises RanksLost when another process is gone; what it cannot do itself it tells the others, and waits.
    """
    while told := ranks.tell():
        order = Order.model_validate_json(told)
        log.info("generation %d: training along as rank %d of %d", order.plan.generation, ranks.rank, ranks.size)
        try:
            run = training_run(
                order, store, device, ranks, Checkpoints(store, order.plan.generation), data_workers=data_workers,
                show=lambda done, total: None, is_stopping=is_stopping,
            )  # fmt: skip
            beginning = _beginning(store, order)
        except Exception:
            log.exception("rank %d cannot train generation %d", ranks.rank, order.plan.generation)
            ranks.leave()
            continue
        try:
            run.train(beginning)
        except Exception as fault:
            if ranks.is_broken:
                raise
            log.warning("generation %d: rank %d stops: %r", order.plan.generation, ranks.rank, fault)


def _diary(work: Work, plan: Plan, run: train.Run) -> Diary:
    """What observes the run: it shows how it goes, and changes nothing."""
    recipe, place = plan.recipe, work.place
    validator = validation.validator(
        place.store,
        plan.holdout,
        plan.classes,
        recipe.preprocessing,
        run.device,
        every=recipe.evaluate_every,
        num_steps=run.num_steps,
        is_stopping=run.is_stopping,
    )
    batch_images = recipe.labeled_batch * (1 if run.batches.pseudo is None else 1 + recipe.unlabeled_ratio)
    return Diary(place.store, work.number, run.num_steps, batch_images, validator, place.spool, work.claim.check)


def _beginning(store: Store, order: Order) -> nn.Module:
    """The student before its first step: the same for the same plan."""
    plan = order.plan
    with train.seeded(plan.seed):
        student = fresh_student(plan.student, len(plan.classes), plan.recipe)
    begin(student, plan, store, order.teacher)
    return student
