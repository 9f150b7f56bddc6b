"""The doctor: whether a machine, and what runs on it, is fit for Understudy, and what to do where it is not.

Each check looks at one thing and says what it saw. They run beside each other, each within its time: one that hangs is
a finding too. Nothing is made that is not there, and nothing is migrated; the store alone is written to, one small
object that is deleted again. What needs torch or a GPU's libraries runs in a process of its own.
"""

import enum
import importlib.util
import json
import os
import resource
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from understudy import cores, local, messages, settings
from understudy.catalog import Catalog
from understudy.client import DEFAULT_URL, Client, RequestFailed
from understudy.engine import has_gpu
from understudy.errors import NotReady, SettingsRefused
from understudy.records import Record
from understudy.settings import ServiceSettings, Settings, TrainerSettings, WorkerSettings
from understudy.store import Store

#: A check that only looks has this long; one that starts a process and loads torch, the other.
LOOK_S, LOAD_S = 15.0, 90.0
#: Less free disk than this is little, or too little: a generation's checkpoints and a shard have to fit.
LITTLE_DISK, NO_DISK = 5 * 2**30, 2**30
#: Less shared memory than this, and a trainer's batches are made by threads. Docker gives 64 MB.
LITTLE_SHARED_MEMORY = 2**28
#: The service keeps so many files open besides its connections.
OTHER_FILES = 256
#: Clocks that differ by this much make times in logs and the catalog hard to compare; leases are by the database's alone.
CLOCK_SKEW_S = 2.0
#: Two processes that write may damage a WAL database in a rare race, before this version of SQLite and but for these.
GOOD_SQLITE, MENDED_SQLITE = (3, 51, 3), {(3, 44): 6, (3, 50): 7}
#: File systems of other machines: SQLite's WAL needs memory that its processes share, and locks that hold.
NETWORK_DISKS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "glusterfs", "fuse.glusterfs", "lustre",
     "beegfs", "gpfs", "virtiofs", "fuse.s3fs", "fuse.gcsfuse"}
)  # fmt: skip
#: Needed where models are trained; a machine that only serves may do without.
TRAINING = frozenset({"torch", "torchvision", "timm", "scikit-learn", "tensorboard"})
#: Why a version that is out of our bounds is bad, where that is known.
KNOWN_BAD = {
    "celery": "5.7.0 ends its worker when Redis restarts under a task",
    "pillow": "older ones have memory faults in the decoders that read strangers' images",
    "python-multipart": "older ones can be made to work for ever by a crafted form",
}


