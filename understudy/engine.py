"""The engine: one model version loaded into ONNX Runtime, verified and warm.

The only door to ONNX Runtime; serving, labeling and the gate all run through it. It takes input
pixels and gives probabilities; how bytes become pixels is the business of ``images``.
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from understudy import cores
from understudy.errors import ArtifactRefused
from understudy.images import Pixels
from understudy.records import Evaluation, Interval, ModelCard, Preprocessing, Probe, Sha256

log = logging.getLogger(__name__)

Probabilities = npt.NDArray[np.float32]  # (N, C)

#: The graph's contract: uint8 (N, H, W, 3) in, float32 (N, C) probabilities out.
INPUT, OUTPUT = "pixels", "probabilities"

#: The number format of an artifact itself; the others are its card's variants.
FP32 = "fp32"

#: Our word for a provider and ONNX Runtime's, the fastest first.
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
GPU_PROVIDERS = ("tensorrt", "cuda")

#: Options of the CUDA provider. It would try every algorithm again for each new batch size, which takes
#: seconds in the middle of serving; and it would double its memory rather than take what it needs.
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}

#: What an NVIDIA driver makes, on Linux and in WSL.
_GPU_DEVICES = ("nvidiactl", "nvidia0", "dxg")

#: Where a graph's external weights are looked for: an artifact is one file, so nowhere.
_NOWHERE = "/dev/null/nowhere"

#: CUDA multiplies in TF32; three decimal digits are what it can promise.
_GPU_TOLERANCE = 5e-3

#: The probe of a file without a card: its own answers, which differ by this much between numbers of threads.
_NUM_BARE_PROBES, _BARE_TOLERANCE = 2, 1e-2


@dataclass(frozen=True)
class Engine:
    """A loaded version. ``predict`` may be called from several threads at once."""

    card: ModelCard
    provider: str  #: what it really runs on: tensorrt, cuda or cpu
    variant: str  #: the number format: fp32, fp16 or int8
    threads: int  #: of one call, on a CPU
    fallback: str | None  #: why it is not on the GPU that this machine has; None: it is, or there is none
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

    def release_memory(self) -> None:
        """Give back what larger batches than will come needed: the arena keeps it otherwise, for as long as it lives."""
        if self.provider != "cpu":
            return
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._session.run([OUTPUT], {INPUT: probe_pixels(self.card.preprocessing.size, 1)}, options)


def load(
    artifact: bytes,
    card: ModelCard,
    *,
    provider: str = "auto",
    threads: int = 0,
    arena: bool = False,
    variant: str | None = None,
) -> Engine:
    """Load an artifact, prove that it is what its card says, and warm it up.

    ``provider`` is ``auto`` (CUDA where there is a GPU, else the CPU), ``tensorrt``, ``cuda`` or ``cpu``.
    What is named and cannot be had is refused; ``auto`` on a machine whose GPU cannot be used loads on
    the CPU, logs why, and says it in ``Engine.fallback``.

    ``threads`` is per call, 0 for all cores that this process may use. ``arena`` keeps the CPU's memory
    between calls: faster for batches of a few sizes, but it grows with every new size and never shrinks.
    ``variant`` names one of the card's variants, and ``artifact`` is that variant's file then.

    Raises ArtifactRefused with the code checksum, unreadable, provider, variant, contract, not_finite or parity.
    """
    name = variant or FP32
    sha256, probe = _promised(card, name)
    if (seen := hashlib.sha256(artifact).hexdigest()) != sha256:
        raise ArtifactRefused(
            f"the {name} file of model {card.version} has sha-256 {seen[:12]}…, its card says {sha256[:12]}…",
            code="checksum",
        )
    threads = threads or available_cores()
    order, fallback = provider_order(provider, built=ort.get_available_providers(), has_gpu=has_gpu())
    opened, session, failures = open_first(order, lambda name: _session(artifact, name, threads, arena), card.version)
    if opened != order[0]:
        fallback = "; ".join(failures)
    if fallback:
        log.warning("model %s runs on the CPU although this machine has a GPU: %s", card.version, fallback)
    engine = Engine(card, opened, name, threads, fallback, session)
    _check_contract(engine)
    _check_parity(engine, probe)
    return engine


def _promised(card: ModelCard, name: str) -> tuple[Sha256, Probe]:
    """The checksum and the probe of a card's artifact, or of one of its variants."""
    if name == FP32:
        return card.artifact_sha256, card.probe
    variant = card.variant(name)
    if variant is None or variant.artifact_sha256 is None or variant.probe is None:
        why = variant.reason if variant is not None else "its card names none"
        raise ArtifactRefused(f"model {card.version} has no {name} variant: {why}", code="variant")
    return variant.artifact_sha256, variant.probe


