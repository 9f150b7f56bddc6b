"""Giving memory back: Python keeps what is in a cycle until it collects, the C library what is freed.

After an engine of a hundred megabytes has gone, nobody wants it again. It knows no more than that.
"""

import ctypes
import gc
import sys


def freeze() -> None:
    """Exempt what this process has now from collection: it stays, and need not be looked through in the middle of a request.

    Python puts a full collection off until a quarter as much has been added as the last one left. Without the second
    one here that would be a quarter of what was frozen: a whole day's requests, and the engines that they hold.
    """
    gc.collect()
    gc.freeze()
    gc.collect()


def release() -> None:
    """Collect what is in cycles (a finished request and its tasks are), and return the free pages. Takes milliseconds."""
    gc.collect()
    trim()


def trim() -> None:
    """Return the free pages of the C library's heaps to the system. Takes milliseconds; elsewhere than on glibc, nothing."""
    if sys.platform == "linux":
        release = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if release is not None:
            release(0)