class Verdict(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"  #: it works, but not as well or as safely as it could
    FAILED = "failed"  #: something will not work


class Finding(Record):
    """What one check saw, and what to do."""

    name: str
    verdict: Verdict
    seen: str
    advice: str | None = None  #: None: there is nothing to do
    seconds: float = 0.0


@dataclass(frozen=True)
class Patient:
    """What is examined: a machine by its settings, and a service if one answers."""

    settings: Settings
    url: str = DEFAULT_URL
    key: str | None = None
    is_url_given: bool = False  #: somebody named it, so it ought to answer
    is_up: bool = False  #: ``understudy up`` runs on the data folder
    root: Path = Path("/")  #: where proc, sys and dev are

    @classmethod
    def of(cls, chosen: Settings, url: str | None = None, key: str | None = None) -> "Patient":
        """Who is found at these settings; a ``url`` that is named ought to answer."""
        is_up = (chosen.data / "up.lock").exists() and local.is_running(chosen.data)
        return cls(chosen, url or DEFAULT_URL, key, is_url_given=url is not None, is_up=is_up)

    @property
    def has_gpu(self) -> bool:
        return has_gpu(self.root / "dev")


Said = tuple[Verdict, str] | tuple[Verdict, str, str | None]


@dataclass(frozen=True)
class Check:
    """One thing to look at. ``advice`` is for when looking itself goes wrong."""

    name: str
    look: Callable[[Patient], Said]
    advice: str
    timeout_s: float = LOOK_S


def examine(patient: Patient, checks: Sequence[Check] | None = None) -> Iterator[Finding]:
    """Every check's finding, in their order, as soon as it is known."""
    running = [(check, *_begin(check, patient)) for check in (CHECKS if checks is None else checks)]
    for check, thread, found, began in running:
        thread.join(max(0.0, began + check.timeout_s - time.monotonic()))
        yield found[0] if found else Finding(
            name=check.name, verdict=Verdict.FAILED, seen=f"no answer within {check.timeout_s:g} s",
            advice=check.advice, seconds=check.timeout_s,
        )  # fmt: skip


def _begin(check: Check, patient: Patient) -> tuple[threading.Thread, list[Finding], float]:
    found: list[Finding] = []
    began = time.monotonic()

    def look() -> None:
        try:
            verdict, seen, *rest = check.look(patient)
            advice = rest[0] if rest else None
        except Exception as error:  # whatever it is, it is what was seen
            said = next(iter(str(error).splitlines()), "")
            verdict, seen, advice = Verdict.FAILED, said or type(error).__name__, check.advice
        seconds = round(time.monotonic() - began, 3)
        found.append(Finding(name=check.name, verdict=verdict, seen=seen, advice=advice, seconds=seconds))

    thread = threading.Thread(target=look, name=f"check {check.name}", daemon=True)  # one that hangs is left behind
    thread.start()
    return thread, found, began


# -- programs and libraries ---------------------------------------------------------------------------


def python(patient: Patient) -> Said:
    """The interpreter."""
    return Verdict.OK, f"{sys.version.split()[0]} on {sys.platform}, {sys.executable}"


def libraries(patient: Patient) -> Said:
    """What is installed against what we need."""
    try:
        needed = [Requirement(line) for line in metadata.requires("understudy") or ()]
    except metadata.PackageNotFoundError:
        return Verdict.WARNING, "understudy itself is not installed", "install it: pip install -e . (or make test)"
    return judge_libraries(needed, {name: _version(name) for name in {each.name for each in needed} | _RIVALS})


_RIVALS = {"onnxruntime", "onnxruntime-gpu"}


def judge_libraries(needed: Sequence[Requirement], installed: Mapping[str, str | None]) -> Said:
    """Requirements against versions; None: not installed."""
    wanted = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    trains = installed.get("torch") is not None
    faults = []
    for each in wanted:
        version = installed.get(each.name)
        if version is None and (trains or each.name not in TRAINING):
            faults.append(f"{each.name} is not installed")
        elif version is not None and not each.specifier.contains(version, prereleases=True):
            why = f": {KNOWN_BAD[each.name]}" if each.name in KNOWN_BAD else ""
            faults.append(f"{each.name} {version} is not {each.specifier}{why}")
    if all(installed.get(name) for name in _RIVALS):
        faults.append("onnxruntime and onnxruntime-gpu lie over each other; uninstall both, then install one")
    if faults:
        return Verdict.FAILED, "; ".join(faults), "pip install --constraint constraints.txt -e .  (in the project)"
    shown = ("torch", "onnxruntime-gpu", "onnxruntime", "celery", "redis", "pillow", "sqlalchemy")
    versions = ", ".join(f"{name} {version}" for name in shown if (version := installed.get(name)))
    return Verdict.OK, f"{len(wanted)} as required; {versions}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def environment(patient: Patient) -> Said:
    """Whether every program would accept its UNDERSTUDY_ variables."""
    faults = []
    for kind in (ServiceSettings, WorkerSettings, TrainerSettings):
        try:
            settings.read(kind)
        except SettingsRefused as error:
            faults.append(str(error))
    if faults:
        return Verdict.FAILED, "; ".join(dict.fromkeys(faults)), "correct these variables of the environment"
    return Verdict.OK, "the settings in it are good"


# -- the machine --------------------------------------------------------------------------------------


def gpu(patient: Patient) -> Said:
    """GPUs and their driver, as NVIDIA's own program sees them."""
    if not patient.has_gpu:
        return Verdict.OK, "none; everything runs on the CPU"
    program = shutil.which("nvidia-smi")
    if program is None:
        advice = "in a container, allow the driver capability `utility` to see it"
        return Verdict.WARNING, "a GPU's device is there, nvidia-smi is not: its driver is not known", advice
    wanted = "--query-gpu=name,driver_version,memory.total"
    asked = subprocess.run([program, wanted, "--format=csv,noheader"], capture_output=True, text=True, timeout=LOOK_S)
    said = [line.strip() for line in (asked.stdout or asked.stderr).splitlines() if line.strip()]
    if asked.returncode:
        return Verdict.FAILED, "; ".join(said[:2]) or "nvidia-smi failed", "reinstall the NVIDIA driver, or restart"
    return Verdict.OK, "; ".join(said)


#: A real model of a few hundred bytes, loaded and proved as the service does it.
_SESSION = """
import json, sys
from understudy import engine, testing
artifact, card = testing.tiny_artifact(("a", "b"))
loaded = engine.load(artifact, card, provider=sys.argv[1])
print(json.dumps({"provider": loaded.provider, "fallback": loaded.fallback}))
"""
_TORCH = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
device = "cuda" if names else "cpu"
total = float((torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)).sum())
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "names": names, "total": total}))
"""


def _child(code: str, *words: str) -> dict[str, Any]:
    """What a process of its own prints: what it imports may take long, or end it."""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=LOAD_S)
    if done.returncode:
        last = next(iter(done.stderr.strip().splitlines()[-1:]), f"exit code {done.returncode}")
        raise NotReady(last)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def onnxruntime(patient: Patient) -> Said:
    """A real session of ONNX Runtime: what it lists, it cannot always use."""
    said = _child(_SESSION, settings.read(ServiceSettings).provider)
    if said["fallback"]:
        advice = f"{said['fallback']}; see docs/engine.md"
        return Verdict.WARNING, f"a real session runs on {said['provider']} although there is a GPU", advice
    return Verdict.OK, f"a real session runs on {said['provider']}"


def torch(patient: Patient) -> Said:
    """PyTorch's view, where it is installed."""
    if importlib.util.find_spec("torch") is None:
        return Verdict.OK, "not installed: this machine does not train"
    said = _child(_TORCH)
    seen = f"{said['version']} computes on {', '.join(said['names']) or 'the CPU'}"
    if patient.has_gpu and not said["names"]:
        advice = f"this build is for CUDA {said['cuda']}; install one that fits the driver, or update the driver"
        return Verdict.WARNING, f"{seen} although there is a GPU", advice
    return Verdict.OK, seen


