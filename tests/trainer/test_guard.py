import math

import pytest

from trainer.guard import MIN_PATIENCE, SPAN, NotFinite, RanAway, Watched


def watch(losses, num_steps=100, watched=None):
    seen = watched or Watched()
    for step, loss in enumerate(losses, 1):
        seen = seen.after(loss, 1.0, step, num_steps)
    return seen


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_numbers_that_are_not_finite_are_told_at_once(loss, norm):
    """The loss or its gradient, with the step."""
    with pytest.raises(NotFinite, match="at step 7"):
        Watched().after(loss, norm, 7, 100)


def test_a_loss_that_rises_and_stays_has_run_away():
    """From 2 to 6 and no way back: after a while it is called what it is."""
    with pytest.raises(RanAway, match="2 at best, for 50 steps"):
        watch([2.0] * SPAN + [6.0] * (MIN_PATIENCE + SPAN))


def test_a_long_run_has_more_patience():
    """One in fifty of its steps: a large model takes hundreds to get over a spike."""
    assert watch([2.0] * SPAN + [6.0] * 300, num_steps=50_000).num_above > MIN_PATIENCE


@pytest.mark.parametrize(
    "losses",
    [
        [5.0 - 0.02 * i for i in range(200)],
        [2.0] * 20 + [50.0] + [2.0] * 200,  # one bad batch
        [2.0] * 20 + [6.0] * 30 + [2.0] * 200,  # a spike that heals
        [0.01] * 20 + [0.3] * 200,  # the noise of a loss near zero
        [0.1] * 5 + [0.7] * 200,  # pure chance of two classes after a good beginning
    ],
)
def test_what_is_no_runaway(losses):
    """A falling loss, a bad batch, a spike that heals, the noise of small numbers."""
    watch(losses)


def test_what_is_above_is_not_worth_a_checkpoint():
    """From the first step that is far above until it is below again."""
    assert watch([2.0] * 50).is_calm
    assert not watch([2.0] * 50 + [60.0] * 5).is_calm
    assert watch([2.0] * 50 + [30.0] * 5 + [2.0] * 60).is_calm
