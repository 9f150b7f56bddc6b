"""Pictures at the speed of the model: encoded bytes in a store → noised pixels, made by processes beside the trainer.

What a request gives is a function of the request alone, so it does not matter which process answers it, or whether
it is asked again because a process was killed. It knows neither labels nor steps; those are ``trainer.data``'s.
"""

import logging
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from trainer.noise import Noise
from understudy import images
from understudy.errors import ImageRefused, Refused
from understudy.images import Picture, Pixels
from understudy.records import ShardManifest
from understudy.shards import read_manifest
from understudy.store import Store

log = logging.getLogger(__name__)

#: Pictures are kept decoded until they take this much in all processes together: 85,000 of 64 px, or 3,500 of 320 px.
CACHE_BYTES = 2**30
#: Fewer cores than this: threads. On two cores processes took 4 to 8 % more CPU time an image (photos of 400 × 533,
#: noised at 64 px), 0.32 GB each, and seconds to start; what threads lose to the interpreter's lock is less than a core.
MIN_CORES = 3
#: A run of fewer noised images is over before processes have paid for their start.
MIN_IMAGES = 50_000
#: More processes than this have always made enough for one device, and each has torch in memory.
MAX_WORKERS = 16
#: Requests that each process has before it: one in work and one to go on with.
REQUESTS_EACH = 2
#: Killed processes that are replaced in one run; the next one ends it, for something is wrong with the machine.
MAX_DEATHS = 3
#: Where what processes share lies. Docker gives it 64 MB unless told otherwise, and a write beyond is a bus error.
SHARED_MEMORY = Path("/dev/shm")

#: What the loader says of a process that is gone. By then a picture of its may be gone, too: then the system says it.
_DEATH = re.compile(r"DataLoader worker.*(exited unexpectedly|is killed by signal)", re.DOTALL)


class Place(NamedTuple):
    """Where the encoded bytes of an image lie."""

    shard: str
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class Request:
    """Some images of a batch, and what their noise is drawn from: the seed, and each one's number in the batch."""

    seed: str
    places: tuple[Place, ...]  # N
    numbers: tuple[int, ...] | None = None  #: N; None: 0 and up


class WorkersDied(RuntimeError):
    """Data worker processes were killed again and again."""


# -- one picture ----------------------------------------------------------------------------------


@dataclass
class Pictures:
    """Decoded pictures by their place, kept in memory while there is room. Threads may share it.

    Raises Refused with the code shard_missing or shard_damaged, naming the shard and the image.
    """

    store: Store
    noise: Noise
    room: int = CACHE_BYTES
    _kept: dict[Place, Picture] = field(default_factory=dict)

    def __getitem__(self, place: Place) -> Picture:
        kept = self._kept.get(place)
        if kept is not None:
            return kept
        picture = self.noise.working_copy(self._decoded(place))
        num_bytes = 3 * picture.width * picture.height
        if num_bytes <= self.room:
            self.room -= num_bytes
            self._kept[place] = picture
        return picture

    def made(self, request: Request) -> Pixels:
        """The noised images of a request: (N, size, size, 3) uint8."""
        numbers = range(len(request.places)) if request.numbers is None else request.numbers
        noised = [self.noise(self[p], f"{request.seed}/{i}") for i, p in zip(numbers, request.places, strict=True)]
        return np.stack(noised)

    def _decoded(self, place: Place) -> Picture:
        try:
            data = self.store.get_range(place.shard, place.offset, place.num_bytes)
        except FileNotFoundError as error:
            raise Refused(
                f"shard {place.shard} is not in the store: its bucket was deleted, or a file was lost; "
                f"restore it, or open another generation without it",
                code="shard_missing",
            ) from error
        try:
            return images.open_rgb(data)
        except ImageRefused as error:
            raise Refused(
                f"shard {place.shard} is damaged: image {self._name(place)}, {place.num_bytes} bytes from "
                f"{place.offset}, no longer decodes ({error}); restore the shard, or open another generation without it",
                code="shard_damaged",
            ) from error

    def _name(self, place: Place) -> str:
        members = manifest_of(self.store, place.shard).members
        return next((member.sha256 for member in members if member.offset == place.offset), "without a name")


def manifest_of(store: Store, shard: str) -> ShardManifest:
    """A shard's manifest. Raises Refused with the code shard_missing or shard_damaged."""
    try:
        return read_manifest(store, shard)
    except FileNotFoundError as error:
        raise Refused(
            f"shard {shard} has no manifest in the store: its bucket was deleted, or a file was lost; "
            f"restore it, or open another generation without it",
            code="shard_missing",
        ) from error
    except ValueError as error:  # pydantic's is one
        raise Refused(
            f"the manifest of shard {shard} is damaged ({str(error).splitlines()[0]}); "
            f"restore it, or open another generation without it",
            code="shard_damaged",
        ) from error


