"""One generation, straight down: plan, wait for labels, select, train, calibrate, export, evaluate, gate, conclude.

Each step is a file under ``generations/<n>/``; a step that has its file is skipped, so a trainer that
was killed anywhere is continued by the next one. What is in the store first counts: where two trainers
make the same file, both go on with the same bytes. Only ``conclude`` changes what serves.
"""

import hashlib
import itertools
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import nn

from trainer import (
    calibration,
    data,
    evaluate,
    export,
    gate,
    looks,
    model,
    pictures,
    plots,
    selection,
    tracking,
    train,
    validation,
    variants,
)
from trainer.calibration import Calibration
from trainer.card import Export, Training, draft_card, finished_card
from trainer.checkpoints import Checkpoints
from trainer.diary import Diary
from trainer.distributed import Ranks
from trainer.evaluate import Measured
from trainer.plan import Plan, begin, fresh_student, make_plan
from trainer.progress import Progress
from trainer.robustness import measures
from trainer.robustness.sample import sample
from trainer.selection import Former, LabelSets, Selection
from trainer.variants import JudgedVariants, MadeVariant, MadeVariants
from understudy import engine, images, pseudo_labels, registry, thresholds
from understudy.catalog import Catalog, generations, shards, versions
from understudy.catalog.claims import Claim, renew
from understudy.engine import Engine
from understudy.errors import ArtifactRefused, Conflict, Diverged, Refused
from understudy.images import Pixels
from understudy.pseudo_labels import Looking
from understudy.records import GateReport, Generation, Look, ModelCard, Record, Robustness, Variant
from understudy.store import Store, generation_key

log = logging.getLogger(__name__)

#: Labeled images on which torch and the engine must agree before an artifact counts.
NUM_PARITY_IMAGES = 32
#: A champion that changes this often while one challenger is judged is moved by something else than us.
MAX_COMPARISONS = 5
#: What the files of the supervised-only control begin with.
CONTROL = "control-"

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Workplace:
    """What a generation is worked on with; opened by ``__main__``."""

    catalog: Catalog
    store: Store
    device: str  #: torch's, or auto
    provider: str  #: ONNX Runtime's, or auto
    poll_s: float
    ring: Callable[[int], bool]  #: tells the workers of a wanted label set; False: nobody could be told
    mlflow_url: str = ""  #: where ended generations are told; empty: nowhere
    spool: Path | None = None  #: for what does not fit into memory; None: the system's temporary folder
    ranks: Ranks = field(default_factory=Ranks)  #: the processes that train together
    data_workers: int = -1  #: processes that make batches; 0: threads, -1: by the cores


def run(place: Workplace, claim: Claim, progress: Progress, generation: Generation) -> GateReport:
    """Work on a claimed generation until its verdict.

    Raises what its steps raise: Refused (the request cannot be met), Diverged, Conflict, LeaseLost, and
    Stopped when this process shall end.
    """
    work = _Work(place, claim, progress, generation.number)

    # 1. Freeze what was asked for, and what there is to learn from
    plan = work.step("plan.json", Plan, partial(make_plan, place.catalog, place.store, generation))

    # 2. Wait until the teacher has labeled every shard, if its labels are wanted; freeze the list
    sets = work.step("labels.json", LabelSets, partial(wait_for_labels, work, plan))

    # 3. Select pseudo-labels; nothing is learned from a teacher that has collapsed
    selected = None
    if sets.teacher is not None:
        selected = work.step("selection.json", Selection, partial(select, work, plan, sets))
        selection.refuse_collapse(selected, plan.recipe)

    # 4. Train the student
    training = work.step("training.json", Training, partial(train_student, work, plan, selected))

    # 5. Fit its temperature on a half of the holdout
    fitted = work.step("calibration.json", Calibration, partial(calibrate_student, work, plan))

    # 6. Export it, and see the engine agree with torch; then the same in other number formats
    exported = work.step("export.json", Export, partial(export_student, work, plan, fitted))
    made = work.step("variants.json", MadeVariants, partial(make_variants, work, plan, exported))

    # 7. The same student on labels alone, so that the gain from pseudo-labels is a number
    control = None
    if plan.recipe.control and selected is not None:
        control = work.step("control.json", Control, partial(make_control, work, plan))

    # 8. Evaluate, judge, publish, conclude; again if the champion changes meanwhile
    report = conclude(work, plan, sets, selected, training, exported, made, control)

    # 9. A new champion labels everything anew, for the next generation
    if report.is_proved:
        ask_for_labels(place)

    # 10. The generation has ended: who tracks experiments is told
    if place.mlflow_url:
        tracking.track(place.mlflow_url, plan, training, report)
    return report


