"""The engine: one model version loaded into ONNX Runtime, verified and warm.

The only door to ONNX Runtime; serving, labeling and the gate all run through it. It takes input
pixels and gives probabilities; how bytes become pixels is the business of ``images``.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from understudy.errors import ArtifactRefused
from understudy.images import Pixels
from understudy.records import ModelCard

log = logging.getLogger(__name__)

Probabilities = npt.NDArray[np.float32]  # (N, C)

#: The graph's contract: uint8 (N, H, W, 3) in, float32 (N, C) probabilities out.
INPUT, OUTPUT = "pixels", "probabilities"

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Engine:
    """A loaded version. ``predict`` may be called from several threads at once."""

    card: ModelCard
    provider: str  #: what it really runs on: cpu or cuda
    _session: ort.InferenceSession

    @property
    def version(self) -> str:
        return self.card.version

    def predict(self, pixels: Pixels) -> Probabilities:
        """Probabilities of a batch: (N, size, size, 3) uint8 → (N, C) float32.

        Raises ArtifactRefused if an output is not finite.
        """
        (probabilities,) = self._session.run([OUTPUT], {INPUT: pixels})
        if not np.isfinite(probabilities).all():
            raise ArtifactRefused(f"model {self.version} gave a probability that is not finite", code="not_finite")
        return probabilities  # type: ignore[no-any-return]


def load(artifact: bytes, card: ModelCard, *, provider: str = "auto", threads: int = 0) -> Engine:
    """Load an artifact, prove that it is what its card says, and warm it up.

    ``provider`` is ``auto`` (CUDA where there is a device, else CPU), ``cuda`` or ``cpu``; ``threads``
    is per call, 0 for all cores that this process may use. Raises ArtifactRefused with the code
    checksum, unreadable, provider, contract, not_finite or parity.
    """
    sha256 = hashlib.sha256(artifact).hexdigest()
    if sha256 != card.artifact_sha256:
        raise ArtifactRefused(
            f"the file of model {card.version} has sha-256 {sha256[:12]}…, its card says {card.artifact_sha256[:12]}…",
            code="checksum",
        )
    engine = _open(artifact, card, provider, threads)
    _check_contract(engine)
    _check_parity(engine)
    return engine


def _open(artifact: bytes, card: ModelCard, provider: str, threads: int) -> Engine:
    wanted = default_provider() if provider == "auto" else provider
    if wanted not in _PROVIDERS:
        raise ArtifactRefused(f"provider {provider!r} is not known; use auto, cpu or cuda", code="provider")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.enable_cpu_mem_arena = False  # it grows with every new batch size and never shrinks
    options.log_severity_level = 3
    if wanted == "cuda":
        ort.preload_dlls()  # finds the CUDA libraries that came with PyTorch's wheels
    try:
        session = ort.InferenceSession(artifact, options, providers=[_PROVIDERS[wanted]])
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        raise ArtifactRefused(f"model {card.version} cannot be loaded: {error}", code="unreadable") from error
    if session.get_providers()[0] == _PROVIDERS[wanted]:
        return Engine(card, wanted, session)
    # ONNX Runtime falls back to the CPU without a word; we do so only where nobody asked for more, and say it.
    if provider != "auto":
        raise ArtifactRefused(
            f"asked for {wanted} but ONNX Runtime runs on the CPU; install its libraries or set the provider to cpu",
            code="provider",
        )
    log.warning("this machine has a GPU, but ONNX Runtime cannot use it: model %s runs on the CPU", card.version)
    return Engine(card, "cpu", session)


def default_provider() -> str:
    """``cuda`` where a device can be opened, else ``cpu``."""
    if "CUDAExecutionProvider" in ort.get_available_providers() and Path("/dev/nvidiactl").exists():
        return "cuda"
    return "cpu"


def available_cores() -> int:
    """The cores that this process may use, not those that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def probe_pixels(size: int, num_images: int) -> Pixels:
    """The fixed input of :class:`understudy.records.Probe`: (num_images, size, size, 3) uint8.

    Made by arithmetic rather than by a random generator, so that no library can change it: image 0 is
    mid-grey, the others are smooth waves of growing frequency.
    """
    row, column, channel = np.meshgrid(np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    waves = [127.5 + 127.5 * np.sin(n * (3 * row + 2 * column) / max(size, 8) + channel) for n in range(num_images)]
    waves[0] = np.full_like(waves[0], 127.5)
    return np.stack(waves).round().astype(np.uint8)


def _check_contract(engine: Engine) -> None:
    size, num_classes = engine.card.preprocessing.size, len(engine.card.classes)
    inputs, outputs = engine._session.get_inputs(), engine._session.get_outputs()
    seen = [(v.name, v.type, v.shape[1:]) for v in (*inputs, *outputs)]
    wanted = [(INPUT, "tensor(uint8)", [size, size, 3]), (OUTPUT, "tensor(float)", [num_classes])]
    if seen != wanted:
        raise ArtifactRefused(
            f"model {engine.version} takes and gives {seen}, but its card says {wanted}", code="contract"
        )


def _check_parity(engine: Engine) -> None:
    probe = engine.card.probe
    got = engine.predict(probe_pixels(engine.card.preprocessing.size, probe.num_images))
    expected = np.asarray(probe.probabilities, dtype=np.float32)
    worst = float(np.abs(got - expected).max()) if got.shape == expected.shape else float("inf")
    # CUDA multiplies in TF32; three decimal digits are what it can promise.
    tolerance = max(probe.tolerance, 5e-3) if engine.provider == "cuda" else probe.tolerance
    if worst > tolerance:
        raise ArtifactRefused(
            f"model {engine.version} is off its probe by {worst:.2g}; at most {tolerance:.2g} is allowed",
            code="parity",
        )


def predict_all(engine: Engine, inputs: Iterable[Pixels], *, batch: int) -> Iterator[Probabilities]:
    """Probabilities of a stream of inputs, ``batch`` at a time: one (C,) row for each (size, size, 3) input."""
    waiting: list[Pixels] = []
    for pixels in inputs:
        waiting.append(pixels)
        if len(waiting) == batch:
            yield from engine.predict(np.stack(waiting))
            waiting.clear()
    if waiting:
        yield from engine.predict(np.stack(waiting))
