"""Labeling with care: images one at a time through a child process, which may die of one and is started again.

For shards that took their workers down. The image without an answer is the one that killed it. The child is
``python -m worker.careful VERSION``: it reads each image's length and bytes, and writes a letter, a length and the answer.
"""

import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import time
from types import TracebackType
from typing import IO, Self

import numpy as np

from understudy import images, registry, settings
from understudy.catalog import Catalog
from understudy.engine import Engine, Probabilities
from understudy.errors import ImageRefused, UnderstudyError
from understudy.records import ModelCard
from understudy.settings import WorkerSettings
from understudy.store import Store

#: An image that takes longer is as deadly as one that kills. The largest photos take a second.
IMAGE_S = 60.0
#: The child loads an engine first, on a machine that may be busy.
START_S = 300.0
#: If more images of a shard than this end the child, or fail in it, it is not the images.
MAX_QUARANTINED = 20

_LENGTH = struct.Struct(">I")
#: What the child says: it is ready, here are probabilities, the image was refused, something else was raised.
READY, ROW, REFUSED, FAULT = b"+", b"p", b"r", b"f"


class Deadly(Exception):
    """An image that gets no label, with the code of its reason."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Classifier:
    """A child process with an engine, for as long as a ``with`` lasts."""

    def __init__(self, settings: WorkerSettings, card: ModelCard, *, image_s: float = IMAGE_S) -> None:
        self._settings, self._card, self._image_s = settings, card, image_s
        self._child: subprocess.Popen[bytes] | None = None
        self.num_deaths = 0  #: images that ended the child, or failed in it otherwise than by being refused

    def classify(self, data: bytes) -> Probabilities:
        """Probabilities of one image: (C,) float32. Raises Deadly, and RuntimeError if the child cannot begin."""
        child = self._child or self._begin()
        try:
            assert child.stdin is not None
            child.stdin.write(_LENGTH.pack(len(data)) + data)
            child.stdin.flush()
            kind, answer = self._answer(child, self._image_s)
        except (OSError, EOFError, TimeoutError) as error:
            how = self._end()
            self.num_deaths += 1
            detail = f"the image took longer than {self._image_s:g} s" if isinstance(error, TimeoutError) else how
            raise Deadly("deadly", detail) from error
        if kind == ROW:
            return np.frombuffer(answer, dtype=np.float32)
        said = json.loads(answer)
        self.num_deaths += kind == FAULT
        raise Deadly(said["code"], said["detail"])

    def _begin(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "worker.careful", self._card.version]
        self._child = child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._settings.environment()
        )
        try:
            kind, said = self._answer(child, START_S)
        except (EOFError, TimeoutError) as error:
            raise RuntimeError(f"the process that labels with care did not begin: {self._end()}") from error
        if kind != READY:
            self._end()
            raise RuntimeError(f"the process that labels with care did not begin: {json.loads(said)['detail']}")
        return child

    def _answer(self, child: "subprocess.Popen[bytes]", timeout_s: float) -> tuple[bytes, bytes]:
        assert child.stdout is not None
        until = time.monotonic() + timeout_s
        kind = _read(child.stdout, 1, until)
        (length,) = _LENGTH.unpack(_read(child.stdout, _LENGTH.size, until))
        return kind, _read(child.stdout, length, until)

    def _end(self) -> str:
        """End the child, in words: how it ended itself, if it did."""
        child, self._child = self._child, None
        if child is None:
            return "it had not begun"
        status = child.poll()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was not sent is for nobody any more
                pipe.close()
        if status is None:
            try:  # its pipe has ended: so does it, and how is what we want to say
                status = child.wait(1.0)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        return _in_words(status)

    @property
    def version(self) -> str:
        return self._card.version

    def close(self) -> None:
        """End the child."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()


def _in_words(status: int | None) -> str:
    if status is None:
        return "the process that decoded and classified the image hung"
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return f"the process that decoded and classified the image ended with {how}"


def _read(pipe: IO[bytes], num_bytes: int, until: float) -> bytes:
    read = bytearray()
    while len(read) < num_bytes:
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError
        some = os.read(pipe.fileno(), num_bytes - len(read))
        if not some:
            raise EOFError
        read += some
    return bytes(read)


def main(version: str) -> int:
    """The child: answer until there is nothing more to read."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not be taken for an answer
    try:
        engine = _engine(settings.read(WorkerSettings), version)
    except Exception as error:
        _say(answers, FAULT, _problem(error))
        return 1
    _say(answers, READY, b"")
    while head := sys.stdin.buffer.read(_LENGTH.size):
        data = sys.stdin.buffer.read(_LENGTH.unpack(head)[0])
        try:
            pixels = images.load(data, engine.card.preprocessing)
            _say(answers, ROW, engine.predict(pixels[None])[0].tobytes())
        except ImageRefused as refused:
            _say(answers, REFUSED, _problem(refused))
        except Exception as error:
            _say(answers, FAULT, _problem(error))
    return 0


def _engine(read: WorkerSettings, version: str) -> Engine:
    catalog = Catalog(read.catalog_url)
    try:
        return registry.load(Store(read.store_url), catalog, version, provider=read.provider, threads=1, arena=True)
    finally:
        catalog.close()


def _problem(error: Exception) -> bytes:
    code = error.code if isinstance(error, UnderstudyError) else "worker_fault"
    detail = str(error) if isinstance(error, ImageRefused) else f"{type(error).__name__}: {error}"
    return json.dumps({"code": code, "detail": detail}).encode()


def _say(answers: IO[bytes], kind: bytes, what: bytes) -> None:
    answers.write(kind + _LENGTH.pack(len(what)) + what)
    answers.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
