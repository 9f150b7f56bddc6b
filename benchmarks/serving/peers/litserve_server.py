"""LitServe doing the same work: one worker process a core, one ONNX Runtime thread each.

It takes the photo as the raw body, which is the least that its front process must do. Started with
``python -m benchmarks.serving.peers.litserve_server MODEL PORT BATCH``.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body

from benchmarks.serving.work import Work, available_cores
from understudy.images import Pixels

#: How long a batch waits for company; measured best of 0 to 50 ms with batches, which fill from the queue anyway.
BATCH_TIMEOUT_S = 0.005


class Classifier(litserve.LitAPI):
    """Decode, infer, answer: in a worker process, one image or a batch at a time."""

    def __init__(self, model: Path, batch: int) -> None:
        super().__init__(
            api_path="/classify", max_batch_size=batch, batch_timeout=BATCH_TIMEOUT_S if batch > 1 else 0.0
        )
        self._model, self._batch = model, batch

    def setup(self, device: str) -> None:
        self._work = Work.open(self._model, threads=1)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> Pixels:
        return self._work.decode(request)

    def batch(self, inputs: list[Pixels]) -> list[Pixels]:
        return inputs

    def predict(self, x: Any) -> np.ndarray:
        return self._work.infer(x) if self._batch > 1 else self._work.infer([x])[0]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> list[dict[str, Any]]:
        return self._work.answer(output)


def main() -> None:
    model, port, batch = sys.argv[1:]
    server = litserve.LitServer(
        Classifier(Path(model), int(batch)),
        accelerator="cpu",
        workers_per_device=available_cores(),
        timeout=60,
    )
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
