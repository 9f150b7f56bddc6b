"""How fast a run goes: over the last seconds, so that it says what is so now, not what was so at the beginning."""

import time
from collections import deque
from collections.abc import Callable

#: Long enough that a checkpoint does not show as a standstill, short enough to be of now.
WINDOW_S = 10.0


class Pace:
    """Steps a second over the last ``WINDOW_S``; what is done besides training is left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._left_out = clock, 0.0
        self._seen: deque[tuple[float, int]] = deque()  # (training seconds, steps done)

    def leave_out(self, seconds: float) -> None:
        """So many of the seconds since the last step were no training."""
        self._left_out += seconds

    def see(self, step: int) -> None:
        """So many steps are done now."""
        now = self._clock() - self._left_out
        if self._seen and step <= self._seen[-1][1]:  # the run has gone back
            self._seen.clear()
        self._seen.append((now, step))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()

    @property
    def steps_per_second(self) -> float | None:
        """None: it is too early to say."""
        if len(self._seen) < 2:
            return None
        (since, first), (until, last) = self._seen[0], self._seen[-1]
        return (last - first) / (until - since) if until > since else None
