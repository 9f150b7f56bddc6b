"""The card of a challenger: put together from what the steps of its generation wrote."""

from typing import Any

from trainer import export
from trainer.calibration import Calibration
from trainer.plan import Plan
from trainer.selection import LabelSets
from understudy.label_records import Selection
from understudy.records import (
    Evaluation,
    GateReport,
    Interval,
    Metrics,
    ModelCard,
    Probe,
    Record,
    Robustness,
    Sha256,
    Validation,
    Variant,
)
from understudy.store import generation_key, model_key


class Training(Record):
    """What a training run was: written when its weights are in the store."""

    weights_sha256: Sha256
    num_steps: int
    num_labeled: int  #: images
    num_pseudo: int  #: rows, copies included
    seconds: float
    device: str
    learning_rate_factor: float
    history: tuple[Metrics, ...]
    validations: tuple[Validation, ...] = ()


class Export(Record):
    """What an export was: written when the artifact is in the store and the engine has agreed with torch."""

    version: str
    artifact_sha256: Sha256
    artifact_bytes: int
    probe: Probe
    worst_difference: float  #: of a probability, between torch and the engine, on labeled images
    calibration: Calibration = Calibration()  #: what its temperature is, and what that does


def draft_card(plan: Plan, exported: Export) -> ModelCard:
    """The card of an artifact that nobody has evaluated yet: enough to load it."""
    version = exported.version
    return ModelCard(
        version=version,
        generation=plan.generation,
        student=plan.student,
        num_parameters=plan.num_parameters,
        classes=plan.classes,
        preprocessing=plan.recipe.preprocessing,
        temperature=exported.calibration.temperature,
        artifact_key=model_key(version, "model.onnx"),
        artifact_sha256=exported.artifact_sha256,
        artifact_bytes=exported.artifact_bytes,
        weights_key=model_key(version, "weights.safetensors"),
        probe=exported.probe,
        recipe=plan.recipe.model_dump(mode="json"),
        teacher=plan.teacher,
        data={},
        training={},
        evaluation=_unmeasured(version),
        software=export.software(),
    )


def _unmeasured(version: str) -> Evaluation:
    return Evaluation(
        version=version,
        num_images=0,
        num_correct=0,
        accuracy=0.0,
        interval=Interval(low=0.0, high=1.0),
        per_class={},
        calibration_error=0.0,
        negative_log_likelihood=0.0,
        images_per_second=0.0,
    )


def finished_card(
    plan: Plan,
    sets: LabelSets,
    selected: Selection | None,
    training: Training,
    exported: Export,
    report: GateReport,
    variants: tuple[Variant, ...],
    robustness: Robustness | None,
) -> ModelCard:
    """The card that is published: with lineage, training and evaluation."""
    lineage: dict[str, Any] = {
        "labeled": list(plan.labeled),
        "num_labeled": training.num_labeled,
        "num_reviewed": plan.reviewed.num_images,
        "num_label_sets": len(sets.label_sets),
        "label_sets": generation_key(plan.generation, "labels.json"),
        "num_pseudo": training.num_pseudo,
        "selection": None,
        "pseudo_labels": plan.recipe.pseudo_labels if sets.teacher else "none",
        "start": plan.recipe.start,
        "weights": plan.weights,
        "seed": plan.seed,
    }
    if selected is not None:
        lineage |= {
            "selection": generation_key(plan.generation, "selection.json"),
            "num_kept": selected.num_kept,
            "relabeled": selected.relabeled,
            "starved": list(selected.starved),
            "empty": list(selected.empty),
        }
    return draft_card(plan, exported).model_copy(
        update={
            "data": lineage,
            "training": training.model_dump(mode="json", exclude={"history"})
            | {
                "loss": training.history[-1].loss if training.history else None,
                "calibration": exported.calibration.model_dump(mode="json"),
            },
            "evaluation": report.challenger,
            "control": report.control,
            "control_gain": report.control_gain,
            "variants": variants,
            "robustness": robustness.summary if robustness is not None else None,
        }
    )
