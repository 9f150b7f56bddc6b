"""Signs of life of programs that serve nobody: a file that is touched while they work, for a container's health check.

It knows neither who looks nor how old is too old.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

#: Touch the file this often; a health check takes two minutes of silence for death.
BEAT_S = 10.0


def beat(file: Path | None) -> None:
    """Touch the file. None: nobody looks. A disk that is full must not end the program that shows its life there."""
    if file is None:
        return
    try:
        file.touch()
    except OSError as error:
        log.warning("could not touch %s: %s", file, error)


@contextmanager
def beating(file: Path | None) -> Iterator[None]:
    """Touch the file for as long as the block runs, from a thread: for a program whose steps take minutes."""
    if file is None:
        yield
        return
    stopped = threading.Event()

    def run() -> None:
        beat(file)
        while not stopped.wait(BEAT_S):
            beat(file)

    thread = threading.Thread(target=run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
