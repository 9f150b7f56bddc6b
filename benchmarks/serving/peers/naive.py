"""The server that everybody writes first: FastAPI, ONNX Runtime, no batching; each request from end to end on its own.

Two settings: ``processes`` (one uvicorn process a core, one thread each, the fastest of its kind) and ``single`` (one
process, ONNX Runtime's default threads). Started with ``python -m benchmarks.serving.peers.naive MODEL PORT SETTING``.
"""

import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from benchmarks.serving.work import Work, available_cores


def create_app(model: Path, threads: int) -> FastAPI:
    """The whole server."""
    app = FastAPI()
    work = Work.open(model, threads=threads)

    @app.post("/classify")
    async def classify(request: Request) -> list[dict[str, Any]]:
        return work.classify(await request.body())

    return app


def from_arguments() -> FastAPI:
    """What each uvicorn process calls; the arguments are those of the program that started it."""
    model, _, setting = sys.argv[1:]
    return create_app(Path(model), threads=1 if setting == "processes" else 0)


def main() -> None:
    _, port, setting = sys.argv[1:]
    uvicorn.run(
        "benchmarks.serving.peers.naive:from_arguments",
        factory=True,
        port=int(port),
        workers=available_cores() if setting == "processes" else 1,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
