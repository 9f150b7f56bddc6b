"""The decoding children of a worker: images go to them in batches, and their answers come back in order.

As many as there are cores, each started when there is work for it. A child is a program of its own, not a fork of
ours: ours has threads and secrets, and is itself a pool's child that may have none. What one image does to
its decoder is that image's answer (``worker/decoding.py``); if a whole program dies, its work is done again.
"""

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import understudy
from understudy import cores
from understudy.images import FORMATS, Facts
from understudy.records import Problem
from worker.decoding import HALF_BYTES, IDLE, MAX_IMAGES, NUM_HALVES, REGION_BYTES, Limits, Region

#: Images handed over together are about so heavy at most: enough to hide the way there, little to hold.
BATCH_BYTES = 1 * 2**20
#: What a batch may wait for its child beyond what its images may take, before the child's program is replaced.
PATIENCE_S = 30.0
#: A program that dies so often over one batch is not killed by chance.
MAX_STARTS = 3
#: More children than this wait for the one process that reads and hashes.
MAX_CHILDREN = 16
#: The folder of the packages: all that a child needs to know of where it is.
_ROOT = Path(understudy.__file__).parents[1]
PROGRAM = (sys.executable, "-P", "-m", "worker.decoding")

T = TypeVar("T")


@dataclass(frozen=True)
class Checked:
    """An image that decodes."""

    facts: Facts
    is_animated: bool
    fingerprint: bytes