def cpu(patient: Patient) -> Said:
    """Cores that may be used against those that would be tried."""
    available, quota, threads = cores.available(patient.root), cores.quota_cores(patient.root), settings.threads_asked()
    seen = f"{available} of {os.cpu_count()} cores" + (f", by a quota of {quota:g}" if quota is not None else "")
    if quota is not None and quota < 1:
        return Verdict.WARNING, seen, "give the container a whole core at least: with less every program stands still"
    if threads is not None and threads > available:
        advice = f"set it to {available} or leave it out: more threads than cores wait for each other"
        return Verdict.WARNING, f"{seen}, but OMP_NUM_THREADS={threads}", advice
    if (children := settings.read(WorkerSettings).concurrency) > available:
        advice = "more labeling processes than cores are no faster, unless each has a GPU"
        return Verdict.WARNING, f"{seen}, but UNDERSTUDY_CONCURRENCY={children}", None if patient.has_gpu else advice
    return Verdict.OK, seen


def open_files(patient: Patient) -> Said:
    """The limit on open files: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.read(ServiceSettings).max_connections + OTHER_FILES
    if most == resource.RLIM_INFINITY or most >= wanted:
        return Verdict.OK, "no limit" if most == resource.RLIM_INFINITY else f"up to {most:,}"
    advice = f"raise it to {wanted:,} (ulimit -n, LimitNOFILE, ulimits), or lower UNDERSTUDY_MAX_CONNECTIONS"
    return Verdict.WARNING, f"up to {most:,}: the service takes only {max(1, most - OTHER_FILES):,} connections", advice


def shared_memory(patient: Patient) -> Said:
    """Where the processes that make a student's batches hand them over."""
    folder = patient.root / "dev" / "shm"
    if not folder.is_dir():
        return Verdict.OK, "none of its own on this system"
    total = shutil.disk_usage(folder).total
    if total < LITTLE_SHARED_MEMORY:
        advice = "give the container more (shm_size: 1gb), or the trainer makes its batches with threads"
        return Verdict.WARNING, _size(total), advice
    return Verdict.OK, _size(total)


