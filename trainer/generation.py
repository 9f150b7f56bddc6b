"""One generation, straight down: plan, wait for labels, select, train, export, evaluate, gate, conclude.

Each step is a file under ``generations/<n>/``; a step that has its file is skipped, so a trainer that
was killed anywhere is continued by the next one. What is in the store first counts: where two trainers
make the same file, both go on with the same bytes. Only ``conclude`` changes what serves.
"""

import hashlib
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import nn

from trainer import data, evaluate, export, gate, model, pictures, selection, train, variants
from trainer.card import Export, Training, draft_card, finished_card
from trainer.checkpoints import Checkpoints
from trainer.evaluate import Measured
from trainer.plan import Plan, fresh_student, make_plan
from trainer.progress import Progress
from trainer.selection import LabelSets, Selection
from trainer.variants import JudgedVariants, MadeVariant, MadeVariants
from understudy import engine, images, registry
from understudy.catalog import Catalog, generations, shards, versions
from understudy.catalog.claims import Claim
from understudy.engine import Engine
from understudy.errors import ArtifactRefused, Conflict
from understudy.images import Pixels
from understudy.records import GateReport, Generation, ModelCard, Record, Variant
from understudy.store import Store, generation_key, weights_key

log = logging.getLogger(__name__)

#: Labeled images on which torch and the engine must agree before an artifact counts.
NUM_PARITY_IMAGES = 32
#: A champion that changes this often while one challenger is judged is moved by something else than us.
MAX_COMPARISONS = 5

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
    spool: Path | None = None  #: for what does not fit into memory; None: the system's temporary folder
    data_workers: int = -1  #: processes that make batches; 0: threads, -1: by the cores


def run(place: Workplace, claim: Claim, progress: Progress, generation: Generation) -> GateReport:
    """Work on a claimed generation until its verdict.

    Raises what its steps raise: Refused (the request cannot be met), Diverged, Conflict, LeaseLost, and
    Stopped when this process shall end.
    """
    work = _Work(place, claim, progress, generation.number)

    # 1. Freeze what was asked for, and what there is to learn from
    plan = work.step("plan.json", Plan, partial(make_plan, place.catalog, place.store, generation))

    # 2. Wait until the teacher has labeled every shard; freeze the list
    sets = work.step("labels.json", LabelSets, partial(wait_for_labels, work, plan))

    # 3. Select pseudo-labels
    selected = None
    if plan.teacher is not None:
        selected = work.step("selection.json", Selection, partial(select, work, plan, sets))

    # 4. Train the student
    training = work.step("training.json", Training, partial(train_student, work, plan, selected))

    # 5. Export it, and see the engine agree with torch; then the same in other number formats
    exported = work.step("export.json", Export, partial(export_student, work, plan))
    made = work.step("variants.json", MadeVariants, partial(make_variants, work, plan, exported))

    # 6. Evaluate, judge, publish, conclude; again if the champion changes meanwhile
    report = conclude(work, plan, sets, selected, training, exported, made)

    # 7. A new champion labels everything anew, for the next generation
    if report.is_proved:
        ask_for_labels(place)
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


# -- 2. wait for labels -------------------------------------------------------------------------------


def wait_for_labels(work: _Work, plan: Plan) -> LabelSets:
    """Wait until every shard has the teacher's label set, or was set aside; then list what was published.

    Raises Conflict if the teacher is no longer the champion and shards are left that nobody will label.
    """
    teacher, catalog = plan.teacher, work.place.catalog
    if teacher is None:
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
    """Choose the pseudo-labels; their rows go to ``selection.parquet``."""
    work.progress.show("select", 0, len(sets.label_sets))
    catalog = work.place.catalog
    assert plan.teacher is not None, "there is nothing to select from without a teacher"
    with tempfile.TemporaryDirectory(dir=_made(work.place.spool)) as folder:
        rows = Path(folder) / "selection.parquet"
        summary = selection.select(
            work.place.store,
            sets,
            classes=versions.get(catalog, plan.teacher).card.classes,
            labeled_counts=plan.labeled_counts,
            human_labeled=shards.human_labeled(catalog),
            recipe=plan.recipe,
            rows=rows,
            spool=work.place.spool,
        )
        work.claim.check()
        work.place.store.put(generation_key(work.number, f"selection-{summary.rows_sha256[:12]}.parquet"), rows)
    work.progress.show("select", len(sets.label_sets), len(sets.label_sets))
    return summary


def _made(folder: Path | None) -> Path | None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


# -- 4. train -----------------------------------------------------------------------------------------


