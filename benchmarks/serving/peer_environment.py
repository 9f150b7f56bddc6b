"""The peers' own virtual environment, made at the first run: their requirements are none of Understudy's."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import machine

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
FOLDER = HERE / ".venv"
#: What makes a difference to the figures.
PACKAGES = (
    "bentoml",
    "fastapi",
    "litserve",
    "onnxruntime-gpu",
    "onnxruntime",
    "pillow",
    "starlette",
    "uvicorn",
    "uvloop",
)


class InstallationFailed(Exception):
    """pip could not install the peers; the message ends with what it said."""


def python(folder: Path = FOLDER) -> Path:
    """The environment's interpreter."""
    return folder / "bin" / "python"


def is_current(folder: Path = FOLDER) -> bool:
    """Whether it was made from the requirements as they are now."""
    stamp = _stamp(folder)
    return python(folder).exists() and stamp.exists() and stamp.read_text() == _wanted()


def make(folder: Path = FOLDER) -> None:
    """Install the requirements; twice is once. Raises InstallationFailed."""
    if is_current(folder):
        return
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(python(folder)), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run([*pip, "--requirement", str(REQUIREMENTS)])
    _stamp(folder).write_text(_wanted())


def versions(folder: Path = FOLDER) -> str:
    """What was installed."""
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    return machine.versions(PACKAGES, [str(packages)])


def _stamp(folder: Path) -> Path:
    return folder / "installed"


def _wanted() -> str:
    return f"{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()} {sys.version_info[:3]}"


def _run(command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ended.returncode:
        raise InstallationFailed(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr.strip()[-1000:]}")
