"""Variants: real conversions of a real student, loaded by the real engine; speeds and accuracies are given."""

import hashlib
import logging

import numpy as np
import onnx
import pytest
import torch

from trainer import export, model, variants
from trainer.evaluate import Measured
from trainer.variants import MadeVariant
from understudy import engine, recipes
from understudy.errors import ArtifactRefused, LeaseLost
from understudy.testing import tiny_artifact, tiny_evaluation

SIZE = 16
CLASSES = tuple("abc")
PIXELS = np.random.default_rng(0).integers(0, 256, (24, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported():
    """A student's artifact and the draft of its card."""
    torch.manual_seed(0)
    student = model.build("efficientnet", len(CLASSES), dropout=0.0, drop_path_rate=0.0)
    served = export.served(student, recipes.recipe("tiny", {}).preprocessing, 1.0)
    artifact = export.to_onnx(served, SIZE)
    card = tiny_artifact(CLASSES, SIZE)[1].model_copy(
        update={
            "artifact_sha256": hashlib.sha256(artifact).hexdigest(),
            "preprocessing": recipes.recipe("tiny", {}).preprocessing,
            "probe": export.probe(served, SIZE),
        }
    )
    return artifact, card


@pytest.fixture(scope="module", params=["fp16", "int8"])
def converted(request, exported):
    """Each variant: its name, its file, and what the export notes of it."""
    artifact, card = exported
    data = variants.convert(request.param, artifact, lambda: PIXELS)
    return request.param, data, variants.verified(request.param, data, card)


def measured(num_right: int, num_images: int = 200) -> Measured:
    """A measurement of a model that is right about the first so many images of class a and calls the rest b."""
    right = tuple(index < num_right for index in range(num_images))
    return Measured(
        evaluation=tiny_evaluation("g0000-000000", CLASSES).model_copy(update={"accuracy": num_right / num_images}),
        holdout=("one",),
        classes=CLASSES,
        truth=(0,) * num_images,
        is_right=right,
        predicted=tuple(0 if is_right else 1 for is_right in right),
    )


def judge(exported, made: MadeVariant, num_right: int, *, base: int = 190, tolerance: float = 0.005):
    """A variant that has so many right where the version itself has ``base`` of 200."""
    artifact, card = exported
    loading = lambda: engine.load(artifact, card, provider="cpu", threads=1)  # noqa: E731
    return variants.judge(made, card, measured(base), tolerance, loading, lambda _: measured(num_right))


def test_a_variant_answers_nearly_as_the_artifact_does(exported, converted):
    """uint8 in and float32 out as before, probabilities that sum to one, and close to those of fp32."""
    artifact, card = exported
    name, data, made = converted

    loaded = variants.load(data, card, made, provider="cpu")
    got = loaded.predict(PIXELS)

    assert (loaded.variant, got.dtype) == (name, np.float32)
    assert got.sum(axis=1) == pytest.approx(np.ones(len(PIXELS)), abs=1e-3)
    expected = engine.load(artifact, card, provider="cpu").predict(PIXELS)
    assert np.abs(got - expected).max() < variants.TOLERANCE[name]
    assert made.artifact_bytes == len(data) < len(artifact)
    assert made.probe.tolerance == variants.TOLERANCE[name]


def test_the_formats_are_what_they_are_called(converted):
    """Half-precision weights in one; 8-bit weights with a scale for each channel in the other."""
    name, data, _ = converted
    graph = onnx.load_from_string(data).graph
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 4 and "weight" in tensor.name]
    types = {tensor.data_type for tensor in weights}

    assert types == {onnx.TensorProto.FLOAT16 if name == "fp16" else onnx.TensorProto.INT8}
    if name == "fp16":  # probabilities are not rounded to three digits on their way out
        assert [node.op_type for node in graph.node if node.output[0] == engine.OUTPUT] == ["Softmax"]
    else:
        scales = [t for t in graph.initializer if t.name.endswith("weight_scale") and t.dims]
        assert any(max(scale.dims) > 1 for scale in scales)


def test_calibration_is_made_for_int8_only(exported):
    """fp16 needs no images, so none are read."""

    def never():
        raise AssertionError("images were read")

    assert variants.convert("fp16", exported[0], never)


def test_what_cannot_be_converted_says_why(exported, caplog):
    """Whatever a converter stumbles over is one reason, and its advice is not in our log."""
    with pytest.raises(ArtifactRefused, match="cannot be made"):
        variants.convert("int8", b"not a graph", lambda: PIXELS)
    with caplog.at_level(logging.WARNING):
        variants.convert("int8", exported[0], lambda: PIXELS)

    assert caplog.text == ""


def test_a_lost_lease_is_no_reason_of_a_variant(exported):
    """What says that this process must stop is not taken for a fault of the converter."""

    def lost():
        raise LeaseLost("taken over")

    with pytest.raises(LeaseLost):
        variants.convert("int8", exported[0], lost)


def test_a_variant_within_the_tolerance_is_eligible(exported, converted):
    """What it loses, where it was measured and how often both agree are in its entry."""
    name, data, made = converted

    entry = judge(exported, made, 189)

    assert entry.is_eligible
    assert entry.accuracy_difference == pytest.approx(-0.005)
    assert entry.agreement == pytest.approx(199 / 200)
    assert (entry.name, entry.provider, entry.evaluated_on) == (name, variants.PROVIDER[name], "cpu")
    assert entry.artifact_key == f"models/{exported[1].version}/model.{name}.onnx"
    assert entry.artifact_sha256 == hashlib.sha256(data).hexdigest()


def test_a_variant_that_loses_more_is_recorded_and_has_nothing_to_serve(exported, converted):
    """With both numbers in the reason."""
    entry = judge(exported, converted[2], 188)

    assert not entry.is_eligible
    assert entry.artifact_key is None
    assert entry.reason == "it loses 1.00% of accuracy on the holdout; the recipe allows 0.50%"
    assert entry.accuracy_difference == pytest.approx(-0.01)
    assert judge(exported, converted[2], 188, tolerance=0.01).is_eligible
    assert judge(exported, converted[2], 195).is_eligible


def test_a_variant_that_was_not_made_is_not_judged(exported):
    """Its reason goes into the card as it is."""
    entry = judge(exported, MadeVariant(name="int8", reason="cannot be made: no"), 190)

    assert (entry.reason, entry.is_eligible, entry.evaluation) == ("cannot be made: no", False, None)


def test_an_evaluation_that_would_take_too_long_is_not_begun(exported):
    """A CPU runs fp16 by casting; a large holdout would hold the generation up for hours."""
    artifact, card = exported
    loaded = engine.load(artifact, card, provider="cpu", threads=1)

    variants.refuse_slow(loaded, 10)
    with pytest.raises(ArtifactRefused, match="not evaluated: 1000000000 images would take"):
        variants.refuse_slow(loaded, 10**9)


def test_agreement_needs_both_answers():
    """A measurement from before answers were kept has none."""
    one = measured(100)

    assert variants.agreement(one, one) == 1.0
    assert variants.agreement(one, one.model_copy(update={"predicted": ()})) is None
