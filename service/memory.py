"""Giving freed memory back: the C library keeps what is freed, in case it is wanted again.

After an engine of a hundred megabytes has gone, nobody wants it again. It knows no more than that.
"""

import ctypes
import ctypes.util
import sys


def trim() -> None:
    """Return the free pages of the C library's heaps to the system. Takes milliseconds; elsewhere than on glibc, nothing."""
    if sys.platform == "linux" and (name := ctypes.util.find_library("c")) is not None:
        release = getattr(ctypes.CDLL(name), "malloc_trim", None)
        if release is not None:
            release(0)
