"""Admission: whether a request can be answered in time, decided when it arrives and not when it is too late.

Every image that a client waits for is counted from its acceptance to its answer. The rate at which images
are answered while the machine is busy is measured all the time; from both follows how long a new one would
wait. It knows nothing of HTTP, of models or of what an image is.
"""

import math
from collections.abc import Callable

from understudy.errors import Overloaded

#: Accept what is expected to be answered within this share of its time: the expectation is a mean, and an
#: image that is answered a moment too late has cost as much as one answered well.
HEADROOM = 0.8
#: The measured rate forgets with this time constant: long against one batch, short against a change of load.
MEMORY_S = 2.0
#: A rate that was expected and not measured counts as this much of busy time, and the less the more of that was seen.
PRIOR_S = 0.5
#: So much remembered busy time needs no expectation beside it.
ENOUGH_S = MEMORY_S / 2


class Rate:
    """Images answered a second while there is always more to do: from completions, and it forgets within seconds."""

    def __init__(self, prior: float, clock: Callable[[], float]) -> None:
        """``prior`` images a second are expected as long as nothing was measured, and again after idle seconds."""
        self._clock = clock
        self.expect(prior)

    def expect(self, prior: float) -> None:
        """Begin anew with another expectation: from now on a model of another speed answers."""
        self._prior = prior
        self._images = self._seconds = 0.0
        self._at, self._is_busy = self._clock(), False

    @property
    def per_second(self) -> float:
        kept = self._kept(self._clock())
        images, seconds = self._images * kept, self._seconds * kept
        weight = PRIOR_S * max(0.0, 1.0 - seconds / ENOUGH_S)
        return (images + weight * self._prior) / (seconds + weight)

    def completed(self, num_images: int, *, is_busy: bool) -> None:
        """``num_images`` were answered just now; ``is_busy`` says that the machine has enough to do from now on.

        Only time between two calls of which the first said so is counted: the rest was idle.
        """
        now = self._clock()
        kept = self._kept(now)
        self._images, self._seconds = self._images * kept, self._seconds * kept
        if self._is_busy:
            self._images += num_images
            self._seconds += now - self._at
        self._at, self._is_busy = now, is_busy

    def _kept(self, now: float) -> float:
        return math.exp((self._at - now) / MEMORY_S)


class Admission:
    """Counts the images that are accepted and not answered, and refuses what would come too late."""

    def __init__(self, rate: Rate, *, max_images: int, num_lanes: int) -> None:
        """No more than ``max_images`` wait, whatever their time; with fewer than ``num_lanes`` the machine idles."""
        self.rate = rate
        self.num_images = 0
        self._max_images, self._num_lanes = max_images, num_lanes

    @property
    def is_alone(self) -> bool:
        """Whether no more than one image is accepted: it may have the whole machine."""
        return self.num_images <= 1

    def require_room(self, num_images: int, timeout_s: float) -> None:
        """Raises Overloaded if so many images more would not be answered within ``timeout_s``.

        A machine that has nothing to do takes anything: waiting would not make it easier.
        """
        if self.num_images == 0:
            return
        if (total := self.num_images + num_images) > self._max_images:
            raise self._overloaded(f"at most {self._max_images} may", total - self._max_images)
        num_in_time = HEADROOM * timeout_s * self.rate.per_second
        if total > num_in_time:
            limit = f"only {num_in_time:.0f} can be answered in the {timeout_s:.2g} s that yours has"
            raise self._overloaded(limit, total - num_in_time)

    def accept(self, num_images: int, timeout_s: float) -> None:
        """From now on these images wait for their answer. Raises Overloaded."""
        self.require_room(num_images, timeout_s)
        self.num_images += num_images

    def leave(self, num_images: int, *, are_answered: bool) -> None:
        """They wait no more."""
        self.num_images -= num_images
        self.rate.completed(num_images if are_answered else 0, is_busy=self.num_images >= self._num_lanes)

    def _overloaded(self, limit: str, num_too_many: float) -> Overloaded:
        return Overloaded(
            f"{self.num_images} images wait for their answer already, and {limit}; try again soon",
            retry_after_s=num_too_many / max(self.rate.per_second, 1e-3),
        )