def data(patient: Patient) -> Said:
    """The data folder: there or to be made, writable."""
    folder = patient.settings.data
    there = _nearest(folder)
    if not there.is_dir():
        return Verdict.FAILED, f"{there} is in the way: it is no folder", "name another folder with --data"
    if folder != there:
        can = os.access(there, os.W_OK | os.X_OK)
        seen = f"{folder} is not there yet; {there} {'can' if can else 'cannot'} be written to"
        return (Verdict.OK, seen) if can else (Verdict.FAILED, seen, "name another folder with --data")
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(4096))
    return Verdict.OK, f"{folder}, {'in use by `understudy up`' if patient.is_up else 'nothing runs on it'}"


def disk(patient: Patient) -> Said:
    """Space on the disk of the data folder."""
    folder = _nearest(patient.settings.data)
    usage, nodes = shutil.disk_usage(folder), os.statvfs(folder)
    seen = f"{_size(usage.free)} of {_size(usage.total)} free"
    advice = "free some, or name a folder on another disk: an upload needs its size twice, a shard up to 256 MB"
    if usage.free < NO_DISK or (nodes.f_files and nodes.f_favail < 1000):
        return Verdict.FAILED, f"{seen}, {nodes.f_favail:,} files", advice
    if usage.free < LITTLE_DISK:
        return Verdict.WARNING, seen, advice
    return Verdict.OK, seen


