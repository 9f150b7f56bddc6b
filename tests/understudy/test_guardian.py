"""The guardian as a process: what it kills at the end of its input, and what does not end it."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from understudy import guardian

#: More than a pipe holds: when that much was taken, the guardian reads, and so has set its signal handlers.
MORE_THAN_A_PIPE = b"-999999999\n" * 20_000
#: Far longer than killing takes.
SOON_S = 20.0

Process = subprocess.Popen[bytes]


@pytest.fixture
def guarding() -> Iterator[Process]:
    """A guardian that waits for words on its standard input."""
    with subprocess.Popen([sys.executable, "-m", guardian.__name__], stdin=subprocess.PIPE, bufsize=0) as process:
        yield process
        process.kill()


@pytest.fixture
def sleeper() -> Iterator[Callable[[], Process]]:
    """Starts processes that lead a group each and wait for ever."""
    started: list[Process] = []

    def start() -> Process:
        waiting = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
        started.append(subprocess.Popen(waiting, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def tell(guarding: Process, words: bytes) -> None:
    assert guarding.stdin is not None
    for begin in range(0, len(words), 4096):
        guarding.stdin.write(words[begin : begin + 4096])


def end_of_input(guarding: Process) -> int:
    assert guarding.stdin is not None
    guarding.stdin.close()
    return guarding.wait(SOON_S)


def test_the_groups_that_it_remembers_are_killed_at_the_end_of_its_input(
    guarding: Process, sleeper: Callable[[], Process]
):
    """What was told to have ended is left alone: its number may be another's by then."""
    remembered, forgotten, never_told = sleeper(), sleeper(), sleeper()
    tell(guarding, f"+{remembered.pid}\n+{forgotten.pid}\n-{forgotten.pid}\n".encode())

    assert end_of_input(guarding) == 0

    assert remembered.wait(SOON_S) == -signal.SIGKILL
    assert (forgotten.poll(), never_told.poll()) == (None, None)


def test_a_group_that_is_gone_does_not_keep_it_from_the_others(guarding: Process, sleeper: Callable[[], Process]):
    """It goes on to the next."""
    gone, alive = sleeper(), sleeper()
    gone.kill()
    gone.wait()
    tell(guarding, f"+{gone.pid}\n+{alive.pid}\n".encode())

    assert end_of_input(guarding) == 0

    assert alive.wait(SOON_S) == -signal.SIGKILL


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_it_outlives_what_ends_its_parent(guarding: Process, sleeper: Callable[[], Process], sign: signal.Signals):
    """Ctrl-C and SIGTERM do not end it: only the end of its input does, and then it does its work."""
    remembered = sleeper()
    tell(guarding, f"+{remembered.pid}\n".encode() + MORE_THAN_A_PIPE)

    guarding.send_signal(sign)
    tell(guarding, MORE_THAN_A_PIPE)  # and it goes on reading

    assert guarding.poll() is None
    assert remembered.poll() is None
    assert end_of_input(guarding) == 0
    assert remembered.wait(SOON_S) == -signal.SIGKILL
