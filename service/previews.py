"""Pictures of what was quarantined: decoded in a program of its own, which may die of them and is started again.

``python -m service.previews`` reads a size, a length and an image's bytes, and answers with a letter, a length and a
JPEG, or why there is none. It is given no settings, and so no secret; it ends when there is nothing more to read.
"""

import contextlib
import os
import resource
import select
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import understudy
from service.behind import Behind
from understudy import images
from understudy.errors import ImageRefused

#: Pictures that may wait for the one that is made: a page full of them asks so many at once.
MAX_WAITING = 64
#: An image that takes longer is not shown. The largest that ingest would take need a second.
IMAGE_S = 10.0
#: A program that starts on a busy machine gets this besides.
START_S = 20.0
#: Then the program is replaced, so that nothing it lost or learned lasts.
MAX_IMAGES = 200
#: What the program may take, as a worker's decoding children.
MAX_ADDRESS_BYTES = 1 * 2**30
#: A JPEG of 1024 pixels a side is smaller.
MAX_ANSWER_BYTES = 8 * 2**20

_HEAD, _LENGTH = struct.Struct(">II"), struct.Struct(">I")
MADE, REFUSED = b"j", b"r"
_ROOT = Path(understudy.__file__).parents[1]


class Previewer:
    """The program that decodes, for as long as it lives. Used from one event loop; close it at the end."""

    def __init__(self, *, image_s: float = IMAGE_S) -> None:
        self._image_s = image_s
        self._behind = Behind("preview", "pictures of quarantined entries", max_waiting=MAX_WAITING)
        self._child: subprocess.Popen[bytes] | None = None
        self._num_images = 0

    async def preview(self, data: bytes, size: int) -> bytes:
        """A JPEG of at most ``size`` pixels a side, of as much as can be decoded.

        Raises ImageRefused with the code no_preview, and Overloaded.
        """
        return await self._behind.run(partial(self._preview, data, size))

    def close(self) -> None:
        """End the program."""
        self._behind.close()
        self._end()

    def _preview(self, data: bytes, size: int) -> bytes:
        patience_s = self._image_s + (START_S if self._child is None else 0.0)
        child = self._child or self._begin()
        self._num_images += 1
        try:
            assert child.stdin is not None
            child.stdin.write(_HEAD.pack(size, len(data)) + data)
            child.stdin.flush()
            kind, answer = _answer(child, time.monotonic() + patience_s)
        except (OSError, EOFError) as error:
            self._end()
            raise ImageRefused(
                f"it ended the program that was to show it, or took longer than {self._image_s:g} s", code="no_preview"
            ) from error
        if self._num_images >= MAX_IMAGES:
            self._end()
        if kind != MADE:
            raise ImageRefused(f"it cannot be shown: {answer.decode(errors='replace')[:500]}", code="no_preview")
        return answer

    def _begin(self) -> "subprocess.Popen[bytes]":
        self._num_images = 0
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "service.previews"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(_ROOT), "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"},
        )
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was not sent is for nobody any more
                pipe.close()
        child.wait()


def _answer(child: "subprocess.Popen[bytes]", until: float) -> tuple[bytes, bytes]:
    """Raises EOFError and TimeoutError; and for an answer that no honest decoder gives, EOFError too."""
    assert child.stdout is not None
    kind = _read(child.stdout.fileno(), 1, until)
    (length,) = _LENGTH.unpack(_read(child.stdout.fileno(), _LENGTH.size, until))
    if length > MAX_ANSWER_BYTES:
        raise EOFError
    return kind, _read(child.stdout.fileno(), length, until)


def _read(pipe: int, num_bytes: int, until: float) -> bytes:
    read = bytearray()
    while len(read) < num_bytes:
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError
        some = os.read(pipe, num_bytes - len(read))
        if not some:
            raise EOFError
        read += some
    return bytes(read)


def main() -> None:
    """The program: answer until there is nothing more to read."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not be taken for an answer
    images.show_what_breaks_off()
    while head := sys.stdin.buffer.read(_HEAD.size):
        size, length = _HEAD.unpack(head)
        try:
            kind, answer = MADE, images.thumbnail(sys.stdin.buffer.read(length), size)
        except ImageRefused as refused:
            kind, answer = REFUSED, str(refused).encode()
        answers.write(kind + _LENGTH.pack(len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    main()
