"""How many cores a process may really use: those it may run on, less what a container's CPU quota forbids.

A container with a quota of two cores on a machine of sixty-four sees sixty-four, and a pool of that many
threads spends its quota at the beginning of every period and then stands still.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")
#: Where the version 1 controller of CPU time may be mounted.
V1_FOLDERS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def available(root: Path = ROOT) -> int:
    """Cores that this process may use: by its affinity and by its control groups' quotas, at least 1.

    A quota of 1.5 cores is 1: two threads would both be stopped for a quarter of the time.
    ``root`` is where ``proc`` and ``sys`` are.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cores(root)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def quota_cores(root: Path = ROOT) -> float | None:
    """The smallest CPU quota of this process' control groups and those above them, in cores; None: there is none."""
    return min(_quotas(root), default=None)


def one_each(num_threads: int) -> list[int] | None:
    """A core of its own for each of so many threads; None where there are not exactly as many as this process may use.

    With fewer threads than cores the system finds the free ones; with a quota or with several processes they would
    all crowd on the first ones.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return allowed if len(allowed) == num_threads else None


def settle(core: int | None) -> None:
    """Make the calling thread one that computes: it stays on ``core``, and threads that only hand work over go before it.

    Both only spare the caches; a system that cannot do it does without. None: any core.
    """
    if not hasattr(os, "sched_setscheduler"):
        return
    with suppress(OSError):  # forbidden in some containers
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        if core is not None:
            os.sched_setaffinity(0, {core})


def _quotas(root: Path) -> Iterator[float]:
    mounts = root / "sys" / "fs" / "cgroup"
    for controllers, group in _groups(root):
        if not controllers:
            for folder in (mounts, mounts / "unified"):
                yield from (q for path in _upwards(folder, group) if (q := _v2_quota(path)) is not None)
        elif "cpu" in controllers.split(","):
            for name in V1_FOLDERS:
                yield from (q for path in _upwards(mounts / name, group) if (q := _v1_quota(path)) is not None)


def _groups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """The control groups of this process: (controllers, path); version 2 has no list of controllers."""
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        yield controllers, PurePosixPath(group.lstrip("/"))


def _upwards(mount: Path, group: PurePosixPath) -> Iterator[Path]:
    """A group's folder and those above it, up to the mount: a limit of any of them holds.

    In a container the group is often named as the host sees it, and only the mount itself is there.
    """
    if ".." not in group.parts:
        yield from (mount / folder for folder in (group, *group.parents) if folder != PurePosixPath())
    yield mount


def _v2_quota(group: Path) -> float | None:
    """``cpu.max`` says "max 100000" or "150000 100000": microseconds of CPU time in each period of so many."""
    words = _read(group / "cpu.max").split()
    return _ratio(words[0], words[1]) if len(words) == 2 else None


def _v1_quota(group: Path) -> float | None:
    return _ratio(_read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    """-1, "max" or nothing at all is no quota."""
    if not quota.isdecimal() or not period.isdecimal() or not int(period):
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
