"""From a trained student to the artifact: one ONNX file that takes pixels and gives probabilities.

Normalisation, temperature and softmax are inside the graph, so nothing is left to do differently when
serving. The artifact counts as made when the engine has answered as torch did, on images too.
"""

import importlib.metadata
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from trainer.learner import Normalise
from understudy.engine import INPUT, OUTPUT, Engine, Probabilities, probe_pixels
from understudy.errors import ArtifactRefused
from understudy.images import Pixels
from understudy.records import Preprocessing, Probe

#: Calibration is not fitted yet: probabilities are the model's own.
TEMPERATURE = 1.0
#: Images of the probe: grey, and waves of three frequencies.
NUM_PROBES = 4
#: Largest difference of a probability between torch and ONNX Runtime on a CPU. They add in another
#: order: 1e-8 to 1e-5 was seen; a wrong graph is off by 1e-2 and more.
TOLERANCE = 1e-4
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
        logits = self.student(self.normalise(pixels))
        return torch.softmax(logits.float() / self.temperature, dim=1)


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


def probe(model: Served, size: int) -> Probe:
    """What torch says of the probe's input, for every later load to be compared with."""
    probabilities = predict(model, probe_pixels(size, NUM_PROBES))
    rows = tuple(tuple(float(p) for p in row) for row in probabilities)
    return Probe(num_images=NUM_PROBES, probabilities=rows, tolerance=TOLERANCE)


def check_parity(model: Served, engine: Engine, pixels: Pixels) -> float:
    """The largest difference between torch and the engine on real images. Raises ArtifactRefused."""
    worst = float(np.abs(predict(model, pixels) - engine.predict(pixels)).max())
    if worst > TOLERANCE:
        raise ArtifactRefused(
            f"the exported graph is off the model by {worst:.2g} on {len(pixels)} labeled images; at most "
            f"{TOLERANCE:.0e} is allowed",
            code="parity",
        )
    return worst


def weights_to_safetensors(student: nn.Module) -> bytes:
    """A student's weights as a safetensors file."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()})


def load_weights(student: nn.Module, weights: bytes) -> None:
    """Load what ``weights_to_safetensors`` wrote, in place."""
    student.load_state_dict(load(weights))


def software() -> dict[str, str]:
    """The versions of what took part in making a model."""
    installed = {
        d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions() if d.metadata["Name"]
    }
    return {name: installed[name] for name in PACKAGES if name in installed}
