import copy
import hashlib

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_sample_images

from trainer import export, model
from understudy import engine, images, recipes
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


@pytest.fixture(scope="module", params=["ours", "quick"])
def artifact(request, served, quick_to_onnx):
    return (export.to_onnx if request.param == "ours" else quick_to_onnx)(served, SIZE)


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


def test_the_same_answer_to_every_image_is_asked_for(served):
    """Two classes that are nearly a draw: within the tolerance, and yet another answer."""
    flat = copy.deepcopy(served)
    with torch.no_grad():
        flat.student.get_classifier().weight.zero_()
        flat.student.get_classifier().bias.copy_(torch.tensor([2e-5, 0.0, -1.0]))

    class Swapped:
        def predict(self, pixels):
            return export.predict(flat, pixels)[:, [1, 0, 2]]

    with pytest.raises(ArtifactRefused, match="calls 4 of 4 labeled images otherwise"):
        export.check_parity(flat, Swapped(), probe_pixels(SIZE, 4))


def test_a_draw_is_no_other_answer():
    """Where two classes are as near as rounding, the last bit decides; anything beyond that is another answer."""
    torchs = np.array([[0.5, 0.5, 0.0], [0.6, 0.4, 0.0]], dtype=np.float32)

    assert export.num_other_answers(torchs, torchs[:, [1, 0, 2]] + np.float32([0, 1e-7, 0])) == 1
    assert export.num_other_answers(torchs, torchs) == 0


def test_parity_on_real_photos(served, artifact):
    """At most 1e-4 on any probability, and the same class, on pieces of scikit-learn's photos."""
    pieces = [
        images.prepare(np.ascontiguousarray(photo[y : y + 100, x : x + 100]), recipes.recipe("tiny", {}).preprocessing)
        for photo in load_sample_images().images
        for y in range(0, 400, 100)
        for x in range(0, 600, 100)
    ]

    assert export.check_parity(served, load(artifact, export.probe(served, SIZE)), np.stack(pieces)) <= 1e-4


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
