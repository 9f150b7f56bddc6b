"""The lanes: images of one or several shards from a queue through decoder and engine, whoever's they are.

On a CPU every lane is a thread that decodes a small batch and infers it: every core is busy either way, and an image
that stays on one is not handed over. On a GPU decoders feed one lane, so that it never waits. It knows neither catalog
nor store: a shard says itself what becomes of a row.
"""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np

from understudy import images
from understudy.cores import one_each, settle
from understudy.engine import Engine, Probabilities
from understudy.errors import ImageRefused
from understudy.images import Pixels

#: Batches that wait decoded before a GPU's lane: one that it takes next, and some against the decoders' bad moments.
DECODED_AHEAD = 4
#: Encoded bytes that wait for a lane, about, and images: what keeps the lanes busy while the next shard is claimed and
#: opened, and what a worker's memory is spent on besides its engine.
WAITING_BYTES, WAITING_IMAGES = 64 * 2**20, 2048


class Shard(Protocol):
    """Whose image it is."""

    @property
    def is_over(self) -> bool:
        """Whether its images need no work any more."""

    def keep(self, position: int, row: Probabilities) -> None:
        """Take one image's probabilities: (C,) float32."""

    def leave_out(self, position: int, code: str, detail: str) -> None:
        """Do without an image, for a reason."""

    def fail(self, error: Exception) -> None:
        """End without the rest of the images."""


class Encoded(NamedTuple):
    """One image that waits for its decoder."""

    shard: Shard
    position: int  #: in its shard
    data: bytes


class Decoded(NamedTuple):
    """One image that waits for the engine."""

    shard: Shard
    position: int
    pixels: Pixels  #: (size, size, 3) uint8


Item = TypeVar("Item", Encoded, Decoded)


class Feed(Generic[Item]):
    """A queue with room for so much: who puts waits for room, who takes waits for something."""

    def __init__(self, max_items: int, max_bytes: int | None = None) -> None:
        self._max_items, self._max_bytes = max_items, max_bytes
        self._items: deque[Item] = deque()
        self._num_bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, item: Item) -> bool:
        """False: nobody takes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_room())
            if self._is_closed:
                return False
            self._items.append(item)
            self._num_bytes += _size(item)
            self._changed.notify_all()
        return True

    def _has_room(self) -> bool:
        is_light = self._max_bytes is None or self._num_bytes < self._max_bytes
        return len(self._items) < self._max_items and is_light

    def take(self, num: int, *, is_patient: bool = False) -> list[Item]:
        """Up to ``num``, so many if ``is_patient`` and more come; none: it is closed and empty."""
        enough = min(num, self._max_items) if is_patient else 1
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._items) >= enough)
            taken = [self._items.popleft() for _ in range(min(num, len(self._items)))]
            self._num_bytes -= sum(map(_size, taken))
            self._changed.notify_all()
        return taken

    def close(self, *, is_in_vain: bool = False) -> None:
        """No more will be put; ``is_in_vain``: and nobody shall take what is there."""
        with self._changed:
            self._is_closed = True
            if is_in_vain:
                self._items.clear()
            self._changed.notify_all()


def _size(item: Encoded | Decoded) -> int:
    return len(item.data) if isinstance(item, Encoded) else item.pixels.nbytes


class Lanes:
    """The threads that decode and infer what is put into ``feed``. To be used in a ``with``: its end waits for all."""

    def __init__(self, engine: Engine, *, cores: int, max_batch: int) -> None:
        self.feed: Feed[Encoded] = Feed(WAITING_IMAGES, WAITING_BYTES)
        self._engine = engine
        self._decoded: Feed[Decoded] = Feed(DECODED_AHEAD * max_batch)
        self._max_batch = max_batch
        self._threads: list[Future[None]] = []
        self._is_one_lane = engine.provider != "cpu"
        self._pool = ThreadPoolExecutor(cores + 1, thread_name_prefix="lane")
        self._places: Sequence[int | None] = one_each(cores) or [None for _ in range(cores)]

    def __enter__(self) -> Self:
        if self._is_one_lane:
            decoders = [self._pool.submit(self._decode_on) for _ in self._places]
            self._threads = [*decoders, self._pool.submit(self._infer_on)]
            for each in decoders:
                each.add_done_callback(lambda _: self._close_if_done(decoders))
        else:
            self._threads = [self._pool.submit(self._work_on, place) for place in self._places]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.feed.close(is_in_vain=kind is not None)
        if kind is not None:
            self._decoded.close(is_in_vain=True)
        wait(self._threads)
        self._pool.shutdown()

    def _work_on(self, core: int | None) -> None:
        settle(core)  # the threads that claim, read and publish go before it, and take little
        while batch := self.feed.take(self._max_batch):
            self._infer([item for each in batch if (item := self._decode(each)) is not None])

    def _decode_on(self) -> None:
        while batch := self.feed.take(1):
            item = self._decode(batch[0])
            if item is not None:
                self._decoded.put(item)

    def _close_if_done(self, decoders: Sequence[Future[None]]) -> None:
        if all(each.done() for each in decoders):
            self._decoded.close()

    def _infer_on(self) -> None:
        while batch := self._decoded.take(self._max_batch, is_patient=True):
            self._infer(batch)

    def _decode(self, item: Encoded) -> Decoded | None:
        shard = item.shard
        if shard.is_over:
            return None
        try:
            return Decoded(shard, item.position, images.load(item.data, self._engine.card.preprocessing))
        except ImageRefused as refused:  # it was decoded once, at ingest: another version of the decoder
            shard.leave_out(item.position, refused.code, str(refused))
        except Exception as error:
            shard.fail(error)
        return None

    def _infer(self, batch: Sequence[Decoded]) -> None:
        batch = [item for item in batch if not item.shard.is_over]
        if not batch:
            return
        try:
            rows = self._engine.predict(np.stack([item.pixels for item in batch]))
        except Exception as error:
            for item in batch:
                item.shard.fail(error)
            return
        for item, row in zip(batch, rows, strict=True):
            try:
                item.shard.keep(item.position, row)
            except Exception as error:  # its lease is lost
                item.shard.fail(error)
