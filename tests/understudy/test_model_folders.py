"""A model's folder: what timm loads from it says what the artifact says, and each program in it runs."""

import contextlib
import hashlib
import io
import json
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from trainer import export, model
from understudy import engine, images, model_folders
from understudy.errors import Refused
from understudy.images import Pixels
from understudy.model_folders import ModelFormat
from understudy.records import ModelCard, Preprocessing
from understudy.testing import tiny_artifact

#: Of a probability, between torch and ONNX Runtime.
TOLERANCE = 1e-4
CLASSES = ("red", "green", "blue")
PREPROCESSING = Preprocessing(size=32, crop_fraction=0.9, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def random_student(name: str) -> nn.Module:
    """A student that is not sure of one class for everything."""
    torch.manual_seed(3)
    student = model.build(name, len(CLASSES), dropout=0.3, drop_path_rate=0.0, batch_norm_momentum=0.5)
    nn.init.normal_(student.classifier.weight, std=0.3)
    with torch.no_grad():
        for _ in range(6):  # so that its BatchNorms know what they see
            student.train()(torch.randn(16, 3, 32, 32) + torch.randn(16, 3, 1, 1))
    return student.eval()


def card_of(student: str) -> ModelCard:
    """The card of a model of that architecture."""
    _, card = tiny_artifact(CLASSES)
    return card.model_copy(update={"student": student, "preprocessing": PREPROCESSING, "temperature": 1.7})


def write(folder: Path, card: ModelCard, format: ModelFormat, content: bytes) -> Path:
    """The folder as the command writes it."""
    for name in model_folders.files(format).values():
        (folder / name).write_bytes(card.to_json() if name == "card.json" else content)
    for name, text in model_folders.documents(card, format).items():
        (folder / name).write_text(text, "utf-8")
    return folder


@dataclass(frozen=True)
class Exported:
    """A student of timm, exported as the trainer does."""

    card: ModelCard
    artifact: bytes
    weights: bytes


@pytest.fixture(scope="module")
def exported() -> Exported:
    """One for all tests: to make the graph takes seconds."""
    card, student = card_of("test_efficientnet"), random_student("test_efficientnet")
    served = export.served(student, card.preprocessing, card.temperature)
    weights = export.weights_to_safetensors(student)
    artifact = export.to_onnx(served, 32)
    card = card.model_copy(update={"probe": export.probe(served, 32)})
    return Exported(card, artifact, weights)


@pytest.fixture
def pixels() -> Pixels:
    """(8, 32, 32, 3) of noise."""
    return np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


def normalised(pixels: Pixels) -> torch.Tensor:
    """As any user of timm would."""
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (PREPROCESSING.mean, PREPROCESSING.std))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std


@pytest.mark.parametrize("way", ["local-dir", "checkpoint_path"])
@torch.inference_mode()
def test_what_timm_loads_gives_the_artifacts_probabilities(
    exported: Exported, pixels: Pixels, tmp_path: Path, way: str
):
    """Once its logits are divided by the card's temperature; both ways to load it."""
    folder = write(tmp_path, exported.card, ModelFormat.TIMM, exported.weights)
    loaded = (
        timm.create_model(f"local-dir:{folder}", pretrained=True)
        if way == "local-dir"
        else timm.create_model("test_efficientnet", num_classes=3, checkpoint_path=folder / "model.safetensors")
    ).eval()
    given = torch.softmax(loaded(normalised(pixels)) / exported.card.temperature, dim=1).numpy()
    served = _loaded(exported).predict(pixels)
    assert np.ptp(served, axis=0).max() > 0.05, "the model says one thing of everything: nothing is compared"
    assert np.abs(given - served).max() < TOLERANCE
    if way == "local-dir":
        data = timm.data.resolve_data_config({}, model=loaded)
        assert (tuple(data["input_size"]), data["crop_pct"]) == ((3, 32, 32), 0.9)
        assert (tuple(data["mean"]), data["interpolation"]) == (PREPROCESSING.mean, "bicubic")
        assert tuple(loaded.pretrained_cfg["label_names"]) == CLASSES


