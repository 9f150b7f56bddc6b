"""How many answers more an interval takes."""

from dashboard.review.audit import num_more
from understudy.reviewing import exact_interval


def test_so_many_more_have_about_such_an_interval():
    """By the exact interval, which the service tells: near the width that was asked for, if they turn out alike."""
    for right, num, width in ((18, 20, 0.05), (30, 30, 0.025), (5, 10, 0.1)):
        total = num + num_more(right, num, width)
        interval = exact_interval(round(total * right / num), total)
        assert total > num
        assert 0.7 * width < (interval.high - interval.low) / 2 < 1.3 * width


def test_what_is_narrow_enough_takes_no_more():
    """Nor does nothing divide by nothing."""
    assert num_more(900, 1000, 0.1) == 0
    assert num_more(0, 0, 0.05) > 300
