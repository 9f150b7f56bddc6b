"""The program of a decoding child: strangers' images are decoded here, where a fault costs one image.

``python -m worker.decoding FD CPU_S WALL_S ADDRESS_BYTES IMAGES`` forks a child that decodes what its parent lays
into the shared memory behind FD. If an image kills the child, that is its answer, and the next child goes on behind it.
It knows bytes and answers; not archives, the catalog, the store, nor any secret.
"""

import json
import mmap
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy import images
from understudy.errors import ImageRefused

#: Images are handed over in the two halves of the memory: one is decoded while the other is filled.
NUM_HALVES = 2
#: Most images of a half.
MAX_IMAGES = 32
#: Bytes of a half's images. Nothing is taken by what is never written.
HALF_BYTES = 64 * 2**20
#: Bytes of an answer.
ANSWER_BYTES = 1024

#: The half that is being decoded; then for each half how many images it has and how many are answered.
_HEAD = struct.Struct("<i" + "II" * NUM_HALVES)
#: No half is being decoded.
IDLE = -1
_SIZES_AT = 64
_ANSWERS_AT = _SIZES_AT + 4 * MAX_IMAGES * NUM_HALVES
_IMAGES_AT = _ANSWERS_AT + ANSWER_BYTES * MAX_IMAGES * NUM_HALVES
REGION_BYTES = _IMAGES_AT + HALF_BYTES * NUM_HALVES

#: How a child ends that has done its share: another is forked.
_RECYCLED = 3

Examine = Callable[[bytes], dict[str, Any]]


@dataclass(frozen=True)
class Limits:
    """What one child may take."""

    cpu_s: float = 6.0  #: for one image; 40 megapixels take a second
    wall_s: float = 30.0  #: for one image, on a machine that is busy
    address_bytes: int = 1 * 2**30  #: more than a child has after its start; 40 megapixels take 0.5 GB with alpha
    images: int = 2000  #: then the child is replaced, so that nothing it lost or learned lasts

    def arguments(self) -> list[str]:
        """As this program is told them."""
        return [str(self.cpu_s), str(self.wall_s), str(self.address_bytes), str(self.images)]


class Region:
    """The memory that a parent and its decoding child share."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, REGION_BYTES)

    def fill(self, half: int, images: list[bytes]) -> None:
        """Lay images into a half. Not more than MAX_IMAGES, nor than HALF_BYTES."""
        at = _IMAGES_AT + half * HALF_BYTES
        for index, data in enumerate(images):
            struct.pack_into("<I", self._map, _SIZES_AT + 4 * (half * MAX_IMAGES + index), len(data))
            self._map[at : at + len(data)] = data
            at += len(data)
        struct.pack_into("<II", self._map, 4 + 8 * half, len(images), 0)

    def images_from(self, half: int, first: int) -> list[tuple[int, int, int]]:
        """Where the images of a half lie, from one on: index, start, end."""
        count, _ = struct.unpack_from("<II", self._map, 4 + 8 * half)
        sizes = struct.unpack_from(f"<{count}I", self._map, _SIZES_AT + 4 * half * MAX_IMAGES)
        at, places = _IMAGES_AT + half * HALF_BYTES, []
        for index, size in enumerate(sizes):
            places.append((index, at, at + size))
            at += size
        return places[first:]

    def read(self, start: int, end: int) -> bytes:
        """Some of its bytes."""
        return self._map[start:end]

    def answer(self, half: int, index: int, answer: dict[str, Any]) -> None:
        """Write what became of an image; with that it is done."""
        text = json.dumps(answer).encode()
        if len(text) > ANSWER_BYTES - 2:
            raise ValueError(f"an answer of {len(text)} bytes; at most {ANSWER_BYTES - 2} fit")
        at = _ANSWERS_AT + ANSWER_BYTES * (half * MAX_IMAGES + index)
        self._map[at : at + 2 + len(text)] = struct.pack("<H", len(text)) + text
        struct.pack_into("<I", self._map, 8 + 8 * half, index + 1)

    def answers(self, half: int) -> list[Any]:
        """What became of a half's images."""
        count, _ = struct.unpack_from("<II", self._map, 4 + 8 * half)
        found = []
        for index in range(min(count, MAX_IMAGES)):
            at = _ANSWERS_AT + ANSWER_BYTES * (half * MAX_IMAGES + index)
            (size,) = struct.unpack_from("<H", self._map, at)
            found.append(json.loads(self._map[at + 2 : at + 2 + min(size, ANSWER_BYTES - 2)]))
        return found

    @property
    def working(self) -> int:
        """The half that is being decoded; -1: none."""
        return int(_HEAD.unpack_from(self._map)[0])

    @working.setter
    def working(self, half: int) -> None:
        struct.pack_into("<i", self._map, 0, half)

    def num_answered(self, half: int) -> int:
        """How many images of a half are done."""
        return int(struct.unpack_from("<I", self._map, 8 + 8 * half)[0])

    def close(self) -> None:
        """Let go of the memory."""
        self._map.close()


