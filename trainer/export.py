"""From a trained student to the artifact: one ONNX file that takes pixels and gives probabilities.

Normalisation, temperature and softmax are inside the graph, so nothing is left to do differently when
serving. The artifact counts as made when the engine has answered as torch did, on images too.
"""

import importlib.metadata
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import onnx
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from trainer.calibration import Logits
from trainer.learner import Normalise
from understudy.engine import INPUT, OUTPUT, Engine, Probabilities, probe_pixels
from understudy.errors import ArtifactRefused
from understudy.images import Pixels
from understudy.records import Preprocessing, Probe

#: Images of the probe: grey, and waves of three frequencies.
NUM_PROBES = 4
#: Largest difference of a probability between torch and ONNX Runtime on a CPU. They add in another
#: order: 1e-8 to 1e-5 was seen; a wrong graph is off by 1e-2 and more.
TOLERANCE = 1e-4
#: Two probabilities nearer than this are a draw: ten times the rounding of one of about 1 in float32.
DRAW = 1e-6
#: What the card says of the software that made a model.
PACKAGES = ("understudy", "torch", "timm", "onnx", "onnxruntime", "onnxruntime-gpu", "pillow", "numpy")


class Served(nn.Module):
    """A student as it is served: (N, size, size, 3) uint8 → (N, C) float32 probabilities."""

    def __init__(self, student: nn.Module, preprocessing: Preprocessing, temperature: float) -> None:
        super().__init__()
        self.student, self.temperature = student, temperature
        self.normalise = Normalise(preprocessing)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.softmax(self.logits(pixels) / self.temperature, dim=1)

    def logits(self, pixels: Tensor) -> Tensor:
        """What the student says before a temperature: (N, C) float32."""
        said: Tensor = self.student(self.normalise(pixels))
        return said.float()


def served(student: nn.Module, preprocessing: Preprocessing, temperature: float) -> Served:
    """A student on the CPU, un-noised, as its graph will be."""
    return Served(student.cpu().to(memory_format=torch.contiguous_format), preprocessing, temperature)


def to_onnx(model: Served, size: int) -> bytes:
    """The graph as one self-contained ONNX file with a free batch axis."""
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # two: one would be taken for a constant
    with _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    graph = program.model_proto
    onnx.checker.check_model(graph, full_check=True)
    artifact: bytes = graph.SerializeToString()
    return artifact


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own deprecated calls and logs every pass; neither is for our users."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


@torch.inference_mode()
def predict(model: Served, pixels: Pixels) -> Probabilities:
    """What torch says of a batch: (N, size, size, 3) uint8 → (N, C) float32."""
    probabilities: Probabilities = model(torch.from_numpy(np.ascontiguousarray(pixels))).numpy()
    return probabilities


@torch.inference_mode()
def logits(model: Served, pixels: Pixels, device: torch.device) -> Logits:
    """What a student that is on ``device`` says before a temperature: (N, size, size, 3) uint8 → (N, C) float32."""
    said: Logits = model.logits(torch.from_numpy(np.ascontiguousarray(pixels)).to(device)).cpu().numpy()
    return said


def probe(model: Served, size: int) -> Probe:
    """What torch says of the probe's input, for every later load to be compared with."""
    probabilities = predict(model, probe_pixels(size, NUM_PROBES))
    rows = tuple(tuple(float(p) for p in row) for row in probabilities)
    return Probe(num_images=NUM_PROBES, probabilities=rows, tolerance=TOLERANCE)


def check_parity(model: Served, engine: Engine, pixels: Pixels) -> float:
    """The largest difference between torch and the engine on real images, which both must call the same.

    Raises ArtifactRefused with the code parity if a probability differs by more than ``TOLERANCE``, or an answer.
    """
    expected, got = predict(model, pixels), engine.predict(pixels)
    worst = float(np.abs(expected - got).max())
    if worst > TOLERANCE:
        raise ArtifactRefused(
            f"the exported graph is off the model by {worst:.2g} on {len(pixels)} labeled images; at most "
            f"{TOLERANCE:.0e} is allowed",
            code="parity",
        )
    num_others = num_other_answers(expected, got)
    if num_others:
        raise ArtifactRefused(
            f"the exported graph calls {num_others} of {len(pixels)} labeled images otherwise than the model; none "
            f"is allowed",
            code="parity",
        )
    return worst


def num_other_answers(expected: Probabilities, got: Probabilities) -> int:
    """Images whose most probable class differs: (N, C) each.

    A draw may be decided by the last bit: where two classes are as near as rounding, either is the answer.
    """
    answers = got.argmax(axis=1)
    given = expected[np.arange(len(expected)), answers]
    return int((expected.max(axis=1) - given > DRAW).sum())


def weights_to_safetensors(student: nn.Module) -> bytes:
    """A student's weights as a safetensors file."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()})


def load_weights(student: nn.Module, weights: bytes) -> None:
    """Load what ``weights_to_safetensors`` wrote, in place."""
    student.load_state_dict(load(weights))


def software() -> dict[str, str]:
    """The versions of what took part in making a model."""
    found = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
