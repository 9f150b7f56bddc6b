import math

import numpy as np
import pytest
from scipy.stats import binom

from trainer import looks
from understudy.records import GateReport
from understudy.testing import tiny_evaluation

#: Images of the holdout in the simulations, and how often each is run.
NUM_IMAGES, NUM_TRIALS = 400, 3000


def report(generation, holdout, *, promoted=False, past=()):
    """A report on a holdout of these shards, after those of the past."""
    look = looks.next_look(past, holdout)
    evaluation = tiny_evaluation(f"g{generation:04}", "ab").model_copy(update={"num_images": sum(holdout.values())})
    return GateReport(
        generation=generation, challenger=evaluation, champion=None, gain=None, alpha=look.alpha, class_floor=0.0,
        verdict="promote" if promoted else "refuse", rule="test", reasons=(), look=look,
    )  # fmt: skip


def chain(*steps):
    """Reports one after the other: (holdout, whether it promoted) each."""
    past = []
    for generation, (holdout, promoted) in enumerate(steps):
        past.append(report(generation, holdout, promoted=promoted, past=past))
    return past


A = {"a": 100}


def test_the_shares_sum_to_alpha():
    """Over ever so many looks: 6 / (π² k²) sums to one, and the first has 61 % of it."""
    assert math.fsum(looks.share(k) for k in range(1, 10_000)) == pytest.approx(looks.ALPHA, rel=1e-3)
    assert sum(looks.share(k) for k in range(1, 10_000)) < looks.ALPHA
    assert looks.share(1) == pytest.approx(0.0304, abs=1e-4)


def test_what_a_promotion_was_held_to_is_passed_on():
    """refuse, promote, promote, refuse, refuse: the two promotions' shares wander on until one refuses."""
    past = chain((A, False), (A, True), (A, True), (A, False), (A, False))

    alphas = [one.look.alpha for one in past]
    share = looks.share
    assert alphas == pytest.approx([share(1), share(2), share(3) + share(2), share(4) + share(3) + share(2), share(5)])
    assert [one.look.number for one in past] == [1, 2, 3, 4, 5]
    assert all(looks.replayed(one.look) == one.look.alpha for one in past)
    assert [(before.generation, before.promoted) for before in past[3].look.before] == [
        (0, False),
        (1, True),
        (2, True),
    ]


def test_the_same_holdout_is_one_whose_images_were_more_than_half_in_its_first_look():
    """It may grow to just under twice its size; at twice it is a new one, and its looks begin anew."""
    past = chain((A, False), (A, False))

    grown = looks.next_look(past, {"a": 100, "b": 99})
    assert (grown.number, grown.fresh_at) == (3, 200)
    doubled = looks.next_look(past, {"a": 100, "b": 100})
    assert (doubled.number, doubled.alpha, doubled.fresh_at, doubled.before) == (1, looks.share(1), 400, ())
    assert looks.next_look(past, {"c": 10}).number == 1


def test_a_holdout_that_grows_a_little_at_a_time_is_compared_with_its_first_look():
    """Not with its last one, of which it never was less than half: else it would stay the same for ever."""
    steps = [{f"s{i}": 100 for i in range(1, size + 1)} for size in range(1, 9)]

    numbers = [one.look.number for one in chain(*((step, True) for step in steps))]

    assert numbers == [1, 1, 2, 1, 2, 3, 4, 1]  # 1 | 2 3 | 4 5 6 7 | 8 shards


def test_nothing_is_passed_on_to_a_new_holdout():
    """Its family has its own five per cent."""
    past = chain((A, True))

    assert looks.next_look(past, {"b": 100}).carried == 0.0


def test_reports_from_before_looks_were_counted_are_looks():
    """Whose images they were is not known: they count, and nothing is carried from them."""
    old = [one.model_copy(update={"look": None}) for one in chain((A, True), (A, True))]

    look = looks.next_look(old, {"a": 100, "b": 50})
    assert (look.number, look.carried, look.alpha) == (3, 0.0, looks.share(3))
    assert looks.next_look(old, {"a": 100, "b": 101}).number == 1


# -- the loop, simulated ------------------------------------------------------------------------------


def right(rng, accuracy, difficulty):
    """Which images models of this accuracy are right on: (trials, images) bool.

    Easy images are right for all, hard ones for none; between them chance decides, on so many that two equal
    models disagree on about 8 %.
    """
    chance = np.clip((accuracy[:, None] - difficulty) / 0.24 + 0.5, 0.0, 1.0)
    return rng.random(difficulty.shape, dtype=np.float32) < chance


def wrongly_promoted(gain_every, num_generations, *, spend):
    """The share of loops in which a challenger that is no better was ever promoted, on one holdout each."""
    rng = np.random.default_rng(6)
    difficulty = rng.random((NUM_TRIALS, NUM_IMAGES), dtype=np.float32)
    accuracy = np.full(NUM_TRIALS, 0.7, dtype=np.float32)
    champion = right(rng, accuracy, difficulty)
    has_erred, carried = np.zeros(NUM_TRIALS, bool), np.zeros(NUM_TRIALS)
    for k in range(1, num_generations + 1):
        is_better = gain_every is not None and k % gain_every == 0
        offered = accuracy + (0.04 if is_better else 0.0)
        challenger = right(rng, offered, difficulty)
        won, lost = (challenger & ~champion).sum(axis=1), (champion & ~challenger).sum(axis=1)
        alpha = looks.share(k) + carried if spend else looks.ALPHA
        promoted = binom.sf(won - 1, won + lost, 0.5) <= alpha
        has_erred |= promoted & (offered <= accuracy)
        carried = np.where(promoted, alpha, 0.0)
        champion = np.where(promoted[:, None], challenger, champion)
        accuracy = np.where(promoted, offered, accuracy)
    return has_erred.mean()


def test_twenty_equal_challengers_in_a_row_promote_none_in_95_of_100_loops():
    """The family-wise error of one holdout; without spending it would be several times that."""
    assert wrongly_promoted(None, 20, spend=True) <= looks.ALPHA
    assert wrongly_promoted(None, 20, spend=False) > 3 * looks.ALPHA


def test_real_gains_between_equal_challengers_do_not_raise_the_error():
    """Every third challenger is 4 points better: what its promotion passes on was not spent."""
    assert wrongly_promoted(3, 20, spend=True) <= looks.ALPHA
