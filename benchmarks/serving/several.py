"""Several images a request, for a GPU: what comes through HTTP against what the engine does alone.

The engine's own rate is measured in a program of its own, on decoded input at the best of several batch sizes:
``python -m benchmarks.serving.several MODEL`` prints it by batch size. Only run where there is a GPU.
"""

import argparse
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.serving import wrk
from benchmarks.serving.photos import Bodies
from understudy import engine
from understudy.records import ModelCard

IMAGES_PER_REQUEST = 16
#: Together enough images for the largest batch twice over: one is computed while the next is being filled.
CONNECTIONS = 32
BATCHES = (1, 4, 8, 16, 32, 64, 128)
#: Two callers, so that copying to the device overlaps with computing.
NUM_CALLERS = 2


@dataclass(frozen=True)
class Several:
    """Images a second, alone and through HTTP."""

    engine_rates: dict[int, float]  #: by batch size
    images_per_second: float
    num_errors: int

    @property
    def share(self) -> float:
        return self.images_per_second / max(self.engine_rates.values())


def through_http(url: str, bodies: Bodies, engine_rates: dict[int, float], *, seconds: float) -> Several:
    """Load a service with requests of several images each."""
    wrk.run(url, bodies, connections=CONNECTIONS, seconds=2)
    closed = wrk.run(url, bodies, connections=CONNECTIONS, seconds=seconds)
    return Several(engine_rates, closed.per_second * IMAGES_PER_REQUEST, closed.num_errors)


def engine_rates(model: Path, *, provider: str, seconds: float) -> dict[int, float]:
    """Images a second of the engine alone, by batch size."""
    card = ModelCard.model_validate_json((model / "card.json").read_text())
    loaded = engine.load((model / "model.onnx").read_bytes(), card, provider=provider)
    return {batch: _rate(loaded, batch, seconds) for batch in BATCHES}


def _rate(loaded: engine.Engine, batch: int, seconds: float) -> float:
    size = loaded.card.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    loaded.predict(pixels)
    counts = [0] * NUM_CALLERS
    began = time.perf_counter()

    def call(index: int) -> None:
        while time.perf_counter() < began + seconds:
            loaded.predict(pixels)
            counts[index] += batch

    callers = [threading.Thread(target=call, args=(index,)) for index in range(NUM_CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return sum(counts) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder with model.onnx and card.json")
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--seconds", type=float, default=2.0)
    chosen = parser.parse_args()
    print(json.dumps(engine_rates(chosen.model, provider=chosen.provider, seconds=chosen.seconds)))


if __name__ == "__main__":
    main()
