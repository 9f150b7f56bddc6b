import numpy as np
import pytest
from scipy.stats import bootstrap

from trainer import paired


@pytest.mark.parametrize(("won", "lost", "p_value"), [(0, 0, 1.0), (5, 0, 1 / 32), (1, 1, 0.75), (3, 1, 5 / 16)])
def test_the_sign_test_by_hand(won, lost, p_value):
    """Counting coins."""
    assert paired.sign_test(won, lost) == pytest.approx(p_value)


def test_a_gain_counts_pairs():
    """Each image is in one of four boxes."""
    gain = paired.paired_gain([1, 1, 1, 0, 0], [1, 0, 0, 1, 0])

    assert (gain.both_right, gain.only_challenger_right, gain.only_champion_right, gain.both_wrong) == (1, 2, 1, 1)
    assert gain.difference == pytest.approx(0.2)
    with pytest.raises(ValueError, match="evaluate both again"):
        paired.paired_gain([True], [True, False])


def test_the_interval_is_the_bootstrap_of_the_images():
    """Resampling three counts is resampling 500 images: scipy's bootstrap agrees to the noise of resampling."""
    won, lost, num_images = 40, 25, 500
    each = np.array([1] * won + [-1] * lost + [0] * (num_images - won - lost))
    theirs = bootstrap((each,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0))

    interval = paired.difference_interval(won, lost, num_images)

    assert (interval.low, interval.high) == pytest.approx(theirs.confidence_interval, abs=0.003)
    assert interval == paired.difference_interval(won, lost, num_images)
    assert interval.confidence == 0.95


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Within the spread of 300 trials, at a true gain of 2 points."""
    draws = np.random.default_rng(3).multinomial(600, [0.05, 0.03, 0.92], 300)
    intervals = [paired.difference_interval(int(won), int(lost), 600) for won, lost, _ in draws]

    assert np.mean([i.low <= 0.02 <= i.high for i in intervals]) == pytest.approx(0.95, abs=0.035)


def test_holm_by_hand():
    """1/1024 is held to 0.05/3, then 1/64 to 0.05/2, then 1/16 to 0.05/1, which it fails."""
    counts = [("a", 100, 0, 10), ("b", 100, 0, 4), ("c", 100, 0, 6)]

    a, b, c = paired.class_gains(counts, 0.05)

    assert (a.p_value, b.p_value, c.p_value) == (2**-10, 2**-4, 2**-6)
    assert (a.limit, c.limit, b.limit) == pytest.approx((0.05 / 3, 0.05 / 2, 0.05))
    assert (a.is_worse, b.is_worse, c.is_worse) == (True, False, True)


def test_holm_proves_what_bonferroni_misses_and_stops_at_the_first_that_fails():
    """The second of three is held to 0.025, not to 0.0167; after a failure nothing is proved."""
    _, second, _ = paired.class_gains([("a", 99, 0, 10), ("b", 99, 2, 10), ("c", 99, 3, 3)], 0.05)
    assert 0.05 / 3 < second.p_value < 0.05 / 2
    assert second.is_worse

    failed = paired.class_gains([("a", 99, 0, 5), ("b", 99, 0, 5)], 0.05)
    assert [one.is_worse for one in failed] == [False, False]  # 1/32 is over 0.025, and so 0.05 is not asked


def test_equal_models_have_a_worse_class_at_most_as_often_as_alpha():
    """Over ten classes together, each of 100 images of which 8 are disagreed on."""
    rng = np.random.default_rng(4)
    draws = rng.multinomial(100, [0.04, 0.04, 0.92], (500, 10)).tolist()
    wrong = [
        any(one.is_worse for one in paired.class_gains([("x", 100, won, lost) for won, lost, _ in classes], 0.05))
        for classes in draws
    ]

    assert np.mean(wrong) <= 0.05


def test_a_class_without_images_is_not_worse():
    """A holdout may lack one."""
    (one,) = paired.class_gains([("rare", 0, 0, 0)], 0.05)

    assert (one.difference, one.p_value, one.is_worse) == (0.0, 1.0, False)


@pytest.mark.parametrize(("discordance", "difference"), [(0.08, 0.02), (0.01, 0.02), (0.5, 0.1)])
def test_power_is_how_often_the_test_proves_it(discordance, difference):
    """Against simulation; fewer disagreements than the gain are taken for as many as it."""
    shown = max(discordance, difference)
    rng = np.random.default_rng(5)
    draws = rng.multinomial(400, [(shown + difference) / 2, (shown - difference) / 2, 1 - shown], 1500)
    proved = [paired.sign_test(int(won), int(lost)) <= 0.03 for won, lost, _ in draws]

    assert paired.power(400, discordance, difference, 0.03) == pytest.approx(np.mean(proved), abs=0.04)


def test_the_images_needed_prove_it():
    """At the size that is advised the same shares pass, at half a holdout less they do not."""
    needed = paired.images_needed(12, 8, 100, 0.01, fresh_at=10_000, fresh_alpha=0.03)

    assert needed is not None
    assert paired.sign_test(12 * needed // 100, 8 * needed // 100) <= 0.01
    assert paired.sign_test(round(12 * (needed - 50) / 100), round(8 * (needed - 50) / 100)) > 0.01
    assert paired.images_needed(8, 12, 100, 0.01, fresh_at=10_000, fresh_alpha=0.03) is None
    assert paired.images_needed(1001, 1000, 2001, 1e-9, fresh_at=10**9, fresh_alpha=1e-9) is None


def test_a_holdout_that_is_new_may_use_more():
    """Twice the images begin a new family of looks, so fewer are needed than the next look at these would take."""
    later = paired.images_needed(12, 8, 100, 0.0001, fresh_at=10_000, fresh_alpha=0.03)
    fresh = paired.images_needed(12, 8, 100, 0.0001, fresh_at=200, fresh_alpha=0.03)

    assert fresh < later
