"""Whether a run goes astray: its numbers are not finite, or its loss stays far above what it was before.

A function of the losses alone, kept with the checkpoint, so that a resumed run judges as one that was not.
"""

import math

from understudy.records import Record

#: The running mean of the loss forgets over so many steps: one bad batch does not lift it.
SPAN = 20
#: Far above: over so many times the best mean there was, and over it by as much as this. The first alone would
#: see a runaway in the noise around a loss of nearly 0; the second alone, in that of a loss of hundreds.
RISE_FACTOR, RISE_LEAST = 2.0, 1.0
#: For long: so many steps, or this share of the run. What recovers by itself does so sooner.
MIN_PATIENCE, PATIENCE_SHARE = 50, 0.02


class NotSound(ArithmeticError):
    """Training goes astray: what was learned since the last checkpoint is of no use."""


class NotFinite(NotSound):
    """A loss or a gradient is not finite."""


class RanAway(NotSound):
    """The loss has been far above its best for long."""


class Watched(Record):
    """What has been seen of the loss."""

    average: float | None = None  #: None: no step yet
    best: float | None = None  #: the lowest that the average was
    num_above: int = 0  #: steps for which it has been far above that

    @property
    def is_calm(self) -> bool:
        """Whether the weights are worth a checkpoint."""
        return self.num_above == 0

    def after(self, loss: float, norm: float, step: int, num_steps: int) -> "Watched":
        """With one more step's loss and gradient norm. Raises NotFinite and RanAway."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFinite(f"loss {loss}, gradient norm {norm} at step {step}")
        average = loss if self.average is None else self.average + (loss - self.average) / SPAN
        best = average if self.best is None else min(self.best, average)
        is_above = average > RISE_FACTOR * best and average > best + RISE_LEAST
        num_above = self.num_above + 1 if is_above else 0
        if num_above >= max(MIN_PATIENCE, PATIENCE_SHARE * num_steps):
            raise RanAway(f"loss {average:.3g} on average at step {step}, {best:.3g} at best, for {num_above} steps")
        return Watched(average=average, best=best, num_above=num_above)
