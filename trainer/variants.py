"""Variants: the exported artifact in other number formats, each judged by itself before it may be served.

fp16 is for CUDA, int8 for the CPU. Whether one is faster is for the machine that serves to find out;
here it is only proved to be loadable, and its accuracy on the holdout measured beside that of the
artifact it was made from. What cannot be made, loaded or kept within the tolerance is left out, with the reason.
"""

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from trainer.evaluate import Measured
from understudy import engine, tuning
from understudy.engine import INPUT, OUTPUT, Engine, probe_pixels
from understudy.errors import ArtifactRefused, UnderstudyError
from understudy.images import Pixels
from understudy.records import ModelCard, Probe, Record, Sha256, Variant
from understudy.store import model_key

Name = Literal["fp16", "int8"]

#: What each variant is made for.
PROVIDER: dict[Name, Literal["cuda", "cpu"]] = {"fp16": "cuda", "int8": "cpu"}

#: Largest difference of a probability between the machine of the export and one that serves. Half
#: precision carries three decimal digits, and an int8 value may be rounded to its neighbour on another processor;
#: a wrong graph is off by more.
TOLERANCE: dict[Name, float] = {"fp16": 1e-2, "int8": 2e-2}

#: Only these are worth an int8 kernel; what lies between them is cheap, and exact in float32.
INT8_OPERATORS = ("Conv", "Gemm", "MatMul")
#: Labeled training images that show int8 which values to expect, and how many run at a time.
NUM_CALIBRATION_IMAGES, CALIBRATION_BATCH = 64, 8

#: An evaluation that would take longer than this is not made. A CPU has no half-precision kernels and
#: casts around every node: fp16 takes five times as long there.
MAX_EVALUATION_S = 120.0
#: Images in the batch by which that is foretold.
FORETELLING_BATCH = 8

log = logging.getLogger(__name__)


class MadeVariant(Record):
    """A variant as it came out of the export: a file with its probe, or the reason why there is none."""

    name: Name
    artifact_sha256: Sha256 | None = None
    artifact_bytes: int | None = None
    probe: Probe | None = None
    reason: str | None = None


class MadeVariants(Record):
    """Every variant that the recipe asked for; written when their files are in the store."""

    variants: tuple[MadeVariant, ...]


class JudgedVariants(Record):
    """The same after their evaluation, as the card has them."""

    variants: tuple[Variant, ...]


# -- making -------------------------------------------------------------------------------------------


def convert(name: Name, artifact: bytes, calibration: Callable[[], Pixels]) -> bytes:
    """The artifact in another number format. Raises ArtifactRefused with the code variant.

    ``calibration`` gives labeled training images as (N, size, size, 3) uint8; only int8 asks for them.
    """
    try:
        with _quiet():
            return to_fp16(artifact) if name == "fp16" else to_int8(artifact, calibration())
    except UnderstudyError:
        raise
    except Exception as error:  # the converters raise whatever they stumble over
        raise ArtifactRefused(f"cannot be made: {type(error).__name__}: {error}", code="variant") from error


def to_fp16(artifact: bytes) -> bytes:
    """Half precision inside, uint8 in and float32 out as before; the softmax stays in float32."""
    graph = convert_float_to_float16(
        onnx.load_from_string(artifact), keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, "Softmax"]
    )
    _keep_output(graph.graph)
    converted: bytes = graph.SerializeToString()
    return converted


def _keep_output(graph: onnx.GraphProto) -> None:
    """Take out the casts to half precision and back that the converter puts behind the softmax."""
    by_output = {node.output[0]: node for node in graph.node}
    last, casts = by_output[OUTPUT], []
    while last.op_type == "Cast":
        casts.append(last)
        last = by_output[last.input[0]]
    last.output[0] = OUTPUT
    for cast in casts:
        graph.node.remove(cast)


