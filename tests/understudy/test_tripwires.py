"""A collapse springs a tripwire; a pool that is merely different does not."""

import pytest

from understudy import recipes, tripwires
from understudy.tripwires import Agreement

DEFAULTS = recipes.recipe("small", {})


def measured(candidates, labeled, *, num_labels=None, agreement=None):
    total = sum(candidates.values())
    return tripwires.measured(
        num_candidates=total,
        num_labels=num_labels or 2 * total,
        candidates=candidates,
        labeled=labeled,
        agreement=agreement,
    )


def counts(*numbers):
    return {f"class-{i}": num for i, num in enumerate(numbers)}


@pytest.mark.parametrize(
    ("candidates", "labeled"),
    [
        ((1000, 0), (50, 50)),  # two classes
        ((0, 0, 1000), (5, 5, 5)),
        ((995, *[0] * 8, 5), (10,) * 10),  # ten, nearly
        ((1000, *[0] * 999), (10,) * 1000),
        ((1000, 0), (80, 20)),  # to the larger class of a skewed labeled set
        ((0, 1000), (80, 20)),
    ],
)
def test_a_collapse_to_one_class_springs_with_the_defaults(candidates, labeled):
    """However many classes there are, and whichever is left."""
    (sentence,) = measured(counts(*candidates), counts(*labeled)).sprung(DEFAULTS)

    assert "max_class_shift allows 98.0%" in sentence


@pytest.mark.parametrize(
    ("candidates", "labeled"),
    [
        ((950, 50), (50, 50)),  # labeled evenly, found rarely
        ((900, *[11] * 9), (10,) * 10),
        ((340, 330, 330), (90, 5, 5)),  # labeled unevenly, found evenly
        ((100, 0), (99, 1)),  # as the labels: the rare class may well not be among a hundred
        ((500, 500, *[0] * 8), (10,) * 10),
        ((3, 0, 0), (5, 5, 5)),  # chance
    ],
)
def test_an_honest_skew_springs_nothing(candidates, labeled):
    """A pool need not be as the labeled set is."""
    assert measured(counts(*candidates), counts(*labeled)).sprung(DEFAULTS) == ()


def test_few_confident_labels_spring():
    """With the value and the limit; at the limit it holds."""
    told = measured(counts(4, 5), counts(5, 5), num_labels=1000)

    assert "only 0.90% of the pseudo-labels" in told.sprung(DEFAULTS)[0]
    assert measured(counts(5, 5), counts(5, 5), num_labels=1000).sprung(DEFAULTS) == ()


def test_a_teacher_that_contradicts_the_one_before_springs():
    """Who that was is in the sentence; without anybody before, nothing is checked."""
    even, labeled = counts(50, 50), counts(5, 5)

    told = measured(even, labeled, agreement=Agreement("g0001-abcdef", 1000, 299))

    assert (told.agreement, told.num_compared) == (0.299, 1000)
    assert "29.9% of 1000 images the label that g0001-abcdef" in told.sprung(DEFAULTS)[0]
    assert measured(even, labeled, agreement=Agreement("g0001-abcdef", 1000, 300)).sprung(DEFAULTS) == ()
    assert measured(even, labeled, agreement=Agreement("g0001-abcdef", 0, 0)).agreement is None
    assert measured(even, labeled).sprung(DEFAULTS) == ()


def test_limits_can_be_lifted():
    """For a bucket that really is of one class."""
    lifted = recipes.recipe("small", {"max_class_shift": 1, "min_agreement": 0, "min_kept_share": 0})

    told = measured(counts(100, 0), counts(5, 5), num_labels=10**6, agreement=Agreement("g0001-abcdef", 1000, 0))

    assert len(told.sprung(DEFAULTS)) == 3
    assert told.sprung(lifted) == ()
