"""Thresholds by class, against references that go through every possibility."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from understudy import thresholds
from understudy.thresholds import Answers

PRECISION = 0.8
ANSWER = st.tuples(st.integers(0, 2), st.sampled_from([0.3, 0.5, 0.6, 0.8, 0.9, 0.99]), st.booleans())


def answers(rows):
    return Answers(
        predicted=tuple(label for label, _, _ in rows),
        confidence=tuple(confidence for _, confidence, _ in rows),
        is_right=tuple(right for _, _, right in rows),
    )


def bounds(rights):
    """The Wilson interval whose ends are one-sided bounds of 90 %."""
    return binomtest(sum(rights), len(rights)).proportion_ci(0.8, method="wilson")


def brute_force(rows, floor):
    """Try every confidence that there is as the threshold, the lowest first."""
    for least in (floor, *sorted(c for _, c, _ in rows if c >= floor)):
        above = [right for _, confidence, right in rows if confidence >= least]
        if above and bounds(above).low >= PRECISION:
            return least
    return None


@given(rows=st.lists(ANSWER, max_size=60), num_sure=st.integers(0, 30), floor=st.sampled_from([0.0, 0.4, 0.7]))
def test_a_precision_gives_each_class_the_least_confidence_that_proves_it(rows, num_sure, floor):
    """The class's own answers if they prove it, else those of all, unless its own prove the contrary."""
    rows = [*rows, *[(1, 0.99, True)] * num_sure]

    told = thresholds.by_precision(answers(rows), 3, PRECISION, floor)

    pooled = brute_force(rows, floor)
    for label in range(3):
        mine = [row for row in rows if row[0] == label]
        expected = brute_force(mine, floor)
        if expected is None and pooled is not None:
            above = [right for _, confidence, right in mine if confidence >= pooled]
            expected = None if above and bounds(above).high < PRECISION else pooled
        assert told[label] == expected


def test_three_right_answers_prove_nothing():
    """A class with few answers has the threshold of all; one that is mostly wrong has none, however sure it is."""
    rows = [(0, 0.5, True)] * 40 + [(0, 0.4, False)] * 20 + [(1, 0.35, True)] * 3 + [(2, 0.9, False)] * 5

    told = thresholds.by_precision(answers(rows), 4, PRECISION, 0.3)

    assert told == {0: 0.5, 1: 0.5, 2: None, 3: 0.5}


def test_so_many_right_answers_prove_a_precision():
    """One fewer does not; without any, nothing is trusted."""
    needed = thresholds.least_answers(0.9)

    assert needed == 15
    assert thresholds.by_precision(answers([(0, 0.7, True)] * needed), 2, 0.9, 0.3) == {0: 0.3, 1: 0.3}
    assert thresholds.by_precision(answers([(0, 0.7, True)] * (needed - 1)), 2, 0.9, 0.3) == {0: None, 1: None}
    assert thresholds.by_precision(Answers(), 2, 0.9, 0.3) == {0: None, 1: None}


def test_adaptive_thresholds_by_hand():
    """τ·β/(2−β): 100, 50 and no confident labels give β of 1, 0.5 and 0."""
    told = thresholds.adaptive({0: 100, 1: 50}, 3, 0.9, 0.0)

    assert told == pytest.approx({0: 0.9, 1: 0.9 / 3, 2: 0.0})
    assert thresholds.adaptive({0: 100, 1: 50}, 3, 0.9, 0.6) == pytest.approx({0: 0.9, 1: 0.6, 2: 0.6})
    assert thresholds.adaptive({}, 2, 0.9, 0.0) == {0: 0.9, 1: 0.9}  # nobody is confident of anything


def test_a_skewed_labeled_set_deserves_a_warning():
    """With the two classes and their images."""
    assert thresholds.skew_in_words({"ant": 10, "bee": 20, "cat": 0}) is None
    assert "'ant' has 90 labeled images and 'bee' 20" in (thresholds.skew_in_words({"ant": 90, "bee": 20}) or "")