@dataclass(frozen=True)
class _Work:
    """One claimed generation being worked on."""

    place: Workplace
    claim: Claim
    progress: Progress
    number: int

    def step(self, name: str, kind: type[R], make: Callable[[], R]) -> R:
        """A step's file: read if it is there, else made and written. Raises Stopped between two steps."""
        self.progress.check()
        key = generation_key(self.number, name)
        if not self.place.store.exists(key):
            made = make()
            self.claim.check()
            self.place.store.put(key, made.to_json())
        return kind.model_validate_json(self.place.store.get(key))

    def keep(self, name: str, make: Callable[[], bytes]) -> bytes:
        """An object of a step: read if it is there, else made and written."""
        key = generation_key(self.number, name)
        if not self.place.store.exists(key):
            made = make()
            self.claim.check()
            self.place.store.put(key, made)
        return self.place.store.get(key)

    def get(self, name: str) -> bytes:
        """An object of a step that is done."""
        return self.place.store.get(generation_key(self.number, name))

    def shows(self, step: str) -> Callable[[int, int], None]:
        """What a step calls with (units done, units in all)."""
        return partial(self.progress.show, step)


class Control(Record):
    """The supervised-only control: the same student, noise and steps, but labeled images alone."""

    training: Training | None = None
    exported: Export | None = None
    reason: str | None = None  #: why there is none


# -- 2. wait for labels -------------------------------------------------------------------------------


def wait_for_labels(work: _Work, plan: Plan) -> LabelSets:
    """Wait until every shard has the teacher's label set, or was set aside; then list what was published.

    Raises Conflict if the teacher is no longer the champion and shards are left that nobody will label.
    """
    teacher, catalog = plan.teacher, work.place.catalog
    if teacher is None or plan.recipe.pseudo_labels == "none":
        return LabelSets(teacher=None)
    while True:
        at = shards.label_progress(catalog, teacher, up_to=plan.last_shard)
        work.progress.show("wait for labels", at.num_done + at.num_failed, at.num_shards)
        if at.num_done + at.num_failed >= at.num_shards:
            break
        if (champion := registry.champion(catalog)) != teacher:
            raise Conflict(
                f"{at.num_shards - at.num_done - at.num_failed} shards wait for labels by {teacher}, but {champion} "
                f"is the champion now and labels instead; open another generation"
            )
        work.progress.wait(work.place.poll_s)
    if at.num_failed:
        log.warning("generation %d goes on without %d shards that could not be labeled", work.number, at.num_failed)
    published = [
        task for task in shards.published_labels(catalog, teacher, up_to=plan.last_shard) if task.key is not None
    ]
    return LabelSets(
        teacher=teacher,
        label_sets=tuple(task.key for task in published if task.key is not None),
        shards=tuple(task.shard.key for task in published),
    )


# -- 3. select ----------------------------------------------------------------------------------------


