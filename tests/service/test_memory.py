"""Memory: what has been freed goes back to the system."""

import gc
import weakref

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


def test_what_is_frozen_does_not_put_off_later_collections():
    """Rubbish that was made after freezing is collected after ten thousands of new objects, not after the frozen many."""
    frozen = [[] for _ in range(1_000_000)]
    memory.freeze()
    try:
        rubbish = _Cycle()
        seen = weakref.ref(rubbish)
        gc.collect(0), gc.collect(1)  # it is old now: only a full collection finds it
        del rubbish
        kept = [[] for _ in range(200_000)]
        assert seen() is None, (len(frozen), len(kept))
    finally:
        gc.unfreeze()


def test_releasing_collects_what_is_in_a_cycle():
    """What refers to itself is gone afterwards, whatever it held."""
    rubbish = _Cycle()
    seen = weakref.ref(rubbish)
    del rubbish
    memory.release()
    assert seen() is None


class _Cycle:
    def __init__(self) -> None:
        self.itself = self
