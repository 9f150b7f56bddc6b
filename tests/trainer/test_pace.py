"""The speed of a run over its last seconds."""

import pytest

from trainer.pace import WINDOW_S, Pace


class Clock:
    """Goes on by what is asked of it."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_the_pace_is_that_of_the_last_seconds():
    """A slow beginning is forgotten."""
    clock = Clock()
    pace = Pace(clock)
    assert pace.steps_per_second is None

    for step in range(1, 11):
        clock.now += 5.0
        pace.see(step)
    assert pace.steps_per_second == pytest.approx(0.2)
    for step in range(11, 111):
        clock.now += 0.25
        pace.see(step)

    assert pace.steps_per_second == pytest.approx(4.0)
    assert len(pace._seen) <= WINDOW_S / 0.25 + 2


def test_one_step_is_no_pace_and_what_is_left_out_does_not_slow_it():
    """A validation of a minute between two steps of a second."""
    clock = Clock()
    pace = Pace(clock)
    pace.see(1)
    assert pace.steps_per_second is None

    clock.now += 61.0
    pace.leave_out(60.0)
    pace.see(2)

    assert pace.steps_per_second == pytest.approx(1.0)


def test_a_run_that_has_gone_back_begins_anew():
    """After numbers that were not finite the steps are counted from the checkpoint."""
    clock = Clock()
    pace = Pace(clock)
    for step in (1, 2, 3, 2, 3):
        clock.now += 1.0
        pace.see(step)

    assert pace.steps_per_second == pytest.approx(1.0)


def test_two_steps_at_one_moment_have_no_pace():
    """Nothing is divided by zero."""
    pace = Pace(Clock())
    pace.see(1)
    pace.see(2)

    assert pace.steps_per_second is None