def select(work: _Work, plan: Plan, sets: LabelSets) -> Selection:
    """Choose the pseudo-labels; their rows go to a Parquet file that the selection names."""
    work.progress.show("select", 0, len(sets.label_sets))
    catalog, store = work.place.catalog, work.place.store
    assert plan.teacher is not None, "there is nothing to select from without a teacher"
    teacher = versions.get(catalog, plan.teacher).card
    spool = _made(work.place.spool)
    with tempfile.TemporaryDirectory(dir=spool) as folder:
        rows = Path(folder) / "selection.parquet"
        looking = Looking(catalog, store, spool or Path(folder))
        summary = selection.select(
            store,
            sets,
            classes=teacher.classes,
            labeled_counts=plan.labeled_counts,
            human_labeled=shards.human_labeled(catalog),
            recipe=plan.recipe,
            rows=rows,
            spool=work.place.spool,
            answers=thresholds.answers_of(store, teacher.generation),
            former=_former(work) if plan.recipe.relabel == "same" else None,
            agreement=pseudo_labels.agreement(looking, plan.teacher, sets.label_sets, plan.recipe.threshold),
        )
        work.claim.check()
        store.put(generation_key(work.number, selection.rows_name(summary.rows_sha256)), rows)
    for warning in summary.warnings:
        log.warning("generation %d: %s", work.number, warning)
    work.progress.show("select", len(sets.label_sets), len(sets.label_sets))
    return summary


def _former(work: _Work) -> Former | None:
    """The newest choice of pseudo-labels that a model was made with. None: there is none, so this one is made afresh.

    Raises Refused if its rows are gone.
    """
    store, before = work.place.store, generations.previous(work.place.catalog, work.number)
    while before is not None:
        if store.exists(key := generation_key(before.number, "selection.json")):
            chosen = Selection.model_validate_json(store.get(key))
            rows = generation_key(before.number, selection.rows_name(chosen.rows_sha256))
            if not store.exists(rows):
                raise Refused(
                    f"the selection of generation {before.number} shall be labeled anew, but its rows ({rows}) are not "
                    f"in the store; set relabel to afresh",
                    code="selection_lost",
                )
            return Former(before.number, rows, chosen.num_kept)
        before = generations.previous(work.place.catalog, before.number)
    log.info("generation %d: there is no selection to label anew; a first one is made", work.number)
    return None


def _made(folder: Path | None) -> Path | None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


# -- 4. train -----------------------------------------------------------------------------------------


class Order(Record):
    """What all processes of one training must know."""

    plan: Plan
    selected: Selection | None
    teacher: ModelCard | None  #: whose weights a student may grow from


def train_student(work: _Work, plan: Plan, selected: Selection | None, prefix: str = "") -> Training:
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
        work.keep("augmented.jpg", partial(pictures.of_student, run.batches, plan.classes))
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


def _diary(work: _Work, plan: Plan, run: train.Run) -> Diary:
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
    pseudo = None
    if order.selected is not None:
        key = generation_key(plan.generation, selection.rows_name(order.selected.rows_sha256))
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


def _beginning(store: Store, order: Order) -> nn.Module:
    """The student before its first step: the same for the same plan."""
    plan = order.plan
    with train.seeded(plan.seed):
        student = fresh_student(plan.student, len(plan.classes), plan.recipe)
    begin(student, plan, store, order.teacher)
    return student


# -- 5. calibrate -------------------------------------------------------------------------------------


def calibrate_student(work: _Work, plan: Plan) -> Calibration:
    """Fit the temperature of the averaged student, un-noised; its answers go to ``answers.json``."""

    def show(done: int, total: int) -> None:
        work.progress.show("calibrate", done, total)
        work.progress.check()

    preprocessing, device = plan.recipe.preprocessing, model.device(work.place.device)
    student = fresh_student(plan.student, len(plan.classes), plan.recipe)
    export.load_weights(student, work.get("weights.safetensors"))
    judged = export.served(student, preprocessing, 1.0).to(device)
    index = {name: i for i, name in enumerate(plan.classes)}
    truth: list[int] = []
    said = [np.zeros((0, len(plan.classes)), dtype=np.float32)]
    images_of_half = evaluate.calibration_half(work.place.store, plan.holdout, preprocessing, show)
    while batch := list(itertools.islice(images_of_half, evaluate.BATCH)):
        truth += [index.get(name, len(index)) for name, _ in batch]
        said.append(export.logits(judged, np.stack([pixels for _, pixels in batch]), device))
    logits, classes = np.concatenate(said), np.array(truth, dtype=np.int64)
    found = calibration.calibrated(
        logits, classes, is_wanted=plan.recipe.calibrate, error_of=evaluate.calibration_error
    )
    work.keep(thresholds.ANSWERS, calibration.answers(logits, classes, found.temperature).to_json)
    log.info("generation %d has a temperature of %.3f: %s", work.number, found.temperature, found.reason or "fitted")
    return found