def _nearest(folder: Path) -> Path:
    """The folder itself, or what there is of the way to it."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.0f} MiB"


# -- what runs on it ----------------------------------------------------------------------------------


def database(patient: Patient) -> Said:
    """The catalog: reachable, its schema, and what SQLite needs to be safe."""
    file = _sqlite_file(patient.settings)
    if file is not None and not file.exists():
        return Verdict.OK, f"no catalog yet: {file} is made at the first start"
    with closing(Catalog(patient.settings.catalog_url)) as catalog:
        look = catalog.look()
    seen = f"{look.server}, schema {look.revision or 'not made'}"
    if look.is_newer:
        advice = "upgrade this program: a newer one has migrated the catalog"
        return Verdict.FAILED, f"{seen}, which this program does not know", advice
    if file is not None:
        return _judge_sqlite(seen, look.journal, file, look.is_current, patient.root)
    return (Verdict.OK, seen) if look.is_current else (Verdict.WARNING, seen, _MIGRATES)


_MIGRATES = "the next program that starts migrates it; back it up before"


def _judge_sqlite(seen: str, journal: str | None, file: Path, is_current: bool, root: Path) -> Said:
    seen = f"{seen}, journal {journal}"
    kind = disk_of(file, root)
    if kind in NETWORK_DISKS:
        advice = "move the data folder to a disk of this machine, or use PostgreSQL (docs/scale.md)"
        return Verdict.FAILED, f"{seen}, on {kind}, where SQLite gets damaged", advice
    if journal != "wal":
        return Verdict.FAILED, seen, "its disk does not let SQLite write ahead; move the data folder to another"
    if not is_current:
        return Verdict.WARNING, seen, _MIGRATES
    if not is_good_sqlite(sqlite3.sqlite_version_info):
        advice = (
            "SQLite before 3.51.3 can, very rarely, damage a database that several processes write: keep backups, run a "
            "Python with a newer SQLite, or use PostgreSQL"
        )
        return Verdict.WARNING, seen, advice
    return Verdict.OK, seen


def is_good_sqlite(version: tuple[int, ...]) -> bool:
    """Whether a SQLite has not, or no longer, the WAL-reset bug (sqlite.org/wal.html)."""
    major, minor, patch = version[:3]
    return version[:3] >= GOOD_SQLITE or patch >= MENDED_SQLITE.get((major, minor), patch + 1)


def _sqlite_file(chosen: Settings) -> Path | None:
    parts = urlsplit(chosen.catalog_url)
    return Path(parts.path.removeprefix("/")) if parts.scheme.startswith("sqlite") else None


def disk_of(path: Path, root: Path = Path("/")) -> str | None:
    """The kind of file system that a path lies on, as Linux names it. None: it does not say."""
    try:
        lines = (root / "proc" / "self" / "mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    kind, longest = None, -1
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = before.split()[4].replace("\\040", " ")
        if path.resolve().is_relative_to(mount) and len(mount) >= longest:
            kind, longest = after.split()[0], len(mount)
    return kind


def clock(patient: Patient) -> Said:
    """This machine's clock against the database's."""
    file = _sqlite_file(patient.settings)
    if file is not None:
        return Verdict.OK, "the database's clock is this machine's"
    with closing(Catalog(patient.settings.catalog_url)) as catalog:
        catalog.look()  # the first one connects, too
        before = time.time()
        theirs = catalog.look().clock
        skew = theirs - (before + time.time()) / 2
    if abs(skew) > CLOCK_SKEW_S:
        advice = "let both keep time by NTP (chrony, systemd-timesyncd): times in logs and answers cannot be compared"
        return Verdict.WARNING, f"the database is {skew:+.1f} s off this machine", advice
    return Verdict.OK, f"the database is {skew:+.2f} s off this machine"


def redis(patient: Patient) -> Said:
    """The broker: reachable, and keeping what it was given."""
    url = patient.settings.broker_url
    if url.startswith("redis+socket:") and not patient.is_up and not _listens(urlsplit(url).path):
        program = local.redis_server()
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=LOOK_S, check=True).stdout
        version = next((word[2:] for word in said.split() if word.startswith("v=")), "?")
        return Verdict.OK, f"not running; `understudy up` starts the bundled {version}"
    app = messages.celery_app(url)
    try:
        return judge_redis(messages.look(app))
    finally:
        app.close()


def _listens(path: str) -> bool:
    """Whether somebody does on a Unix socket: one that was killed leaves it behind."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(LOOK_S)
        return probe.connect_ex(path) == 0


def judge_redis(info: Mapping[str, Any]) -> Said:
    """What Redis says of itself."""
    policy, most, used = info.get("maxmemory_policy"), int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    seen = f"{info.get('redis_version')}, {policy}, {_size(used)}" + (f" of {_size(most)}" if most else "")
    seen += ", appends to disk" if info.get("aof_enabled") else ", keeps nothing on disk"
    if policy not in (None, "noeviction"):
        advice = "set maxmemory-policy noeviction: a queue that evicts loses messages without a word"
        return (Verdict.FAILED if most else Verdict.WARNING), seen, advice
    if info.get("aof_enabled") and info.get("aof_last_write_status", "ok") != "ok":
        return Verdict.FAILED, f"{seen}, which fails", "look at Redis' log; most often its disk is full"
    if most and used > 0.9 * most:
        return Verdict.FAILED, seen, "give it more memory (maxmemory): a full one takes no messages"
    if not info.get("aof_enabled"):
        advice = "set appendonly yes: without it a restart forgets the queue, and work waits until it is rung for again"
        return Verdict.WARNING, seen, advice
    return Verdict.OK, seen