def examine(data: bytes) -> dict[str, Any]:
    """Decode one image: its facts, or why it is refused."""
    try:
        found = images.examine(data)
    except ImageRefused as refused:
        return {"code": refused.code, "detail": str(refused)[:150]}  # 150 characters are at most 900 bytes of JSON
    facts = found.facts
    return {
        "width": facts.width,
        "height": facts.height,
        "format": facts.format,
        "is_animated": found.is_animated,
        "fingerprint": found.fingerprint.hex(),
    }


def main(examine: Examine, arguments: list[str]) -> None:
    """Keep one child at work until the parent closes our standard input."""
    fd, cpu_s, wall_s, address_bytes, num_images = arguments
    limits = Limits(float(cpu_s), float(wall_s), int(address_bytes), int(num_images))
    region = Region(int(fd))
    while True:
        child = os.fork()
        if not child:
            _be_limited(limits)
            os._exit(_decode(region, examine, limits))
        _, status = os.waitpid(child, 0)
        half = region.working
        if half != IDLE:
            region.answer(half, region.num_answered(half), _last_words(os.waitstatus_to_exitcode(status), limits))
        elif os.waitstatus_to_exitcode(status) == 0:
            return


def _last_words(exit_code: int, limits: Limits) -> dict[str, Any]:
    """What a child's death says about the image that it was decoding."""
    if -exit_code in (signal.SIGPROF, signal.SIGALRM):
        spent = f"{limits.cpu_s:g} s of computing" if -exit_code == signal.SIGPROF else f"{limits.wall_s:g} s"
        return {"code": "decoder_timeout", "detail": f"decoding it was not done after {spent}; save the image again"}
    how = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
    return {"code": "decoder_crashed", "detail": f"the image made its decoder end ({how}); save the image again"}


def _be_limited(limits: Limits) -> None:
    """Take away from this process what decoding does not need."""
    ours = Path("/proc/self")
    if ours.exists():  # not on macOS, which knows no limit of addresses either
        (ours / "oom_score_adj").write_text("1000")  # if memory is short, this process goes, and no other
        limit = int((ours / "statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + limits.address_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)  # the kernel's own answer, also in the middle of a decoder


def _decode(region: Region, examine: Examine, limits: Limits) -> int:
    """Decode one half after the other; first what the child before left. Gives how this child ends."""
    num_done = 0
    while num_done < limits.images:
        if region.working == IDLE:
            command = os.read(0, 1)
            if not command:
                return 0
            region.working = command[0]
        half = region.working
        for index, start, end in region.images_from(half, region.num_answered(half)):
            signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)
            signal.setitimer(signal.ITIMER_REAL, limits.wall_s)
            answer = examine(region.read(start, end))
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            region.answer(half, index, answer)
            num_done += 1
        region.working = IDLE
        os.write(1, bytes([half]))
    return _RECYCLED


if __name__ == "__main__":
    main(examine, sys.argv[1:])