# -- 6. export ----------------------------------------------------------------------------------------


def export_student(work: _Work, plan: Plan, fitted: Calibration, prefix: str = "") -> Export:
    """Make the artifact and see that the engine answers as torch does; it goes to ``model.onnx``."""
    Checkpoints(work.place.store, work.number, folder=f"{prefix}checkpoints").clear()
    work.progress.show("export", 0, 1)
    preprocessing = plan.recipe.preprocessing
    student = fresh_student(plan.student, len(plan.classes), plan.recipe)
    export.load_weights(student, work.get(f"{prefix}weights.safetensors"))
    served = export.served(student, preprocessing, fitted.temperature)
    artifact = work.keep(f"{prefix}model.onnx", partial(export.to_onnx, served, preprocessing.size))
    made = Export(
        version=registry.version_id(plan.generation, artifact),
        artifact_sha256=hashlib.sha256(artifact).hexdigest(),
        artifact_bytes=len(artifact),
        probe=export.probe(served, preprocessing.size),
        worst_difference=0.0,
        calibration=fitted,
    )
    loaded = engine.load(artifact, draft_card(plan, made), provider="cpu")
    worst = export.check_parity(served, loaded, _labeled_pixels(work.place.store, plan))
    work.progress.show("export", 1, 1)
    return made.model_copy(update={"worst_difference": worst})


def make_control(work: _Work, plan: Plan) -> Control:
    """Train and export the control; it is never registered. One that diverges fails nothing but itself."""
    try:
        training = train_student(work, plan, None, CONTROL)
    except Diverged as fault:
        log.warning("generation %d has no control: %s", work.number, fault)
        return Control(reason=str(fault))
    unfitted = Calibration(reason="a control is compared by its accuracy, which no temperature changes")
    return Control(training=training, exported=export_student(work, plan, unfitted, CONTROL))


def make_variants(work: _Work, plan: Plan, exported: Export) -> MadeVariants:
    """Make the variants that the recipe asks for; they go to ``model.<name>.onnx``."""
    names, made = plan.recipe.variants, []
    for index, name in enumerate(names):
        work.progress.show("make variants", index, len(names))
        try:
            made.append(_made_variant(work, plan, exported, name))
        except ArtifactRefused as error:
            log.warning("generation %d has no %s variant: %s", work.number, name, error)
            made.append(MadeVariant(name=name, reason=str(error)))
    return MadeVariants(variants=tuple(made))


def _made_variant(work: _Work, plan: Plan, exported: Export, name: variants.Name) -> MadeVariant:
    calibration = partial(_labeled_pixels, work.place.store, plan, variants.NUM_CALIBRATION_IMAGES)
    convert = partial(variants.convert, name, work.get("model.onnx"), calibration)
    return variants.verified(name, work.keep(f"model.{name}.onnx", convert), draft_card(plan, exported))