def store(patient: Patient) -> Said:
    """The store: writes, reads and deletes a small object."""
    url = patient.settings.store_url
    if url.startswith("file:") and not patient.settings.data.exists():
        return Verdict.OK, "no store yet: its folder is made at the first start"
    opened, key, began = Store(url), f"doctor/{secrets.token_hex(8)}", time.monotonic()
    opened.put(key, b"probe")
    same = opened.get(key) == b"probe"
    opened.delete(key)
    if not same or opened.exists(key):
        return Verdict.FAILED, f"{url} does not give back what was written", "it is no store to trust; use another"
    return Verdict.OK, f"{url}: written, read and deleted in {1000 * (time.monotonic() - began):.0f} ms"


def service(patient: Patient) -> Said:
    """The service: whether it answers, what it serves, and whether it takes the key."""
    with Client(patient.url, key=patient.key, timeout_s=LOOK_S / 3, patience_s=0) as client:
        try:
            ready = client.readiness()
        except RequestFailed as error:
            if patient.is_url_given or patient.is_up or error.code != "not_connected":
                return Verdict.FAILED, error.detail, "look at its log; --url names another"
            return Verdict.OK, f"nothing answers at {patient.url}; `understudy up` starts it"
        seen = f"{patient.url} serves {ready.get('model') or 'nothing'}"
        try:
            client.jobs(limit=1)
        except RequestFailed as error:
            if error.code != "key_missing":
                return Verdict.FAILED, f"{patient.url} answers, but {error.detail}", "name another key with --key"
            seen += " to whoever has an API key"
    if ready.get("refused"):
        return Verdict.FAILED, f"{seen}; it could not load {ready['refused']}", "look at its log; a rollback mends it"
    if ready.get("stopping"):
        return Verdict.WARNING, f"{seen}; it is about to stop", None
    if not ready.get("model"):
        return Verdict.WARNING, seen, "train a first teacher: `understudy init --labeled FOLDER`"
    if ready.get("fallback"):
        return Verdict.WARNING, f"{seen} on {ready['provider']}", str(ready["fallback"])
    return Verdict.OK, f"{seen} on {ready['provider']} in {ready['variant']}"


CHECKS = (
    Check("python", python, "run it with Python 3.11 or later"),
    Check("libraries", libraries, "install the project again"),
    Check("environment", environment, "correct the variables of the environment"),
    Check("gpu", gpu, "look whether `nvidia-smi` answers; if it hangs, restart the machine"),
    Check("onnxruntime", onnxruntime, "install onnxruntime-gpu (or onnxruntime) again; see docs/engine.md", LOAD_S),
    Check("torch", torch, "install torch and torchvision again: the trainer needs them", LOAD_S),
    Check("cpu", cpu, "look at /proc/self/cgroup"),
    Check("open files", open_files, "look at `ulimit -n`"),
    Check("shared memory", shared_memory, "look at `df /dev/shm`"),
    Check("data", data, "name a folder that can be written to with --data"),
    Check("disk", disk, "look whether the disk is mounted and answers: `df`"),
    Check("database", database, "start the database, or correct UNDERSTUDY_CATALOG_URL"),
    Check("clock", clock, "start the database, or correct UNDERSTUDY_CATALOG_URL"),
    Check("redis", redis, "start Redis, or correct UNDERSTUDY_BROKER_URL"),
    Check(
        "store", store, "correct UNDERSTUDY_STORE_URL and its credentials, or look whether its disk can be written to"
    ),
    Check("service", service, "start it with `understudy up`, or name another with --url"),
)