def train_student(work: _Work, plan: Plan, selected: Selection | None) -> Training:
    """Train, or go on training from the newest checkpoint; the averaged weights go to ``weights.safetensors``."""
    recipe, store = plan.recipe, work.place.store
    labeled = data.labeled_rows(store, plan.labeled, plan.classes, recipe)
    pseudo = None
    if selected is not None:
        key = generation_key(work.number, f"selection-{selected.rows_sha256[:12]}.parquet")
        pseudo = data.pseudo_rows(store, key, selected, plan.classes, recipe)
        for sentence in data.lone_classes(labeled, pseudo, plan.classes):
            log.warning("generation %d: %s", work.number, sentence)
    device = model.device(work.place.device)
    num_steps = recipe.teacher_steps if pseudo is None else recipe.student_steps
    batches = data.batches(store, labeled, pseudo, recipe, plan.seed, num_steps, work.place.data_workers)
    work.keep("augmented.jpg", partial(pictures.of_student, batches, plan.classes))
    run = train.Run(
        batches=batches,
        checkpoints=Checkpoints(store, work.number),
        recipe=recipe,
        num_steps=num_steps,
        seed=plan.seed,
        device=device,
        show=work.shows("train"),
        is_stopping=lambda: work.progress.is_stopping,
    )
    student, state = run.train(_beginning(store, plan))
    weights = work.keep("weights.safetensors", partial(export.weights_to_safetensors, student))
    return Training(
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        num_steps=run.num_steps,
        num_labeled=len(labeled),
        num_pseudo=0 if pseudo is None else len(pseudo),
        seconds=state.seconds,
        device=str(device),
        learning_rate_factor=state.learning_rate_factor,
        history=state.history,
    )


def _beginning(store: Store, plan: Plan) -> nn.Module:
    """The student before its first step: the same for the same plan."""
    with train.seeded(plan.seed):
        student = fresh_student(plan.student, len(plan.classes), plan.recipe)
    if plan.weights is not None:
        fresh = model.start_from(student, store.get(weights_key(plan.weights)))
        log.info("generation %d starts from weights %s; left fresh: %s", plan.generation, plan.weights, fresh)
    return student


# -- 5. export ----------------------------------------------------------------------------------------


def export_student(work: _Work, plan: Plan) -> Export:
    """Make the artifact and see that the engine answers as torch does; it goes to ``model.onnx``."""
    Checkpoints(work.place.store, work.number).clear()
    work.progress.show("export", 0, 1)
    preprocessing = plan.recipe.preprocessing
    student = fresh_student(plan.student, len(plan.classes), plan.recipe)
    export.load_weights(student, work.get("weights.safetensors"))
    served = export.served(student, preprocessing, export.TEMPERATURE)
    artifact = work.keep("model.onnx", partial(export.to_onnx, served, preprocessing.size))
    made = Export(
        version=registry.version_id(plan.generation, artifact),
        artifact_sha256=hashlib.sha256(artifact).hexdigest(),
        artifact_bytes=len(artifact),
        probe=export.probe(served, preprocessing.size),
        worst_difference=0.0,
    )
    loaded = engine.load(artifact, draft_card(plan, made), provider="cpu")
    worst = export.check_parity(served, loaded, _labeled_pixels(work.place.store, plan))
    work.progress.show("export", 1, 1)
    return made.model_copy(update={"worst_difference": worst})


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


# -- 6. evaluate, judge, publish, conclude ------------------------------------------------------------


def conclude(
    work: _Work,
    plan: Plan,
    sets: LabelSets,
    selected: Selection | None,
    training: Training,
    exported: Export,
    made: MadeVariants,
) -> GateReport:
    """Judge the challenger against whoever is the champion, and end the generation with the verdict.

    Raises Conflict if the champion keeps changing.
    """
    for _ in range(MAX_COMPARISONS):
        newest = versions.champion(work.place.catalog)
        champion = newest.version if newest is not None else None
        holdout = plan.holdout
        challenger = _measured(work, exported.version, holdout, partial(_challenger, work, plan, exported))
        opponent = None
        if champion is not None:
            opponent = _measured(work, champion, holdout, partial(_champion, work, champion))
        name = f"gate-{champion or 'nobody'}-{_digest(holdout)}.json"
        report = work.step(name, GateReport, partial(_judged, work, challenger, opponent))
        judged = _judged_variants(work, plan, exported, made, challenger)
        card = finished_card(plan, sets, selected, training, exported, challenger.evaluation, judged.variants)
        publish(work, card)
        try:
            generations.conclude(work.place.catalog, work.claim, work.number, card.version, report)
        except Conflict as conflict:
            log.info("generation %d: %s", work.number, conflict)
            continue
        log.info("generation %d: %s: %s", work.number, report.verdict, "; ".join(report.reasons))
        return report
    raise Conflict(
        f"the champion changed {MAX_COMPARISONS} times while {exported.version} was judged; open another one"
    )


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


def _challenger(work: _Work, plan: Plan, exported: Export) -> Engine:
    return engine.load(work.get("model.onnx"), draft_card(plan, exported), provider=work.place.provider)


def _champion(work: _Work, version: str) -> Engine:
    return registry.load(work.place.store, work.place.catalog, version, provider=work.place.provider)


def _judged(work: _Work, challenger: Measured, champion: Measured | None) -> GateReport:
    work.progress.show("gate", 0, 1)
    report = gate.decide(work.number, challenger, champion)
    work.progress.show("gate", 1, 1)
    return report


def publish(work: _Work, card: ModelCard) -> None:
    """Register the challenger with its files. Twice is once."""
    work.claim.check()
    others: dict[str, bytes] = {
        variant.name: work.get(f"model.{variant.name}.onnx") for variant in card.variants if variant.is_eligible
    }
    registry.publish(
        work.place.store, work.place.catalog, card, work.get("model.onnx"), work.get("weights.safetensors"), others
    )


# -- 7. the next round --------------------------------------------------------------------------------


def ask_for_labels(place: Workplace) -> None:
    """Want the new champion's label sets and ring for them. What is not heard, the reconciler repeats."""
    for task in shards.want_labels(place.catalog):
        if not place.ring(task):
            return
