"""Quotas: how many pseudo-labels of each class a student gets (paper, section 3.1, "data filtering and balancing").

Arithmetic only, over counts of how confident the teacher was: what a selection makes of them, and what a
preview promises. It reads nothing, and knows neither rows nor images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

#: Confidence in bins that are narrow where teachers are sure: 0.001 wide below 0.9, and ten times narrower with
#: every nine after that. A bin's number never falls as confidence rises, which is all that exactness needs.
BIN_SQL = """(CASE
    WHEN confidence < 0.9 THEN floor(confidence::DOUBLE * 1000)
    WHEN confidence < 0.99 THEN 900 + floor((confidence::DOUBLE - 0.9) * 10000)
    WHEN confidence < 0.999 THEN 1800 + floor((confidence::DOUBLE - 0.99) * 100000)
    ELSE 2700 + floor((confidence::DOUBLE - 0.999) * 1000000) END)::INTEGER"""
#: More than the largest number of a bin.
NUM_BINS = 4000
#: The official code's bins: 0.01 wide, the last for 1.0.
COARSE_BIN_SQL = "floor(confidence::DOUBLE * 100)::INTEGER"

#: Images in each bin of confidence, by the bin's number.
Bins = Mapping[int, int]


def bins_of(confidence: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """``BIN_SQL`` of (N,) confidences."""
    exact = confidence.astype(np.float64)
    bins = np.select(
        [exact < 0.9, exact < 0.99, exact < 0.999],
        [exact * 1000, 900 + np.floor((exact - 0.9) * 10_000), 1800 + np.floor((exact - 0.99) * 100_000)],
        2700 + np.floor((exact - 0.999) * 1_000_000),
    )
    numbers: npt.NDArray[np.int64] = np.floor(bins).astype(np.int64)
    return numbers


def bin_edge(number: int) -> float:
    """The least confidence of a bin of ``BIN_SQL``."""
    if number < 900:
        return number / 1000
    if number < 1800:
        return 0.9 + (number - 900) / 10_000
    if number < 2700:
        return 0.99 + (number - 1800) / 100_000
    return min(1.0, 0.999 + (number - 2700) / 1_000_000)


class Wanted(Protocol):
    """What a recipe, or who asks for a preview, says of the balance."""

    @property
    def balance(self) -> str: ...
    @property
    def per_class(self) -> int | None: ...
    @property
    def max_copies(self) -> int: ...


@dataclass(frozen=True)
class Quota:
    """What a class has over the threshold, what it should have, and what becomes of that.

    Every image gets ``target // available`` copies, and the most confident ``num_favoured`` one more; no image
    gets more than ``max_copies``.
    """

    available: int
    target: int
    max_copies: int

    @property
    def base(self) -> int:
        """Copies of every image."""
        return self.target // self.available if self.available else 0

    @property
    def num_favoured(self) -> int:
        """Images, the most confident, that get one copy more."""
        return self.target % self.available if self.available else 0

    @property
    def kept(self) -> int:
        """Different images."""
        return self.available if self.base else self.num_favoured

    @property
    def rows(self) -> int:
        """Images with their copies."""
        favoured, others = min(self.base + 1, self.max_copies), min(self.base, self.max_copies)
        return self.num_favoured * favoured + (self.available - self.num_favoured) * others


@dataclass(frozen=True)
class Cut:
    """Where a walk down the bins of a class stops: the bin, and how many of its images are still wanted."""

    bin: int
    num_wanted: int


def targets(
    available: Mapping[int, int], classes: Sequence[str], labeled_counts: Mapping[str, int], per_class: int | None
) -> dict[int, int]:
    """How many images of each class to train on: all that there are, in the proportions of the labeled set.

    With ``per_class`` it is that many of each. Classes are numbered as in ``classes``.
    """
    if per_class is not None:
        return dict.fromkeys(range(len(classes)), per_class)
    total, labeled = sum(available.values()), sum(labeled_counts.values())
    return {
        i: max(1, math.floor(total * labeled_counts.get(name, 0) / labeled)) if labeled else 1
        for i, name in enumerate(classes)
    }


def of_classes(
    available: Mapping[int, int], classes: Sequence[str], labeled_counts: Mapping[str, int], wanted: Wanted
) -> dict[int, Quota]:
    """The quota of each class. Without a balance it is all that there are, once each."""
    numbers = range(len(classes))
    if wanted.balance == "none":
        return {i: Quota(available.get(i, 0), available.get(i, 0), 1) for i in numbers}
    wished = targets(available, classes, labeled_counts, wanted.per_class)
    return {i: Quota(available.get(i, 0), wished[i], wanted.max_copies) for i in numbers}


def cut(bins: Bins, num_wanted: int) -> Cut | None:
    """The bin in which the ``num_wanted`` most confident end. None: nothing is wanted, or there are not so many."""
    if num_wanted <= 0:
        return None
    for number in sorted(bins, reverse=True):
        if num_wanted <= bins[number]:
            return Cut(number, num_wanted)
        num_wanted -= bins[number]
    return None


def best(bins: Bins, num_wanted: int) -> dict[int, int]:
    """Of each bin, how many are among the ``num_wanted`` most confident."""
    taken: dict[int, int] = {}
    for number in sorted(bins, reverse=True):
        if num_wanted <= 0:
            break
        taken[number] = min(bins[number], num_wanted)
        num_wanted -= taken[number]
    return taken


@dataclass(frozen=True)
class Thinned:
    """The official code's form for one class: an edge on its bins, and how often an image above it is repeated."""

    bin: int  #: the lowest that is kept
    kept: int  #: images in the kept bins
    copies: float  #: of each on average: target / kept, not more than allowed


def thinned(bins: Bins, target: int, max_copies: int) -> Thinned:
    """Walk down from 1.0 until there are as many as wanted, or no bin is left (``filter_unlabel.py``)."""
    kept, number = 0, 0
    for number in sorted(bins, reverse=True):
        kept += bins[number]
        if kept >= target:
            break
    return Thinned(number, kept, min(float(max_copies), target / kept))
