"""Tripwires: the signs of a teacher that has collapsed, in the counts of what it labeled.

Each is one number and a limit of the recipe; one that is beyond its limit ends the generation with the reason
before a student is trained. Arithmetic on counts only: a preview shows the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from understudy.records import Record

COLLAPSED = "selection_collapsed"
#: A class that has gained less than this is no collapse: the labeled set is nearly of that class itself, and a pool
#: may well have none of the others.
MIN_GROWTH = 0.1
#: Of fewer candidates all may be of one class by chance.
MIN_CANDIDATES = 20
#: So many images of both teachers tell their agreement to 0.2 points; of more label sets, a part is compared.
MAX_COMPARED = 200_000


class Limits(Protocol):
    """What a recipe says of tripwires."""

    @property
    def min_kept_share(self) -> float: ...
    @property
    def max_class_shift(self) -> float: ...
    @property
    def min_agreement(self) -> float: ...


@dataclass(frozen=True)
class Agreement:
    """Two teachers' labels of the same images."""

    teacher: str  #: the earlier one; of several, the newest
    num_compared: int
    num_same: int

    @property
    def share(self) -> float | None:
        """None: nothing was compared."""
        return self.num_same / self.num_compared if self.num_compared else None


class Tripwires(Record):
    """The figures that tell a collapse."""

    kept_share: float  #: of all pseudo-labels, how many are over their threshold; of a former choice, how much is left
    class_shift: float  #: how far one class has gone from its labeled share to being all of the candidates: 0 to 1
    agreement: float | None = None  #: of this teacher's labels with those of the one before; None: not checked
    num_compared: int = 0  #: images that the agreement was seen on
    compared_with: str | None = None  #: the teacher before

    def sprung(self, limits: Limits) -> tuple[str, ...]:
        """A sentence for each figure that is beyond its limit."""
        return tuple(
            sentence
            for is_beyond, sentence in (
                (
                    self.kept_share < limits.min_kept_share,
                    f"only {self.kept_share:.2%} of the pseudo-labels are kept by the threshold, where min_kept_share "
                    f"asks for {limits.min_kept_share:.2%}; lower threshold, ingest images of the classes, or lower "
                    f"min_kept_share if the bucket really is mostly of other things",
                ),
                (
                    self.class_shift > limits.max_class_shift,
                    f"the labels have gone {self.class_shift:.1%} of the way from the classes of the labeled set to a "
                    f"single class, where max_class_shift allows {limits.max_class_shift:.1%}; look at `understudy facets`: "
                    f"train the teacher better, or set max_class_shift to 1 if the images really are of one class",
                ),
                (
                    self.agreement is not None and self.agreement < limits.min_agreement,
                    f"the teacher gives {self.agreement or 0:.1%} of {self.num_compared} images the label that "
                    f"{self.compared_with} gave them, where min_agreement asks for {limits.min_agreement:.1%}; look at "
                    f"`understudy labels --changed`: roll the champion back, or lower min_agreement if it is right",
                ),
            )
            if is_beyond
        )


def measured(
    *,
    num_candidates: int,
    num_labels: int,
    candidates: Mapping[str, int],
    labeled: Mapping[str, int],
    agreement: Agreement | None,
) -> Tripwires:
    """The figures, from counts: by class, ``candidates`` is what is over its threshold and ``labeled`` the labeled set."""
    return Tripwires(
        kept_share=num_candidates / num_labels if num_labels else 0.0,
        class_shift=class_shift(candidates, labeled),
        agreement=agreement.share if agreement else None,
        num_compared=agreement.num_compared if agreement else 0,
        compared_with=agreement.teacher if agreement else None,
    )


def class_shift(candidates: Mapping[str, int], labeled: Mapping[str, int]) -> float:
    """How far one class has gone from its share of the labeled set to being all there is: the furthest of any.

    The total variation between the two would be 0.5 for two classes that have become one, 0.9 for ten, and 0.2 where
    the class that is left was 80 % of the labeled set: no limit would serve them all, and an even pool beside a
    skewed labeled set would look like a collapse. Classes that the teacher does not have are left out; too few
    candidates are no sign (0).
    """
    total, known = sum(candidates.values()), sum(labeled.get(name, 0) for name in candidates)
    if total < MIN_CANDIDATES or not known:
        return 0.0
    shares = [(num / total, labeled.get(name, 0) / known) for name, num in candidates.items()]
    return max((share - prior) / (1 - prior) if share - prior >= MIN_GROWTH else 0.0 for share, prior in shares)