def to_int8(artifact: bytes, pixels: Pixels) -> bytes:
    """8-bit weights, a scale for each channel, and 8-bit activations between the limits seen on ``pixels``.

    ``pixels`` is (N, size, size, 3) uint8: images that the model was trained on, never the holdout.
    """
    with tempfile.TemporaryDirectory(prefix="understudy-int8-") as folder:
        quantized = Path(folder) / "quantized.onnx"
        quantize_static(
            onnx.load_from_string(artifact),  # the exporter has folded BatchNorm and inferred the shapes already
            quantized,
            _Calibration(pixels),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(INT8_OPERATORS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return quantized.read_bytes()


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Images a few at a time, as the quantizer wants them."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches = iter(np.array_split(pixels, max(1, len(pixels) // CALIBRATION_BATCH)))

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """The converters advise on the root logger, in words that are not for our users."""

    def drop(record: logging.LogRecord) -> bool:
        return False  # only what is logged on the root itself comes by here, not what came up from another logger

    root = logging.getLogger()
    root.addFilter(drop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(drop)


def verified(name: Name, artifact: bytes, card: ModelCard) -> MadeVariant:
    """Load a variant's file and note what it says of the probe's input.

    ``card`` is that of the version it was made from. Raises ArtifactRefused if it cannot be served at all.
    """
    lenient = MadeVariant(
        name=name,
        artifact_sha256=hashlib.sha256(artifact).hexdigest(),
        artifact_bytes=len(artifact),
        probe=card.probe.model_copy(update={"tolerance": 1.0}),  # accuracy is for the holdout to say
    )
    loaded = load(artifact, card, lenient, provider="cpu")
    rows = loaded.predict(probe_pixels(card.preprocessing.size, card.probe.num_images))
    probabilities = tuple(tuple(float(p) for p in row) for row in rows)
    probe = Probe(num_images=len(rows), probabilities=probabilities, tolerance=TOLERANCE[name])
    return lenient.model_copy(update={"probe": probe})


def load(artifact: bytes, card: ModelCard, made: MadeVariant, *, provider: str) -> Engine:
    """The engine of a variant that no card names yet. Raises ArtifactRefused."""
    named = card.model_copy(update={"variants": (_entry(made, card, 0.0),)})
    return engine.load(artifact, named, provider=provider, variant=made.name)


def _entry(made: MadeVariant, card: ModelCard, tolerance: float) -> Variant:
    return Variant(
        name=made.name,
        provider=PROVIDER[made.name],
        artifact_key=None if made.reason else model_key(card.version, f"model.{made.name}.onnx"),
        artifact_sha256=made.artifact_sha256,
        artifact_bytes=made.artifact_bytes,
        probe=made.probe,
        tolerance=tolerance,
        reason=made.reason,
    )


# -- judging ------------------------------------------------------------------------------------------


def judge(
    made: MadeVariant,
    card: ModelCard,
    base: Measured,
    tolerance: float,
    load: Callable[[], Engine],
    measure: Callable[[Engine], Measured],
) -> Variant:
    """A variant as the card shall have it: with what it loses against ``base``, the version itself on this holdout."""
    entry = _entry(made, card, tolerance)
    if made.reason is not None:
        return entry
    try:
        loaded = load()
        refuse_slow(loaded, len(base.truth))
        measured = measure(loaded)
    except ArtifactRefused as error:
        return _refused(entry, str(error))
    difference = measured.evaluation.accuracy - base.evaluation.accuracy
    entry = entry.model_copy(
        update={
            "evaluation": measured.evaluation,
            "evaluated_on": loaded.provider,
            "accuracy_difference": difference,
            "agreement": agreement(measured, base),
        }
    )
    if difference < -tolerance - 1e-9:
        return _refused(
            entry, f"it loses {-difference:.2%} of accuracy on the holdout; the recipe allows {tolerance:.2%}"
        )
    return entry


def _refused(entry: Variant, reason: str) -> Variant:
    log.info("the %s variant will not be served: %s", entry.name, reason)
    return entry.model_copy(update={"artifact_key": None, "reason": reason})


def refuse_slow(loaded: Engine, num_images: int) -> None:
    """Raise ArtifactRefused if an evaluation on so many images would take too long on this machine."""
    seconds = tuning.measure(loaded, num_lanes=1, batch_sizes=(FORETELLING_BATCH,), seconds_each=0.0)
    expected = seconds[FORETELLING_BATCH] * num_images / FORETELLING_BATCH
    if expected > MAX_EVALUATION_S:
        raise ArtifactRefused(
            f"not evaluated: {num_images} images would take {expected:.0f} s on {loaded.provider}, and no more than "
            f"{MAX_EVALUATION_S:.0f} s are spent on a variant",
            code="variant",
        )


def agreement(one: Measured, other: Measured) -> float | None:
    """The share of images to which both give the same class; None where one did not keep what it answered."""
    if len(one.predicted) != len(other.predicted) or not one.predicted:
        return None
    same = sum(a == b for a, b in zip(one.predicted, other.predicted, strict=True))
    return same / len(one.predicted)
