"""The swap: which engine serves, and how the next one takes its place.

A new champion is loaded, verified and warmed beside the old one; then one assignment makes it serve.
Requests that began on the old engine end on it, and the last one frees it. A champion that cannot be
loaded leaves the old one serving, and says why.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from service import memory
from service.batcher import Batcher
from understudy.errors import NoChampion, UnderstudyError

log = logging.getLogger(__name__)

#: A champion that could not be loaded is tried again after this long: the store may be back by then.
RETRY_AFTER_S = 10.0


@dataclass(eq=False)
class Lease:
    """What holds an engine: one for all who hold it."""

    batcher: Batcher
    num_leases: int = 0
    drained: asyncio.Event = field(default_factory=asyncio.Event)


class EngineSlot:
    """Holds the engine that serves. Used from one event loop, so an assignment is all the locking there is."""

    def __init__(self) -> None:
        self._serving: Lease | None = None

    @property
    def version(self) -> str | None:
        """The version that new requests get; None before the first."""
        return self._serving.batcher.engine.version if self._serving else None

    @property
    def num_waiting(self) -> int:
        return self._serving.batcher.num_waiting if self._serving else 0

    def take(self) -> Lease:
        """The engine of this moment, kept until it is given back, whatever is swapped meanwhile. Raises NoChampion."""
        serving = self._serving
        if serving is None:
            raise NoChampion(
                "no model serves yet: send a labeled set with `understudy init` or POST /labeled and wait for "
                "generation 0 to be promoted; GET /generations shows how far it is"
            )
        serving.num_leases += 1
        return serving

    def give_back(self, lease: Lease) -> None:
        """The last lease of an engine that serves no more frees it."""
        lease.num_leases -= 1
        if lease.num_leases == 0 and lease is not self._serving:
            lease.drained.set()

    @contextmanager
    def lease(self) -> Iterator[Batcher]:
        """The same for a block."""
        lease = self.take()
        try:
            yield lease.batcher
        finally:
            self.give_back(lease)

    def swap(self, batcher: Batcher) -> asyncio.Event:
        """Serve new requests with ``batcher``. The event is set when the old engine has ended its last request."""
        old, self._serving = self._serving, Lease(batcher)
        if old is None:
            drained = asyncio.Event()
            drained.set()
            return drained
        if old.num_leases == 0:
            old.drained.set()
        return old.drained


class ChampionFollower:
    """Keeps a slot on the champion: asks for its version, loads a new one, swaps."""

    def __init__(
        self,
        slot: EngineSlot,
        *,
        current: Callable[[], Awaitable[str | None]],
        load: Callable[[str], Awaitable[Batcher]],
        on_swap: Callable[[str, bool], None] = lambda version, ok: None,
    ) -> None:
        self._slot = slot
        self._current, self._load, self._on_swap = current, load, on_swap
        self.refused: dict[str, str] = {}  #: versions that could not be loaded, and why
        self._not_before: dict[str, float] = {}
        self._freeing: set[asyncio.Task[None]] = set()

    async def step(self) -> None:
        """Look once, and swap if there is a new champion that loads."""
        version = await self._current()
        if version is None or version == self._slot.version:
            return
        now = asyncio.get_running_loop().time()
        if now < self._not_before.get(version, 0.0):
            return
        try:
            batcher = await self._load(version)
        except (UnderstudyError, OSError) as error:
            self.refused[version] = str(error)
            self._not_before[version] = now + RETRY_AFTER_S
            self._on_swap(version, False)
            log.error("champion %s cannot be served, %s goes on: %s", version, self._slot.version, error)
            return
        self.refused.pop(version, None)
        old = self._slot.version
        drained = self._slot.swap(batcher)
        self._on_swap(version, True)
        log.info("serving %s instead of %s", version, old)
        freeing = asyncio.create_task(_free(drained))
        self._freeing.add(freeing)
        freeing.add_done_callback(self._freeing.discard)

    async def follow(self, poll_s: float) -> None:
        """Look for ever. Whatever fails (the catalog is away), the engine that serves goes on serving."""
        is_away = False
        while True:
            try:
                await self.step()
                is_away = False
            except Exception:
                if not is_away:  # said once, and not at every look
                    log.exception("could not look for a new champion; %s goes on serving", self._slot.version)
                is_away = True
            await asyncio.sleep(poll_s)


async def _free(drained: asyncio.Event) -> None:
    """When the last request has left the old engine, give its memory back to the system."""
    await drained.wait()
    await asyncio.sleep(0)  # for that request to let go of it
    await run_in_threadpool(memory.release)
