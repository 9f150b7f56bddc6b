"""BentoML doing the same work: one worker process a core, one ONNX Runtime thread each.

``Classifier`` takes the photo as the raw body; ``Batching`` takes it as base64 in JSON, because what BentoML batches must
be a list. Started with ``bentoml serve benchmarks.serving.peers.bentoml_service:Classifier``; the model's folder and the
batch come in the environment, since that command takes no arguments for the service.
"""

import base64
import os
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType

from benchmarks.serving.work import Work, available_cores

MODEL_VARIABLE, BATCH_VARIABLE = "BENCHMARK_MODEL", "BENCHMARK_BATCH"
#: BentoML refuses what its model of the load says will be later than this; 60 s lets it answer everything.
MAX_LATENCY_MS = 60_000


def _open() -> Work:
    return Work.open(Path(os.environ[MODEL_VARIABLE]), threads=1)


@bentoml.service(workers=available_cores(), threads=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Classifier:
    """One image at a time."""

    def __init__(self) -> None:
        self._work = _open()

    @bentoml.api(route="/classify")
    def classify(self, image: Annotated[bytes, ContentType("image/jpeg")], /) -> list[dict[str, Any]]:
        return self._work.classify(image)


@bentoml.service(workers=available_cores(), threads=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Batching:
    """With its adaptive batching."""

    def __init__(self) -> None:
        self._work = _open()

    @bentoml.api(
        route="/classify",
        batchable=True,
        max_batch_size=int(os.environ.get(BATCH_VARIABLE, "8")),
        max_latency_ms=MAX_LATENCY_MS,
    )
    def classify(self, images: list[str]) -> list[list[dict[str, Any]]]:
        pixels = [self._work.decode(base64.b64decode(image)) for image in images]
        return [self._work.answer(row) for row in self._work.infer(pixels)]