def bare_card(artifact: bytes, version: str) -> ModelCard:
    """A card for a file that has none: what its graph says, and no promise but what it answers on this CPU.

    Enough to load and measure it, never to publish it. Raises ArtifactRefused with the code unreadable or contract.
    """
    _, session, _ = open_first(("cpu",), lambda name: _session(artifact, name, available_cores(), False), version)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shapes = [v.shape for v in (*inputs, *outputs)]
    if len(inputs) != 1 or len(outputs) != 1 or len(shapes[0]) != 4 or len(shapes[1]) != 2:
        raise ArtifactRefused(
            f"{version} takes and gives {shapes}, not one (N, size, size, 3) and one (N, classes)", code="contract"
        )
    size, num_classes = shapes[0][1], shapes[1][1]
    if not isinstance(size, int) or not isinstance(num_classes, int) or num_classes < 2:
        raise ArtifactRefused(f"{version} does not fix its input size and its classes: {shapes}", code="contract")
    sha256 = hashlib.sha256(artifact).hexdigest()
    nowhere = Evaluation(
        version=version,
        num_images=0,
        num_correct=0,
        accuracy=0.0,
        interval=Interval(low=0.0, high=1.0),
        per_class={},
        calibration_error=0.0,
        negative_log_likelihood=0.0,
        images_per_second=0.0,
    )
    card = ModelCard(
        version=version,
        generation=0,
        student=version,
        num_parameters=0,
        classes=tuple(str(index) for index in range(num_classes)),
        preprocessing=Preprocessing(size=size),
        temperature=1.0,
        artifact_key="",
        artifact_sha256=sha256,
        artifact_bytes=len(artifact),
        weights_key="",
        probe=Probe(num_images=0, probabilities=(), tolerance=0.0),
        recipe={},
        teacher=None,
        data={},
        training={},
        evaluation=nowhere,
        software={},
    )
    unproved = Engine(card, "cpu", FP32, available_cores(), None, session)
    _check_contract(unproved)
    rows = unproved.predict(probe_pixels(size, _NUM_BARE_PROBES))
    probe = Probe(num_images=len(rows), probabilities=tuple(map(tuple, rows.tolist())), tolerance=_BARE_TOLERANCE)
    return card.model_copy(update={"probe": probe})


def provider_order(provider: str, *, built: Collection[str], has_gpu: bool) -> tuple[tuple[str, ...], str | None]:
    """The providers to try in order, and what is already known to keep ``auto`` off a GPU that is there.

    ``built`` are ONNX Runtime's names of what it was built with. TensorRT is tried only where it is
    asked for: it compiles a graph anew for minutes. Raises ArtifactRefused with the code provider.
    """
    if provider == "auto":
        if not has_gpu:
            return ("cpu",), None
        if PROVIDERS["cuda"] not in built:
            return ("cpu",), "the installed ONNX Runtime was built without CUDA; install onnxruntime-gpu in its place"
        return ("cuda", "cpu"), None
    if provider not in PROVIDERS:
        raise ArtifactRefused(f"provider {provider!r} is not known; use auto, cpu, cuda or tensorrt", code="provider")
    if PROVIDERS[provider] not in built:
        raise ArtifactRefused(
            f"asked for {provider} but the installed ONNX Runtime was built without it; install onnxruntime-gpu "
            f"or set the provider to auto",
            code="provider",
        )
    return (provider,), None


def open_first(
    order: Sequence[str], open_session: Callable[[str], Any], version: str
) -> tuple[str, Any, tuple[str, ...]]:
    """The first provider that a session can be opened on, the session, and why those before it failed.

    ``open_session`` takes our word for a provider. ONNX Runtime may also open one on the CPU without a
    word: that is a failure of the provider too. Raises ArtifactRefused with the code unreadable or provider.
    """
    failures: list[str] = []
    for name in order:
        try:
            session = open_session(name)
        except Exception as error:  # ONNX Runtime has no common base class for its errors
            if name == "cpu":
                raise ArtifactRefused(f"model {version} cannot be loaded: {error}", code="unreadable") from error
            failures.append(f"{name}: {error}")
            continue
        if session.get_providers()[0] == PROVIDERS[name]:
            return name, session, tuple(failures)
        failures.append(f"{name}: ONNX Runtime cannot use it, most often for want of a library; its log names it")
    raise ArtifactRefused(
        f"model {version} was asked to run on {order[0]} and cannot: {'; '.join(failures)}; repair that, or set the "
        f"provider to auto or cpu",
        code="provider",
    )


def _session(artifact: bytes, provider: str, threads: int, arena: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 3
    # Otherwise a graph could have any file of the working directory read as its weights.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    if provider in GPU_PROVIDERS:
        ort.preload_dlls()  # finds the CUDA libraries that came with PyTorch's wheels
    # TensorRT leaves the nodes that it does not know to the next provider.
    names = {"tensorrt": ("tensorrt", "cuda"), "cuda": ("cuda",), "cpu": ("cpu",)}[provider]
    providers = [(PROVIDERS[name], _CUDA_OPTIONS if name == "cuda" else {}) for name in names]
    # Otherwise a GPU's error in the middle of serving would move the session to the CPU with a print.
    return ort.InferenceSession(artifact, options, providers=providers, enable_fallback=False)


def default_provider() -> str:
    """What ``auto`` tries first here: ``cuda`` where there is a GPU that ONNX Runtime was built for, else ``cpu``."""
    return provider_order("auto", built=ort.get_available_providers(), has_gpu=has_gpu())[0][0]


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether this machine, or this container, has an NVIDIA GPU: whether or not it can be used."""
    return any((devices / name).exists() for name in _GPU_DEVICES)


def available_cores(root: Path = cores.ROOT) -> int:
    """The cores that this process may use, by its affinity and its container's CPU quota: not those of the machine."""
    return cores.available(root)


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


def _check_parity(engine: Engine, probe: Probe) -> None:
    got = engine.predict(probe_pixels(engine.card.preprocessing.size, probe.num_images))
    expected = np.asarray(probe.probabilities, dtype=np.float32)
    worst = float(np.abs(got - expected).max()) if got.shape == expected.shape else float("inf")
    tolerance = max(probe.tolerance, _GPU_TOLERANCE) if engine.provider in GPU_PROVIDERS else probe.tolerance
    if worst > tolerance:
        raise ArtifactRefused(
            f"model {engine.version} ({engine.variant}) is off its probe by {worst:.2g}; at most {tolerance:.2g} is "
            f"allowed",
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
