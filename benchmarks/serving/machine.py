"""The machine that figures were had on, in words."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

from benchmarks.serving import peer_environment, servers
from benchmarks.serving.work import available_cores

OURS = ("fastapi", "numpy", "onnxruntime", "onnxruntime-gpu", "pillow", "starlette", "uvicorn", "uvloop")
PEERS = ("bentoml", "fastapi", "litserve", "onnxruntime-gpu", "onnxruntime", "pillow", "starlette", "uvicorn", "uvloop")


def has_gpu() -> bool:
    """Whether an NVIDIA device can be opened."""
    return Path("/dev/nvidiactl").exists()


def describe() -> dict[str, str]:
    """What a reader needs to know to judge the figures."""
    described = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "revision": _revision(),
        "processor": _processor(),
        "cores": f"{available_cores()} that this process may use, of {os.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "GPU": "NVIDIA" if has_gpu() else "none",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": platform.python_version(),
        "ours": _versions(OURS),
        "load before the start": f"{os.getloadavg()[0]:.2f} (1 minute average; 0 is an idle machine)",
    }
    if peer_environment.is_current():
        described["peers"] = _peer_versions()
    return described


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        ended = subprocess.run(command, cwd=servers.ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return ended.stdout.strip() or "unknown"


def _versions(names: tuple[str, ...]) -> str:
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _peer_versions() -> str:
    folder = peer_environment.FOLDER / "lib" / f"python{platform.python_version().rpartition('.')[0]}" / "site-packages"
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions(path=[str(folder)])}
    return ", ".join(f"{name} {installed[name]}" for name in PEERS if name in installed)
