"""Memory: what has been freed goes back to the system."""

import numpy as np
import psutil

from service import memory


def test_trimming_gives_back_what_small_pieces_held():
    """Pieces below the C library's own threshold stay in its heap until it is trimmed; it may be asked twice."""
    resident = psutil.Process().memory_info
    keep = [np.ones(12_000, np.float64) for _ in range(1000)]  # 96 KB each: of the heap
    held = resident().rss
    # Every other one first, so that the top of the heap does not simply fall.
    del keep[::2]
    del keep
    memory.trim()
    memory.trim()
    assert resident().rss < held - 40 * 2**20