def _loaded(exported: Exported) -> engine.Engine:
    sizes = {"artifact_sha256": hashlib.sha256(exported.artifact).hexdigest(), "artifact_bytes": len(exported.artifact)}
    return engine.load(exported.artifact, exported.card.model_copy(update=sizes), provider="cpu")


@torch.inference_mode()
def test_the_papers_efficientnets_are_timms_with_another_epsilon(pixels: Pixels, tmp_path: Path):
    """The arguments in config.json make the difference: without them the logits are others."""
    student, card = random_student("efficientnet@b0"), card_of("efficientnet@b0")
    folder = write(tmp_path, card, ModelFormat.TIMM, export.weights_to_safetensors(student))
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    plain = timm.create_model("efficientnet_b0", num_classes=3, checkpoint_path=folder / "model.safetensors").eval()
    given, expected, other = (net(normalised(pixels[:2])) for net in (loaded, student, plain))
    assert torch.equal(given, expected)
    assert not torch.allclose(other, expected, rtol=1e-2)


def test_the_largest_size_that_timm_is_said_to_have_has_the_same_tensors():
    """Built without memory; names and shapes are equal. The others stand in the same tables, here and there."""
    with torch.device("meta"):
        ours = model.build("efficientnet@l2", 3, dropout=0, drop_path_rate=0).state_dict()
        architecture, arguments = model_folders.timm_model("efficientnet@l2")
        theirs = timm.create_model(architecture, num_classes=3, **arguments).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in theirs.items()}


@pytest.mark.parametrize(
    ("student", "known"),
    [
        ("resnet18", "resnet18"),
        ("efficientnet_b0.ra_in1k", "efficientnet_b0"),
        ("efficientnet@l2", "efficientnet_l2"),
        ("efficientnet@l0", None),
        ("efficientnet@b0,small", None),
        ("efficientnet@phi=1", None),
        ("efficientnet", None),
        ("efficientnet@width=2,depth=1", None),
    ],
)
def test_what_timm_has_no_name_for_is_refused_with_what_to_do(student: str, known: str | None):
    """Only what is equal to timm's is called so; the rest goes as ONNX, or as weights."""
    if known is not None:
        assert model_folders.timm_model(student)[0] == known
        return
    with pytest.raises(Refused, match=r"safetensors, which trainer\.model\.build"):
        model_folders.documents(card_of(student), ModelFormat.TIMM)


@pytest.mark.parametrize("format", list(ModelFormat))
def test_the_program_beside_it_says_what_the_service_would(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: ModelFormat
):
    """Of an image file that is partly transparent, resized and cut as the card says."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (75, 61, 4), dtype=np.uint8)).save(file, "PNG")
    see_through = file.getvalue()
    content = exported.artifact if format == ModelFormat.ONNX else exported.weights
    write(tmp_path, exported.card, format, content)
    (tmp_path / "image.png").write_bytes(see_through)
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path / "image.png")])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(str(tmp_path / "run.py"))
    told = {name: float(number) for number, name in (line.split(" ", 1) for line in printed.getvalue().splitlines())}
    (expected,) = _loaded(exported).predict(images.load(see_through, PREPROCESSING)[None])
    assert list(told) == [CLASSES[i] for i in expected.argsort()[::-1]]
    assert list(told.values()) == pytest.approx(sorted(expected, reverse=True), abs=2e-3)  # a level of rounding
    assert (model_folders.INPUT, model_folders.OUTPUT) == (engine.INPUT, engine.OUTPUT)
    readme = (tmp_path / "README.md").read_text("utf-8")
    assert (tmp_path / "run.py").read_text("utf-8") in readme
    assert ("1.7" in readme) == (format != ModelFormat.ONNX)


def test_the_configuration_is_json_that_says_all(exported: Exported):
    """Classes in the order of the outputs, what to normalise by, and the temperature that is not in the weights."""
    config = json.loads(model_folders.documents(exported.card, ModelFormat.TIMM)["config.json"])
    assert (config["architecture"], config["label_names"]) == ("test_efficientnet", list(CLASSES))
    assert config["understudy"] == {"version": exported.card.version, "temperature": 1.7}
    assert "model_args" not in config
