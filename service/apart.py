"""A program of our own that is asked over its standard input, one question at a time, behind whoever classifies.

For what may die, hang or take memory: that costs the one question. The program is given no settings, and so no secret;
it begins with the first question, and ends when nobody has asked for a while or nothing more can be read.
"""

import asyncio
import contextlib
import os
import resource
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import understudy
from service.behind import Behind

#: A program that starts on a busy machine gets this besides.
START_S = 30.0
#: Nobody has asked for so long: the next question starts it again.
IDLE_S = 60.0
#: Then the program is replaced, so that nothing it lost or learned lasts.
MAX_QUESTIONS = 200
#: No answer of ours is longer.
MAX_ANSWER_BYTES = 8 * 2**20

_COUNT = _LENGTH = struct.Struct(">I")
_ROOT = Path(understudy.__file__).parents[1]

Answer = tuple[bytes, bytes]  #: a letter that says of which kind it is, and what it is


class Died(Exception):
    """The program ended over a question, or took too long and was ended."""


class Apart:
    """``python -m module``, for as long as it lives. Used from one event loop; close it at the end.

    ``answer_s`` is for one question; at most ``max_waiting`` wait for the one that is being answered.
    """

    def __init__(self, module: str, what: str, *, answer_s: float, max_waiting: int, idle_s: float = IDLE_S) -> None:
        self._module, self._answer_s, self._idle_s = module, answer_s, idle_s
        self._behind = Behind(module.rpartition(".")[2], what, max_waiting=max_waiting)
        self.program: subprocess.Popen[bytes] | None = None
        self._num_questions = 0
        self._idle: asyncio.TimerHandle | None = None

    async def ask(self, question: Callable[[], Sequence[bytes]]) -> Answer:
        """The answer to what ``question`` gives, which is called when its turn comes, in a thread.

        Raises Died, Overloaded if too many wait, and what ``question`` raises.
        """
        if self._idle is not None:
            self._idle.cancel()
        try:
            return await self._behind.run(partial(self._ask, question))
        finally:
            # Also when the client has left: then it ends a program that works, and starts it for the next question.
            self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._rest)

    def _rest(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has been closed
            self._behind.submit(self._end)

    def close(self) -> None:
        """End the program."""
        if self._idle is not None:
            self._idle.cancel()
        self._behind.close()
        self._end()

    def _ask(self, question: Callable[[], Sequence[bytes]]) -> Answer:
        parts = question()
        until = time.monotonic() + self._answer_s + (START_S if self.program is None else 0.0)
        program = self.program or self._begin()
        self._num_questions += 1
        try:
            assert program.stdin is not None
            program.stdin.write(_COUNT.pack(len(parts)))
            for part in parts:
                program.stdin.write(_LENGTH.pack(len(part)))
                program.stdin.write(part)
            program.stdin.flush()
            answer = _answer(program, until)
        except (OSError, EOFError) as error:
            self._end()
            raise Died(f"it ended the program that was to answer, or took longer than {self._answer_s:g} s") from error
        if self._num_questions >= MAX_QUESTIONS:
            self._end()
        return answer

    def _begin(self) -> "subprocess.Popen[bytes]":
        self._num_questions = 0
        threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self.program = subprocess.Popen(
            [sys.executable, "-P", "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(_ROOT), "PYTHONUTF8": "1", **threads},
        )
        return self.program

    def _end(self) -> None:
        program, self.program = self.program, None
        if program is None:
            return
        program.kill()
        for pipe in (program.stdin, program.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was not sent is for nobody any more
                pipe.close()
        program.wait()


def _answer(program: "subprocess.Popen[bytes]", until: float) -> Answer:
    """Raises EOFError and TimeoutError; for an answer that is longer than any of ours, EOFError too."""
    assert program.stdout is not None
    kind = _read(program.stdout.fileno(), 1, until)
    (length,) = _LENGTH.unpack(_read(program.stdout.fileno(), _LENGTH.size, until))
    if length > MAX_ANSWER_BYTES:
        raise EOFError
    return kind, _read(program.stdout.fileno(), length, until)


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


def serve(answer: Callable[[list[bytes]], Answer], *, max_address_bytes: int) -> None:
    """The program's side: answer until there is nothing more to read, within so much memory."""
    resource.setrlimit(resource.RLIMIT_AS, (max_address_bytes, max_address_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not be taken for an answer
    asked = sys.stdin.buffer
    while head := asked.read(_COUNT.size):
        parts = [asked.read(*_LENGTH.unpack(asked.read(_LENGTH.size))) for _ in range(*_COUNT.unpack(head))]
        kind, said = answer(parts)
        answers.write(kind + _LENGTH.pack(len(said)) + said)
        answers.flush()
