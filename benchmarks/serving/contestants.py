"""Who takes part: how each server is started, which settings were chosen for it, and what it is sent."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import machine
from benchmarks.serving import peer_environment
from benchmarks.serving.photos import BodyKind

#: Of ours, what makes a difference to the figures.
OUR_PACKAGES = ("fastapi", "numpy", "onnxruntime", "onnxruntime-gpu", "pillow", "starlette", "uvicorn", "uvloop")


@dataclass(frozen=True)
class Place:
    """What a server needs to know to start."""

    data: Path  #: Understudy's data folder
    model: Path  #: the folder of model.onnx and card.json in it
    port: int


@dataclass(frozen=True)
class Contestant:
    """One server with one choice of settings."""

    name: str
    title: str
    settings: str  #: in words, for the report
    command: Callable[[Place], list[str]]
    environment: Callable[[Place], Mapping[str, str]] = field(default=lambda place: {})
    body: BodyKind = "raw"
    is_peer: bool = True


def _peer(module: str, *arguments: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        start = [str(peer_environment.python()), "-m", f"benchmarks.serving.peers.{module}"]
        return [*start, str(place.model), str(place.port), *arguments]

    return command


def _bentoml(service: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        serve = [str(peer_environment.python()), "-m", "bentoml", "serve"]
        return [
            *serve,
            f"benchmarks.serving.peers.bentoml_service:{service}",
            *("--host", "127.0.0.1", "--port", str(place.port)),
        ]

    return command


def _bentoml_environment(batch: int = 2) -> Callable[[Place], Mapping[str, str]]:
    return lambda place: {
        "BENCHMARK_MODEL": str(place.model),
        "BENCHMARK_BATCH": str(batch),  # BentoML takes no 1, even for a service that is not started
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": str(place.data / "bentoml"),
    }


def _ours_environment(place: Place) -> Mapping[str, str]:
    # The peers and the limit compute on the CPU; with a GPU so must ours, until it is measured by itself.
    provider = {"UNDERSTUDY_PROVIDER": "cpu"} if machine.has_gpu() else {}
    return {"UNDERSTUDY_DATA": str(place.data), "UNDERSTUDY_PORT": str(place.port)} | provider


OURS = Contestant(
    "ours",
    "Understudy",
    "`python -m service`, one process, no setting but folder and port (and the CPU where there is a GPU)",
    lambda place: [sys.executable, "-m", "service"],
    _ours_environment,
    is_peer=False,
)

EVERY = (
    OURS,
    Contestant(
        "naive",
        "FastAPI, a process a core",
        "FastAPI and ONNX Runtime without batching: an async route in one uvicorn process a core, 1 thread each",
        _peer("naive", "processes"),
    ),
    Contestant(
        "naive-single",
        "FastAPI, one process",
        "the same in one process with ONNX Runtime's default threads",
        _peer("naive", "single"),
    ),
    Contestant(
        "litserve",
        "LitServe",
        "one worker a core, 1 thread each, batches of up to 4, raw bodies",
        _peer("litserve_server", "4"),
    ),
    Contestant(
        "litserve-1", "LitServe, batch 1", "the same without batching, raw bodies", _peer("litserve_server", "1")
    ),
    Contestant(
        "litserve-8", "LitServe, batch 8", "the same with batches of up to 8, raw bodies", _peer("litserve_server", "8")
    ),
    Contestant(
        "bentoml",
        "BentoML",
        "one worker a core, 1 thread each, without batching, raw bodies",
        _bentoml("Classifier"),
        _bentoml_environment(),
    ),
    Contestant(
        "bentoml-4",
        "BentoML, batch 4",
        "the same with adaptive batching of up to 4, base64 in JSON",
        _bentoml("Batching"),
        _bentoml_environment(4),
        body="json",
    ),
    Contestant(
        "bentoml-8",
        "BentoML, batch 8",
        "the same with adaptive batching of up to 8, base64 in JSON",
        _bentoml("Batching"),
        _bentoml_environment(8),
        body="json",
    ),
)

#: Ours, and of each peer the setting that was fastest when all of them were tried.
DEFAULT = ("ours", "naive", "litserve", "bentoml")


class UnknownContestant(Exception):
    """A name that nobody bears; the message lists those there are."""


def named(names: list[str]) -> list[Contestant]:
    """The contestants of these names, in this order. Raises UnknownContestant."""
    known = {contestant.name: contestant for contestant in EVERY}
    if unknown := [name for name in names if name not in known]:
        raise UnknownContestant(f"there is no contestant {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names]
