"""The machine that figures were had on, in words."""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

from understudy import cores

ROOT = Path(__file__).resolve().parents[1]


def has_gpu() -> bool:
    """Whether an NVIDIA device can be opened."""
    return Path("/dev/nvidiactl").exists()


def describe(packages: Sequence[str]) -> dict[str, str]:
    """What a reader needs to know to judge the figures, with the versions of these packages as far as they are here."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "revision": _revision(),
        "processor": _processor(),
        "cores": f"{cores.available()} that this process may use, of {os.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "GPU": "NVIDIA" if has_gpu() else "none",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": platform.python_version(),
        "ours": versions(packages),
        "load before the start": f"{os.getloadavg()[0]:.2f} (1 minute average; 0 is an idle machine)",
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return ended.stdout.strip() or "unknown"


def versions(packages: Sequence[str], path: Sequence[str] = tuple(sys.path)) -> str:
    """The versions of some packages, as far as they are installed there."""
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions(path=list(path))}
    return ", ".join(f"{name} {installed[name]}" for name in packages if name in installed)