# -- many, in processes ---------------------------------------------------------------------------


def num_workers(asked: int, *, cores: int, num_images: int, batch_bytes: int, shared: Path = SHARED_MEMORY) -> int:
    """How many processes make a run's pictures; 0: threads of the trainer do.

    ``asked`` is the setting, -1 to decide by the cores; one core is the model's. A run of few images starts
    none; nor does one whose batches do not fit into the machine's shared memory, which is said in the log.
    """
    wanted = asked if asked >= 0 else cores - 1 if cores >= MIN_CORES and num_images >= MIN_IMAGES else 0
    wanted = min(wanted, MAX_WORKERS)
    needed = (wanted * REQUESTS_EACH + 1) * batch_bytes
    if wanted and shared.is_dir() and (free := shutil.disk_usage(shared).free) < needed:
        log.warning(
            "%s has %d MB free, and %d processes that make batches need %d: threads make them, more slowly; "
            "give the container more (shm_size), or set UNDERSTUDY_DATA_WORKERS",
            shared, free // 2**20, wanted, needed // 2**20 + 1,
        )  # fmt: skip
        return 0
    return wanted


@dataclass
class _Making(Dataset[Any]):
    """What a process answers requests with; its store is opened in the process."""

    store_url: str
    noise: Noise
    room: int
    pictures: Pictures | None = None

    def __getitem__(self, request: Request) -> Pixels | Refused:
        if self.pictures is None:
            self.pictures = Pictures(Store(self.store_url), self.noise, self.room)
        try:
            return self.pictures.made(request)
        except Refused as refusal:  # as an answer: raised here, it would reach the trainer as a traceback in words
            return Refused(str(refusal), code=refusal.code)


def made_by_processes(
    store_url: str,
    noise: Noise,
    requests: Callable[[int], Request],
    first: int,
    last: int,
    num_workers: int,
    *,
    max_deaths: int = MAX_DEATHS,
) -> Iterator[Pixels]:
    """The answers to the requests from ``first`` to ``last`` (excluded), in order, made ahead by so many processes.

    A process that was killed is replaced, and what it had before it asked for again. Raises Refused as ``Pictures``
    does, and WorkersDied. The processes end with this generator, and within seconds of the trainer's own death.
    """
    making = _Making(store_url, noise, CACHE_BYTES // num_workers)
    at, num_deaths = first, 0
    while at < last:
        asked = (requests(number) for number in range(at, last))
        try:
            for pixels in _answers(making, asked, num_workers):
                at += 1
                yield pixels
        except (RuntimeError, OSError, EOFError) as error:
            if not _is_death(error):
                raise
            num_deaths += 1
            if num_deaths > max_deaths:
                raise WorkersDied(
                    f"data worker processes were killed {num_deaths} times in this run ({_first_line(error)}); the "
                    f"machine may be short of memory: lower UNDERSTUDY_DATA_WORKERS={num_workers}, 0 for threads"
                ) from error
            log.warning("a data worker process was killed (%s): all are started again", _first_line(error))


def _answers(making: _Making, requests: Iterator[Request], num_workers: int) -> Iterator[Pixels]:
    loader = DataLoader(
        making,
        batch_size=None,  # a request is a whole batch
        sampler=requests,
        num_workers=num_workers,
        prefetch_factor=REQUESTS_EACH,
        multiprocessing_context="spawn",  # a fork of a process with threads and a GPU may never come to itself
        worker_init_fn=_begin,
        collate_fn=_as_tensor,
        generator=torch.Generator(),  # else it draws from the process's own, which fresh weights come from
    )
    answers: Any = _begun(loader)
    try:
        for answer in answers:
            if isinstance(answer, Refused):
                raise answer
            yield answer.numpy()
    finally:
        answers._shutdown_workers()  # now, and not when the last traceback that knows it is forgotten


def _begun(loader: Any) -> Any:
    """The loader at work. It notices within 5 s that a process is gone.

    torch would have the trainer's main thread raise wherever it is, in the middle of a checkpoint too.
    """
    before = signal.getsignal(signal.SIGCHLD)
    answers = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return answers


def _begin(number: int) -> None:
    """In a process, before its first request: Ctrl-C is the trainer's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_tensor(answer: Any) -> Any:
    """Pixels as a tensor, which goes through shared memory."""
    return answer if isinstance(answer, Refused) else torch.from_numpy(answer)


def _is_death(error: Exception) -> bool:
    """Whether the loader failed because a process is gone, and not because of what a process said."""
    return bool(_DEATH.search(str(error))) or (
        isinstance(error, OSError | EOFError) and not str(error).startswith("Caught ")
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
