"""The work of one request, the same for every contestant but ours: decode, infer, name the five best classes.

Ours does it through its own engine; the decoder (``understudy.images``), the artifact and ONNX Runtime are the same.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime as ort

from understudy import images
from understudy.images import Pixels
from understudy.records import Preprocessing

#: Classes in an answer: the default of ``POST /classify``.
TOP_K = 5


def available_cores() -> int:
    """The cores that this process may use, not those that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Work:
    """A model in memory. The session has ONNX Runtime's defaults (all optimisations, arena on) but for its threads."""

    def __init__(self, artifact: Path, preprocessing: Preprocessing, classes: Sequence[str], *, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
        self._preprocessing = preprocessing
        self._classes = tuple(classes)

    @classmethod
    def open(cls, model: Path, *, threads: int) -> Self:
        """The model of a folder with ``model.onnx`` and ``card.json``, as the store has them."""
        card = json.loads((model / "card.json").read_text())
        return cls(model / "model.onnx", Preprocessing(**card["preprocessing"]), card["classes"], threads=threads)

    def decode(self, data: bytes) -> Pixels:
        """Bytes → (size, size, 3) uint8."""
        return images.load(data, self._preprocessing)

    def infer(self, pixels: Sequence[Pixels]) -> np.ndarray:
        """Inputs → (N, C) float32."""
        (probabilities,) = self._session.run(["probabilities"], {"pixels": np.stack(pixels)})
        return probabilities  # type: ignore[no-any-return]

    def answer(self, probabilities: np.ndarray) -> list[dict[str, Any]]:
        """(C,) float32 → the best classes, the most probable first."""
        best = np.argsort(-probabilities, kind="stable")[:TOP_K]
        return [{"label": self._classes[i], "probability": float(probabilities[i])} for i in best]

    def classify(self, data: bytes) -> list[dict[str, Any]]:
        """One request from its bytes to its answer."""
        return self.answer(self.infer([self.decode(data)])[0])
