import numpy as np
import pytest

from trainer import targets
from understudy import labels


def test_kept_classes_and_tail_make_the_whole_distribution():
    """The same as of one label at a time, for a student that knows two classes more than its teacher."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(12), 6).astype(np.float32)
    order = np.argsort(-probabilities, axis=1)[:, :4]
    top = np.take_along_axis(probabilities, order, axis=1)
    tail = 1 - top.sum(axis=1)
    known = np.ones(14, dtype=bool)
    known[[3, 9]] = False
    index = np.flatnonzero(known)

    whole = targets.soft(index[order], top, tail, known).whole([5, 0, 0])

    assert (whole.shape, whole.dtype) == ((3, 14), np.float32)
    expected = labels.dense(order[5], top[5], float(tail[5]), 12)
    assert whole[0, index] == pytest.approx(expected)
    assert whole[0, [3, 9]].tolist() == [0, 0]
    assert np.array_equal(whole[1], whole[2])
    assert whole.sum(axis=1) == pytest.approx([1, 1, 1])


def test_a_label_with_all_classes_has_no_tail():
    """Nothing is left to share, and rounding is made good."""
    whole = targets.soft(
        np.array([[1, 0]]), np.array([[0.7, 0.2]], np.float32), np.array([0.1], np.float32), np.ones(2, bool)
    )

    assert whole.whole([0])[0] == pytest.approx([0.2 / 0.9, 0.7 / 0.9])


def test_smoothing_by_hand():
    """0.1 over four classes: 0.925 for the own one, 0.025 for each of the others."""
    whole = targets.smoothed(np.array([2, 0]), 4, 0.1).whole([0, 1])

    assert whole == pytest.approx(np.array([[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]]))
    assert targets.smoothed(np.array([0]), 1, 0.1).whole([0]).tolist() == [[1.0]]


def test_many_classes_need_larger_numbers():
    """More than 32,767 do not fit into 16 bits."""
    assert targets.smoothed(np.array([32_767, 0]), 32_768, 0.0).whole([0])[0].argmax() == 32_767
    assert targets.smoothed(np.array([1]), 32_767, 0.0).classes.dtype == np.int16
