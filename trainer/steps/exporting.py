"""Calibrate and export the student, and make its variants."""

import hashlib
import itertools
import logging
from functools import partial

import numpy as np

from trainer import calibration, data, evaluate, export, model, variants
from trainer.calibration import Calibration
from trainer.card import Export, draft_card
from trainer.checkpoints import Checkpoints
from trainer.plan import Plan, fresh_student
from trainer.variants import MadeVariant, MadeVariants
from trainer.work import Work
from understudy import engine, images, registry, thresholds
from understudy.errors import ArtifactRefused
from understudy.images import Pixels
from understudy.store import Store

log = logging.getLogger(__name__)

#: Labeled images on which torch and the engine must agree before an artifact counts.
NUM_PARITY_IMAGES = 32


def calibrate_student(work: Work, plan: Plan) -> Calibration:
    """Fit the temperature of the averaged student, un-noised; its answers go to ``answers.json``."""
    preprocessing, device = plan.recipe.preprocessing, model.device(work.place.device)
    judged = _served(work, plan, 1.0).to(device)
    index = {name: i for i, name in enumerate(plan.classes)}
    truth: list[int] = []
    said = [np.zeros((0, len(plan.classes)), dtype=np.float32)]
    show = work.shows_and_checks("calibrate")
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


def export_student(work: Work, plan: Plan, fitted: Calibration, prefix: str = "") -> Export:
    """Make the artifact and see that the engine answers as torch does; it goes to ``model.onnx``."""
    Checkpoints(work.place.store, work.number, folder=f"{prefix}checkpoints").clear()
    work.progress.show("export", 0, 1)
    served, size = _served(work, plan, fitted.temperature, prefix), plan.recipe.size
    artifact = work.keep(f"{prefix}model.onnx", partial(export.to_onnx, served, size))
    made = Export(
        version=registry.version_id(plan.generation, artifact),
        artifact_sha256=hashlib.sha256(artifact).hexdigest(),
        artifact_bytes=len(artifact),
        probe=export.probe(served, size),
        worst_difference=0.0,
        calibration=fitted,
    )
    loaded = engine.load(artifact, draft_card(plan, made), provider="cpu")
    worst = export.check_parity(served, loaded, _labeled_pixels(work.place.store, plan))
    work.progress.show("export", 1, 1)
    return made.model_copy(update={"worst_difference": worst})


def _served(work: Work, plan: Plan, temperature: float, prefix: str = "") -> export.Served:
    """The trained student as it is served at a temperature."""
    student = fresh_student(plan.student, len(plan.classes), plan.recipe)
    export.load_weights(student, work.get(f"{prefix}weights.safetensors"))
    return export.served(student, plan.recipe.preprocessing, temperature)


def make_variants(work: Work, plan: Plan, exported: Export) -> MadeVariants:
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


def _made_variant(work: Work, plan: Plan, exported: Export, name: variants.Name) -> MadeVariant:
    calibration = partial(_labeled_pixels, work.place.store, plan, variants.NUM_CALIBRATION_IMAGES)
    convert = partial(variants.convert, name, work.get("model.onnx"), calibration)
    return variants.verified(name, work.keep(f"model.{name}.onnx", convert), draft_card(plan, exported))


def _labeled_pixels(store: Store, plan: Plan, num_images: int = NUM_PARITY_IMAGES) -> Pixels:
    """Some labeled images, from all over the set, as a model's input: (N, size, size, 3) uint8."""
    every = data.labeled_rows(store, plan.labeled, plan.classes, plan.recipe).places
    places = every[:: max(1, len(every) // num_images)][:num_images]
    encoded = (store.get_range(place.shard, place.offset, place.num_bytes) for place in places)
    return np.stack([images.load(image, plan.recipe.preprocessing) for image in encoded])