def _labeled_pixels(store: Store, plan: Plan, num_images: int = NUM_PARITY_IMAGES) -> Pixels:
    """Some labeled images, from all over the set, as a model's input: (N, size, size, 3) uint8."""
    every = data.labeled_rows(store, plan.labeled, plan.classes, plan.recipe).places
    places = every[:: max(1, len(every) // num_images)][:num_images]
    encoded = (store.get_range(place.shard, place.offset, place.num_bytes) for place in places)
    return np.stack([images.load(image, plan.recipe.preprocessing) for image in encoded])


# -- 7. evaluate, judge, publish, conclude ------------------------------------------------------------


def conclude(
    work: _Work,
    plan: Plan,
    sets: LabelSets,
    selected: Selection | None,
    training: Training,
    exported: Export,
    made: MadeVariants,
    control: Control | None = None,
) -> GateReport:
    """Judge the challenger against whoever is the champion, and end the generation with the verdict.

    Raises Conflict if the champion keeps changing.
    """
    for _ in range(MAX_COMPARISONS):
        newest = versions.champion(work.place.catalog)
        champion = newest.version if newest is not None else None
        ours = _judgeable(work, plan, exported.version, partial(_challenger, work, plan, exported))
        theirs = None
        if champion is not None:
            theirs = _judgeable(work, plan, champion, partial(_champion, work, champion))
        beside = _measured_control(work, plan, control)
        name = f"gate-{champion or 'nobody'}-{_digest(plan.holdout)}.json"
        report = work.step(name, GateReport, partial(_judged, work, plan, ours, theirs, beside))
        judged = _judged_variants(work, plan, exported, made, ours.measured)
        draw(work, ours)
        card = finished_card(plan, sets, selected, training, exported, report, judged.variants, ours.robustness)
        publish(work, card)
        try:
            generations.conclude(work.place.catalog, work.claim, work.number, exported.version, report)
        except Conflict as conflict:
            log.info("generation %d: %s", work.number, conflict)
            continue
        log.info("generation %d: %s: %s", work.number, report.verdict, "; ".join(report.reasons))
        return report
    raise Conflict(
        f"the champion changed {MAX_COMPARISONS} times while {exported.version} was judged; open another one"
    )


@dataclass(frozen=True)
class _Judgeable:
    """What the gate sees of a version."""

    measured: Measured
    robustness: Robustness | None  #: None: the recipe does not ask for it


def _judgeable(work: _Work, plan: Plan, version: str, load: Callable[[], Engine]) -> _Judgeable:
    return _Judgeable(_measured(work, version, plan.holdout, load), _robustness(work, plan, version, load))


def _measured(work: _Work, version: str, holdout: tuple[str, ...], load: Callable[[], Engine]) -> Measured:
    """A version's measurement on this holdout: from its file, or made."""

    def show(done: int, total: int) -> None:
        work.progress.show("evaluate", done, total)
        work.progress.check()

    return work.step(
        f"evaluation-{version}-{_digest(holdout)}.json",
        Measured,
        lambda: evaluate.measure(work.place.store, load(), holdout, show),
    )


def _robustness(work: _Work, plan: Plan, version: str, load: Callable[[], Engine]) -> Robustness | None:
    """A version's error under corruption, on the same sample for all: from its file, or measured. None: not asked for."""
    if not plan.recipe.robustness_images:
        return None

    def show(done: int, total: int) -> None:
        work.progress.show("evaluate under corruption", done, total)
        work.progress.check()

    def make() -> Robustness:
        return measures.measure(load(), sample(work.place.store, plan.holdout, plan.recipe.robustness_images), show)

    return work.step(f"robustness-{version}-{_digest(plan.holdout)}.json", Robustness, make)


def draw(work: _Work, challenger: _Judgeable) -> None:
    """Put what was measured of the challenger into the generation's folder as pictures. A fault here ends nothing."""
    measured, robustness = challenger.measured, challenger.robustness
    version, matrix = measured.evaluation.version, measured.confusion_matrix()
    classes = (measured.classes, measured.model_classes)
    pictures: dict[str, Callable[[], bytes]] = {
        "reliability.png": lambda: plots.reliability_diagram(measured.evaluation),
        "confusion.png": lambda: plots.confusion_plot(matrix, *classes, version),
    }
    if robustness is not None:
        pictures["robustness.png"] = lambda: plots.robustness_heat_map(robustness)
    for name, make in pictures.items():
        if not work.place.store.exists(generation_key(work.number, name)):
            _draw(work, name, make)


def _draw(work: _Work, name: str, make: Callable[[], bytes]) -> None:
    try:
        picture = make()
    except Exception:  # names of classes are the users', fonts the machine's
        log.warning("generation %d has no picture %s", work.number, name, exc_info=True)
    else:
        work.keep(name, lambda: picture)


def _judged_variants(
    work: _Work, plan: Plan, exported: Export, made: MadeVariants, challenger: Measured
) -> JudgedVariants:
    """The variants with what each loses on the holdout: from the file, or measured."""

    def measure(loaded: Engine) -> Measured:
        def show(done: int, total: int) -> None:
            work.progress.show(f"evaluate {loaded.variant}", done, total)
            work.progress.check()

        return evaluate.measure(work.place.store, loaded, plan.holdout, show)

    def judge(variant: MadeVariant) -> Variant:
        provider = work.place.provider if variant.name == "fp16" else "cpu"
        load = partial(_variant, work, plan, exported, variant, provider)
        return variants.judge(variant, card, challenger, plan.recipe.variant_tolerance, load, measure)

    card = draft_card(plan, exported)
    return work.step(
        f"variants-{_digest(plan.holdout)}.json",
        JudgedVariants,
        lambda: JudgedVariants(variants=tuple(judge(variant) for variant in made.variants)),
    )


def _variant(work: _Work, plan: Plan, exported: Export, made: MadeVariant, provider: str) -> Engine:
    artifact = work.get(f"model.{made.name}.onnx")
    return variants.load(artifact, draft_card(plan, exported), made, provider=provider)


def _digest(holdout: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join(holdout).encode()).hexdigest()[:8]


def _challenger(work: _Work, plan: Plan, exported: Export, prefix: str = "") -> Engine:
    return engine.load(work.get(f"{prefix}model.onnx"), draft_card(plan, exported), provider=work.place.provider)


def _champion(work: _Work, version: str) -> Engine:
    return registry.load(work.place.store, work.place.catalog, version, provider=work.place.provider)


def _measured_control(work: _Work, plan: Plan, control: Control | None) -> Measured | None:
    if control is None or control.exported is None:
        return None
    # Its artifact has a version only here: no catalog knows it, and nothing can serve it.
    exported = control.exported.model_copy(update={"version": f"{control.exported.version}-control"})
    return _measured(work, exported.version, plan.holdout, partial(_challenger, work, plan, exported, CONTROL))


def _judged(
    work: _Work, plan: Plan, challenger: _Judgeable, champion: _Judgeable | None, control: Measured | None
) -> GateReport:
    work.progress.show("gate", 0, 1)
    report = gate.decide(
        work.number,
        challenger.measured,
        None if champion is None else champion.measured,
        look=_look(work, plan.holdout),
        limits=gate.limits_of(plan.recipe),
        robustness=(challenger.robustness, None if champion is None else champion.robustness),
        control=control,
    )
    work.progress.show("gate", 1, 1)
    return report


def _look(work: _Work, holdout: tuple[str, ...]) -> Look:
    """Which look at the holdout this is: after all comparisons that any generation made, this one's too."""
    catalog = work.place.catalog
    num_images = {shard.key: shard.num_images for shard in shards.of_split(catalog, "holdout")}
    past = [report for turn in reversed(generations.every(catalog)) for report in _comparisons(work.place.store, turn)]
    return looks.next_look(past, {key: num_images[key] for key in holdout})


def _comparisons(store: Store, turn: Generation) -> list[GateReport]:
    """A generation's gate reports, the oldest first: more than one, if the champion changed meanwhile."""
    keys = [
        key
        for key in store.list(f"generations/{turn.number:04d}")
        if key.startswith(generation_key(turn.number, "gate-"))
    ]
    found = [GateReport.model_validate_json(store.get(key)) for key in keys]
    found.sort(key=lambda report: 0 if report.look is None else report.look.number)
    return found or ([] if turn.report is None else [turn.report])


def publish(work: _Work, card: ModelCard) -> None:
    """Register the challenger with its files. Twice is once."""
    work.claim.check()
    others: dict[str, bytes] = {
        variant.name: work.get(f"model.{variant.name}.onnx") for variant in card.variants if variant.is_eligible
    }
    registry.publish(
        work.place.store, work.place.catalog, card, work.get("model.onnx"), work.get("weights.safetensors"), others
    )


# -- 8. the next round --------------------------------------------------------------------------------


def ask_for_labels(place: Workplace) -> None:
    """Want the new champion's label sets and ring for them. What is not heard, the reconciler repeats."""
    for task in shards.want_labels(place.catalog):
        if not place.ring(task):
            return
