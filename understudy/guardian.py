"""``python -m understudy.guardian``: kills the process groups it was told of when its parent dies.

Reads from standard input, a line each: ``+PID`` a process group to remember, ``-PID`` one that has ended.
The end of input means that the parent is gone, even by ``kill -9``.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Remember process groups until the parent is gone, then kill those that are left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        change, pid = line[0], int(line[1:])
        (groups.add if change == "+" else groups.discard)(pid)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
