"""Small real things for tests and examples: a model of a few hundred bytes, and pictures it is right about.

The model calls an image by the nearest of its classes' colours, and obeys the same contract as a
trained one. It knows nothing of training, so it needs no torch.
"""

import colorsys
import hashlib
import io
import socket
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from understudy.engine import INPUT, OUTPUT, Probabilities, probe_pixels
from understudy.images import Pixels
from understudy.records import Evaluation, Interval, ModelCard, Preprocessing, Probe
from understudy.registry import version_id
from understudy.store import model_key

#: Images in the probe of a tiny model.
NUM_PROBES = 2
#: A fragile model breaks on pictures with less than this of a colour in the mean, 0..255; its probe has half of each.
DARK = 40.0
#: Old enough for every ONNX Runtime that we accept, new enough for axes as an input of ReduceMean.
OPSET, IR_VERSION = 18, 9
#: Side of the matrices that a slow model multiplies: 16.8 million multiplications each.
WORK_SIZE = 256


def free_port() -> int:
    """A port of loopback that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def class_colours(num_classes: int) -> npt.NDArray[np.float32]:
    """The colour that stands for each class: (C, 3) float32, 0..1, evenly around the wheel of hues."""
    return np.array([colorsys.hsv_to_rgb(i / num_classes, 1.0, 1.0) for i in range(num_classes)], dtype=np.float32)


def picture(
    class_index: int, num_classes: int, *, seed: int = 0, size: int = 32, image_format: str = "PNG", noise: int = 24
) -> bytes:
    """An encoded image in the colour of a class, with a little noise from ``seed``: each seed gives other bytes."""
    random = np.random.default_rng([class_index, num_classes, seed, size])
    colour = class_colours(num_classes)[class_index] * 255.0
    pixels = colour + random.integers(-noise, noise + 1, size=(size, size, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, image_format)
    return buffer.getvalue()


def tiny_artifact(
    classes: Sequence[str],
    size: int = 8,
    *,
    generation: int = 0,
    teacher: str | None = None,
    rotated_by: int = 0,
    sharpness: float = 10.0,
    is_fragile: bool = False,
    work: int = 0,
) -> tuple[bytes, ModelCard]:
    """A model and its card, ready for ``registry.publish``.

    ``rotated_by`` makes it wrong: each colour gets the name of the class so many places further on.
    ``sharpness`` is how sure it is of itself; another value gives another version. ``is_fragile`` makes it
    answer NaN for a picture in which a colour is missing, as all of ``picture`` are, though not for its probe.
    ``work`` makes it slow: so many products of matrices an image, about a quarter of a millisecond each, that
    change nothing.
    """
    colours = np.roll(class_colours(len(classes)), -rotated_by, axis=0)
    # The nearest colour p has the largest 2 x·p - |p|²: a linear layer on the mean colour x.
    weight = (2.0 * sharpness * colours.T / 255.0).astype(np.float32)  # (3, C)
    bias = (-sharpness * (colours**2).sum(axis=1)).astype(np.float32)  # (C,)
    artifact = _graph(weight, bias, size, is_fragile, work).SerializeToString()
    version = version_id(generation, artifact)
    return artifact, ModelCard(
        version=version,
        generation=generation,
        student="tiny",
        num_parameters=weight.size + bias.size,
        classes=tuple(classes),
        preprocessing=Preprocessing(size=size),
        temperature=1.0,
        artifact_key=model_key(version, "model.onnx"),
        artifact_sha256=hashlib.sha256(artifact).hexdigest(),
        artifact_bytes=len(artifact),
        weights_key=model_key(version, "weights.safetensors"),
        probe=_probe(weight, bias, size),
        recipe={},
        teacher=teacher,
        data={},
        training={},
        evaluation=tiny_evaluation(version, classes),
        software={"onnx": onnx.__version__},
    )


def tiny_evaluation(version: str, classes: Sequence[str]) -> Evaluation:
    """An evaluation with plausible numbers, measured on nothing."""
    return Evaluation(
        version=version,
        num_images=100,
        num_correct=90,
        accuracy=0.9,
        interval=Interval(low=0.825, high=0.945),
        per_class=dict.fromkeys(classes, 0.9),
        calibration_error=0.03,
        negative_log_likelihood=0.3,
        images_per_second=1000.0,
    )


def _graph(
    weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], size: int, is_fragile: bool, work: int
) -> onnx.ModelProto:
    # The root of a colour that is nearly missing, less DARK, is no number; times nothing it changes no other picture.
    breaking = [
        helper.make_node("Sub", ["colour", "dark"], ["light"]),
        helper.make_node("Sqrt", ["light"], ["root"]),
        helper.make_node("Mul", ["root", "nothing"], ["void"]),
        helper.make_node("Add", ["colour", "void"], ["seen"]),
    ]
    nodes = [
        helper.make_node("Cast", [INPUT], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["colour"], keepdims=0),
        *(breaking if is_fragile else ()),
        helper.make_node("Gemm", ["seen" if is_fragile else "colour", "weight", "bias"], ["logits"]),
        *_labour(work),
        helper.make_node("Softmax", ["logits_after_work" if work else "logits"], [OUTPUT], axis=1),
    ]
    constants = {"dark": DARK, "nothing": 0.0} if is_fragile else {}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", size, size, 3])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", bias.size])],
        [
            numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "axes"),
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(bias, "bias"),
            *(numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _labour(work: int) -> list[onnx.NodeProto]:
    """``logits`` to ``logits_after_work``, which are the same: plus nought times the mean of a product of matrices."""
    if not work:
        return []
    shape = numpy_helper.from_array(np.array([WORK_SIZE, WORK_SIZE], dtype=np.int64))
    mean = numpy_helper.from_array(np.array([1.0 / WORK_SIZE], dtype=np.float32))
    nought = numpy_helper.from_array(np.array(0.0, dtype=np.float32))
    last = numpy_helper.from_array(np.array([-1], dtype=np.int64))
    return [
        helper.make_node("Constant", [], ["work_shape"], value=shape),
        helper.make_node("ConstantOfShape", ["work_shape"], ["work_matrix"], value=mean),
        helper.make_node("Constant", [], ["last"], value=last),
        helper.make_node("ReduceMean", ["colour", "last"], ["grey"]),  # (N, 1)
        helper.make_node("Unsqueeze", ["grey", "last"], ["grey_matrix"]),  # (N, 1, 1)
        helper.make_node("Mul", ["grey_matrix", "work_matrix"], ["product0"]),  # (N, WORK_SIZE, WORK_SIZE)
        *(helper.make_node("MatMul", [f"product{i}", "work_matrix"], [f"product{i + 1}"]) for i in range(work)),
        helper.make_node("ReduceMean", [f"product{work}", "axes"], ["work_mean"], keepdims=0),  # (N)
        helper.make_node("Unsqueeze", ["work_mean", "last"], ["work_column"]),
        helper.make_node("Constant", [], ["nought"], value=nought),
        helper.make_node("Mul", ["work_column", "nought"], ["no_change"]),
        helper.make_node("Add", ["logits", "no_change"], ["logits_after_work"]),
    ]


def _probe(weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], size: int) -> Probe:
    probabilities = _expected(probe_pixels(size, NUM_PROBES), weight, bias)
    rows = tuple(tuple(float(p) for p in row) for row in probabilities)
    return Probe(num_images=NUM_PROBES, probabilities=rows, tolerance=1e-4)


def _expected(pixels: Pixels, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> Probabilities:
    logits = pixels.astype(np.float32).mean(axis=(1, 2)) @ weight + bias  # (N, C)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def zipped(files: Mapping[str, bytes]) -> io.BytesIO:
    """Files as a zip archive to send."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    packed.seek(0)
    return packed
