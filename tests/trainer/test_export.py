import hashlib

import numpy as np
import onnx
import pytest
import torch

from trainer import export, model
from understudy import engine, recipes
from understudy.engine import probe_pixels
from understudy.errors import ArtifactRefused
from understudy.testing import tiny_artifact

SIZE = 16
CLASSES = tuple("abc")


@pytest.fixture(scope="module")
def served():
    torch.manual_seed(0)
    student = model.build("efficientnet", len(CLASSES), dropout=0.5, drop_path_rate=0.5)
    return export.served(student, recipes.recipe("tiny", {}).preprocessing, 1.0)


@pytest.fixture(scope="module")
def artifact(served):
    return export.to_onnx(served, SIZE)


def load(artifact, probe):
    _, card = tiny_artifact(CLASSES, SIZE)
    return engine.load(
        artifact,
        card.model_copy(
            update={
                "artifact_sha256": hashlib.sha256(artifact).hexdigest(),
                "preprocessing": recipes.recipe("tiny", {}).preprocessing,
                "probe": probe,
            }
        ),
        provider="cpu",
    )


def test_the_graph_is_one_file_with_a_free_batch_axis(artifact):
    """Serving takes one image as well as sixteen."""
    graph = onnx.load_from_string(artifact).graph

    assert [(i.name, i.type.tensor_type.elem_type) for i in graph.input] == [(engine.INPUT, onnx.TensorProto.UINT8)]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in graph.initializer)


@pytest.mark.parametrize("num_images", [1, 2, 7])
def test_the_engine_answers_as_torch_does(served, artifact, num_images):
    """On images of every kind, un-noised although the student was built with noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (num_images, SIZE, SIZE, 3), dtype=np.uint8)
    loaded = load(artifact, export.probe(served, SIZE))

    probabilities = loaded.predict(pixels)

    assert export.check_parity(served, loaded, pixels) <= export.TOLERANCE
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(num_images), abs=1e-5)


def test_an_artifact_that_is_another_model_is_refused(served, artifact):
    """Both the probe and real images tell."""
    torch.manual_seed(1)
    student = model.build("efficientnet", len(CLASSES), dropout=0.0, drop_path_rate=0.0)
    with torch.no_grad():
        student.get_classifier().bias += torch.tensor([3.0, 0.0, 0.0])
    other = export.served(student, recipes.recipe("tiny", {}).preprocessing, 1.0)

    with pytest.raises(ArtifactRefused, match="off its probe"):
        load(artifact, export.probe(other, SIZE))
    with pytest.raises(ArtifactRefused, match="labeled images"):
        export.check_parity(other, load(artifact, export.probe(served, SIZE)), probe_pixels(SIZE, 4))


def test_the_temperature_is_inside(served):
    """A higher one makes the same model less sure."""
    softer = export.Served(served.student, recipes.recipe("tiny", {}).preprocessing, 3.0)
    pixels = probe_pixels(SIZE, 4)

    sharp, soft = export.predict(served, pixels), export.predict(softer, pixels)

    assert (sharp.argmax(axis=1) == soft.argmax(axis=1)).all()
    assert (soft.max(axis=1) < sharp.max(axis=1)).all()


def test_weights_come_back_as_they_were(served):
    """The safetensors file is the student."""
    torch.manual_seed(2)
    again = model.build("efficientnet", len(CLASSES), dropout=0.0, drop_path_rate=0.0)

    export.load_weights(again, export.weights_to_safetensors(served.student))

    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), served.student.state_dict().values(), strict=True)
    )


def test_the_software_is_named():
    """A card says what made its model."""
    assert {"torch", "timm", "onnx"} <= set(export.software())