class _Child:
    """One decoding program and the memory shared with it."""

    def __init__(self, program: Sequence[str], limits: Limits) -> None:
        self._limits = limits
        self._fd = _anonymous_file()
        os.ftruncate(self._fd, REGION_BYTES)
        self._region = Region(self._fd)
        self._region.working = IDLE
        self._process = subprocess.Popen(
            [*program, str(self._fd), *limits.arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=[self._fd],
            # Nothing of ours: no credentials. One thread each, because there are as many children as cores.
            env={"PYTHONPATH": str(_ROOT), "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"},
        )
        self._close = weakref.finalize(self, _end, self._process, self._region, self._fd)

    def send(self, half: int, images: list[bytes]) -> None:
        """Let a half be decoded. Raises BrokenPipeError if the program is gone."""
        assert self._process.stdin is not None, "it was opened with pipes"
        self._region.fill(half, images)
        self._process.stdin.write(bytes([half]))

    def receive(self, half: int) -> list[Any] | None:
        """The answers to a half, which is the one sent first. None: the program is gone, or stands still."""
        assert self._process.stdout is not None, "it was opened with pipes"
        patience_s = PATIENCE_S + self._limits.wall_s * self._region_count(half)
        readable, _, _ = select.select([self._process.stdout], [], [], patience_s)
        if not readable or self._process.stdout.read(1) != bytes([half]):
            return None
        return self._region.answers(half)

    def _region_count(self, half: int) -> int:
        return len(self._region.images_from(half, 0))

    def close(self) -> None:
        """End the program and free the memory."""
        self._close()


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("understudy-images")
    with tempfile.TemporaryFile() as file:  # macOS
        return os.dup(file.fileno())


def _end(process: subprocess.Popen[bytes], region: Region, fd: int) -> None:
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
    process.kill()  # its child ends by itself when it finds its pipe closed
    process.wait()
    region.close()
    os.close(fd)


@dataclass
class _Batch(Generic[T]):
    """What was handed to a child together."""

    items: list[T]
    images: list[bytes]
    child: int = 0
    half: int = 0


class Checkers:
    """The decoding children. Not for two threads at once. Close them; what was not closed ends with us."""

    def __init__(
        self, num_children: int | None = None, limits: Limits | None = None, program: Sequence[str] = PROGRAM
    ) -> None:
        self._limits, self._program = limits or Limits(), program
        num_children = min(num_children or cores.available(), MAX_CHILDREN)
        self._children: list[_Child | None] = [None] * num_children

    def check(
        self, items: Iterable[T], image_of: Callable[[T], bytes | None]
    ) -> Iterator[tuple[T, Checked | Problem | None]]:
        """Every item with what became of its image, in order; None for those that have none.

        A few batches are ahead of what is given. Raises RuntimeError if the children keep dying of no image.
        """
        waiting: deque[_Batch[T]] = deque()
        num_sent = 0
        try:
            for batch in _batches(items, image_of):
                if len(waiting) == NUM_HALVES * len(self._children):
                    yield from self._answered(waiting, image_of)
                batch.child = num_sent % len(self._children)
                batch.half = num_sent // len(self._children) % NUM_HALVES
                waiting.append(batch)
                num_sent += 1
                self._send(batch)
            while waiting:
                yield from self._answered(waiting, image_of)
        finally:
            for batch in waiting:  # nobody asks for these answers any more
                self._replace(batch.child)

    def close(self) -> None:
        """End the children."""
        for index in range(len(self._children)):
            self._replace(index)

    def _answered(
        self, waiting: deque[_Batch[T]], image_of: Callable[[T], bytes | None]
    ) -> Iterator[tuple[T, Checked | Problem | None]]:
        answers = iter(self._receive(waiting))
        batch = waiting.popleft()
        for item in batch.items:
            yield item, None if image_of(item) is None else _parsed(next(answers))

    def _send(self, batch: _Batch[T]) -> None:
        if not batch.images:
            return
        child = self._children[batch.child]
        if child is None:
            child = self._children[batch.child] = _Child(self._program, self._limits)
        with contextlib.suppress(BrokenPipeError):  # it is found dead when its answers are asked for
            child.send(batch.half, batch.images)

    def _receive(self, waiting: deque[_Batch[T]]) -> list[Any]:
        """The answers to the batch sent first. A dead child's batches are sent to another in its place."""
        batch = waiting[0]
        if not batch.images:
            return []
        for _ in range(MAX_STARTS):
            child = self._children[batch.child]
            answers = child.receive(batch.half) if child is not None else None
            if answers is not None and len(answers) == len(batch.images):
                return answers
            self._replace(batch.child)
            for each in waiting:
                if each.child == batch.child:
                    self._send(each)
        raise RuntimeError(
            f"{MAX_STARTS} decoding programs died over one batch of {len(batch.images)} images, of none of these; "
            f"look for what ends processes on this machine, as a limit of memory does"
        )

    def _replace(self, index: int) -> None:
        child, self._children[index] = self._children[index], None
        if child is not None:
            child.close()


def _batches(items: Iterable[T], image_of: Callable[[T], bytes | None]) -> Iterator[_Batch[T]]:
    batch: _Batch[T] = _Batch([], [])
    num_bytes = 0
    for item in items:
        image = image_of(item)
        size = len(image) if image is not None else 0
        if size > HALF_BYTES:
            raise ValueError(f"an image of {size:,} bytes; at most {HALF_BYTES:,} can be handed over")
        is_full = len(batch.images) == MAX_IMAGES or len(batch.items) == 8 * MAX_IMAGES
        if batch.items and (is_full or num_bytes + size > BATCH_BYTES):
            yield batch
            batch, num_bytes = _Batch([], []), 0
        batch.items.append(item)
        if image is not None:
            batch.images.append(image)
        num_bytes += size
    if batch.items:
        yield batch


def _parsed(answer: dict[str, Any]) -> Checked | Problem:
    """An answer, believed no more than it must be: a decoder that was taken over may write anything."""
    if "code" in answer:
        return Problem(code=str(answer["code"]), detail=str(answer["detail"]))
    image_format, width, height = answer["format"], int(answer["width"]), int(answer["height"])
    if image_format not in FORMATS:
        raise ValueError(f"a decoder answered with the format {image_format!r}; expected one of {FORMATS}")
    return Checked(
        Facts(width, height, image_format), bool(answer["is_animated"]), bytes.fromhex(answer["fingerprint"])
    )
