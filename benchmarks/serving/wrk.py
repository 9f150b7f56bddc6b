"""The closed loop: wrk keeps so many connections busy, each sending its next request when it has its answer.

wrk is light (a hundredth of a core at these rates), so that it takes little from a server on the same machine. Its
percentiles are corrected for coordinated omission: an answer that took more than twice the mean counts as
several, so they are a little above the plain ones, for every server alike.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.photos import Bodies

SCRIPT = Path(__file__).with_name("photos.lua")
#: An answer later than this is an error. Far beyond what any server here needs, so that percentiles are not cut off.
TIMEOUT_S = 30
#: At the start all connections ask at once and a server has to fill its queues before answers come at their rate; so long
#: they are not counted for it, of runs that are four times as long.
RAMP_S = 1.0
MARK = "SUMMARY "


class WrkFailed(Exception):
    """wrk is missing or ended badly; the message says what to do."""


@dataclass(frozen=True)
class Closed:
    """One run of a closed loop."""

    connections: int
    num_requests: int
    num_steady: int  #: answered with 200 after the ramp
    seconds: float
    ramp_s: float
    num_not_200: int
    num_broken: int  #: connections refused or cut off, answers that never came
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @property
    def per_second(self) -> float:
        """Requests answered with 200, a second, once the server was busy."""
        return self.num_steady / (self.seconds - self.ramp_s)

    @property
    def num_errors(self) -> int:
        return self.num_not_200 + self.num_broken


def find() -> str:
    """Where wrk is. Raises WrkFailed."""
    path = shutil.which("wrk")
    if path is None:
        raise WrkFailed(
            "wrk is not installed; it is a package of Debian, Ubuntu and Homebrew: apt-get install wrk, brew install wrk"
        )
    return path


def run(url: str, bodies: Bodies, *, connections: int, seconds: float) -> Closed:
    """Load ``url`` with so many connections for so long. Raises WrkFailed."""
    files = [str(path) for path in sorted(bodies.folder.glob("*.body"))]
    command = [find(), "--threads", "1", "--connections", str(connections), "--duration", f"{max(round(seconds), 1)}s"]
    ramp_s = min(RAMP_S, seconds / 4)
    command += ["--timeout", f"{TIMEOUT_S}s", "--script", str(SCRIPT), url]
    command += ["--", bodies.content_type, str(ramp_s), *files]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 2 * TIMEOUT_S, check=False)
    if ended.returncode:
        raise WrkFailed(f"wrk ended with {ended.returncode}: {(ended.stderr or ended.stdout).strip()[-400:]}")
    return parse(ended.stdout, connections, ramp_s)


def parse(output: str, connections: int, ramp_s: float = 0.0) -> Closed:
    """What our script printed at the end of wrk's output. Raises WrkFailed."""
    lines = [line.removeprefix(MARK) for line in output.splitlines() if line.startswith(MARK)]
    if not lines:
        raise WrkFailed(f"wrk printed no summary: {output.strip()[-400:]!r}")
    return Closed(connections=connections, ramp_s=ramp_s, **json.loads(lines[-1]))
