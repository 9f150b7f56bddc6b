"""Evaluate, judge, publish and conclude: the only step that changes what serves."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from trainer import evaluate, gate, looks, plots, variants
from trainer.card import Export, Training, draft_card, finished_card
from trainer.evaluate import Measured
from trainer.plan import Plan
from trainer.robustness import measures
from trainer.robustness.sample import sample
from trainer.selection import LabelSets
from trainer.steps.controlling import CONTROL, Control
from trainer.variants import JudgedVariants, MadeVariant, MadeVariants
from trainer.work import Work
from understudy import engine, registry
from understudy.catalog import generations, shards, versions
from understudy.engine import Engine
from understudy.errors import Conflict
from understudy.label_records import Selection
from understudy.records import GateReport, Generation, Look, ModelCard, Robustness, Variant
from understudy.store import Store, generation_key

log = logging.getLogger(__name__)

#: A champion that changes this often while one challenger is judged is moved by something else than us.
MAX_COMPARISONS = 5


def conclude(
    work: Work,
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


def _judgeable(work: Work, plan: Plan, version: str, load: Callable[[], Engine]) -> _Judgeable:
    return _Judgeable(_measured(work, version, plan.holdout, load), _robustness(work, plan, version, load))


def _measured(work: Work, version: str, holdout: tuple[str, ...], load: Callable[[], Engine]) -> Measured:
    """A version's measurement on this holdout: from its file, or made."""
    show = work.shows_and_checks("evaluate")
    return work.step(
        f"evaluation-{version}-{_digest(holdout)}.json",
        Measured,
        lambda: evaluate.measure(work.place.store, load(), holdout, show),
    )


def _robustness(work: Work, plan: Plan, version: str, load: Callable[[], Engine]) -> Robustness | None:
    """A version's error under corruption, on the same sample for all: from its file, or measured. None: not asked for."""
    if not plan.recipe.robustness_images:
        return None

    def make() -> Robustness:
        photos = sample(work.place.store, plan.holdout, plan.recipe.robustness_images)
        return measures.measure(load(), photos, work.shows_and_checks("evaluate under corruption"))

    return work.step(f"robustness-{version}-{_digest(plan.holdout)}.json", Robustness, make)


def draw(work: Work, challenger: _Judgeable) -> None:
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
        work.draw(name, make)


def _judged_variants(
    work: Work, plan: Plan, exported: Export, made: MadeVariants, challenger: Measured
) -> JudgedVariants:
    """The variants with what each loses on the holdout: from the file, or measured."""

    def measure(loaded: Engine) -> Measured:
        show = work.shows_and_checks(f"evaluate {loaded.variant}")
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


def _variant(work: Work, plan: Plan, exported: Export, made: MadeVariant, provider: str) -> Engine:
    artifact = work.get(f"model.{made.name}.onnx")
    return variants.load(artifact, draft_card(plan, exported), made, provider=provider)


def _digest(holdout: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join(holdout).encode()).hexdigest()[:8]


def _challenger(work: Work, plan: Plan, exported: Export, prefix: str = "") -> Engine:
    return engine.load(work.get(f"{prefix}model.onnx"), draft_card(plan, exported), provider=work.place.provider)


def _champion(work: Work, version: str) -> Engine:
    return registry.load(work.place.store, work.place.catalog, version, provider=work.place.provider)


def _measured_control(work: Work, plan: Plan, control: Control | None) -> Measured | None:
    if control is None or control.exported is None:
        return None
    # Its artifact has a version only here: no catalog knows it, and nothing can serve it.
    exported = control.exported.model_copy(update={"version": f"{control.exported.version}-control"})
    return _measured(work, exported.version, plan.holdout, partial(_challenger, work, plan, exported, CONTROL))


def _judged(
    work: Work, plan: Plan, challenger: _Judgeable, champion: _Judgeable | None, control: Measured | None
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


def _look(work: Work, holdout: tuple[str, ...]) -> Look:
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


def publish(work: Work, card: ModelCard) -> None:
    """Register the challenger with its files. Twice is once."""
    work.claim.check()
    others: dict[str, bytes] = {
        variant.name: work.get(f"model.{variant.name}.onnx") for variant in card.variants if variant.is_eligible
    }
    registry.publish(
        work.place.store, work.place.catalog, card, work.get("model.onnx"), work.get("weights.safetensors"), others
    )
