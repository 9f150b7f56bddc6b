"""Admission: what is accepted, what would come too late, and how the rate is measured."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from service.admission import HEADROOM, Admission, Rate
from understudy.errors import Overloaded


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def admission(clock: Clock, *, rate: float = 10.0, max_images: int = 100, num_lanes: int = 2) -> Admission:
    return Admission(Rate(rate, clock), max_images=max_images, num_lanes=num_lanes)


@contextmanager
def waiting(queue: Admission, num_images: int, timeout_s: float) -> Iterator[None]:
    """Accepted for as long as the block lasts, and answered if it ends well."""
    queue.accept(num_images, timeout_s)
    are_answered = False
    try:
        yield
        are_answered = True
    finally:
        queue.leave(num_images, are_answered=are_answered)


def test_what_can_be_answered_in_time_is_accepted_and_what_cannot_is_refused_at_once(clock: Clock):
    """10 images a second and one second of time: with the headroom, the ninth would come too late."""
    queue = admission(clock)
    queue.num_images = int(10 * HEADROOM) - 1
    queue.require_room(1, timeout_s=1.0)
    queue.num_images += 1
    with pytest.raises(Overloaded, match=r"8 images wait .* only 8 .* in the 1 s") as refused:
        queue.require_room(1, timeout_s=1.0)
    assert refused.value.retry_after_s == pytest.approx(0.1)


def test_a_client_with_more_time_is_accepted_where_another_is_not(clock: Clock):
    """The same queue, another deadline."""
    queue = admission(clock)
    queue.num_images = 20
    queue.require_room(1, timeout_s=5.0)
    with pytest.raises(Overloaded):
        queue.require_room(1, timeout_s=1.0)


def test_an_idle_machine_takes_anything(clock: Clock):
    """A request of more images than may wait, or than can be answered in time, is better tried than refused for ever."""
    with waiting(admission(clock, max_images=4), 64, 0.001):
        pass


def test_no_more_may_wait_than_the_limit_whatever_their_time(clock: Clock):
    """Memory is bounded for clients without a deadline too."""
    queue = admission(clock, rate=1000.0, max_images=4)
    with waiting(queue, 3, 3600), waiting(queue, 1, 3600), pytest.raises(Overloaded, match="at most 4"):
        queue.require_room(1, timeout_s=3600)
    queue.require_room(1, timeout_s=3600)


def test_the_images_of_a_request_count_until_it_ends_however_it_ends(clock: Clock):
    """An error gives its places back."""
    queue = admission(clock)
    assert queue.is_alone
    with suppress(RuntimeError), waiting(queue, 2, 60):
        assert (queue.num_images, queue.is_alone) == (2, False)
        raise RuntimeError
    assert queue.num_images == 0


def test_the_rate_follows_what_is_answered_while_there_is_more_to_do(clock: Clock):
    """50 a second were expected; 20 are seen."""
    rate = Rate(50.0, clock)
    for _ in range(200):
        rate.completed(1, is_busy=True)
        clock.now += 0.05
    assert rate.per_second == pytest.approx(20, rel=0.05)


def test_idle_time_does_not_count_against_the_rate(clock: Clock):
    """One image a minute says nothing about how many there could be."""
    rate = Rate(50.0, clock)
    for _ in range(100):
        rate.completed(1, is_busy=False)
        clock.now += 60
    assert rate.per_second == pytest.approx(50)


def test_a_new_model_of_another_speed_is_expected_and_then_measured(clock: Clock):
    """What was measured of the old one is forgotten at once."""
    rate = Rate(50.0, clock)
    for _ in range(100):
        rate.completed(1, is_busy=True)
        clock.now += 0.02
    rate.expect(5.0)
    assert rate.per_second == 5.0


def test_a_machine_that_only_fails_does_not_look_fast_and_is_given_another_chance(clock: Clock):
    """Errors are no answers, though their time counts; some idle seconds later the expectation is back."""
    queue = admission(clock, rate=10.0, num_lanes=1)
    with waiting(queue, 1, 60):
        for _ in range(100):
            with suppress(Overloaded, RuntimeError), waiting(queue, 1, 60):
                clock.now += 0.1
                raise RuntimeError
    assert queue.rate.per_second < 1
    clock.now += 10
    assert queue.rate.per_second == pytest.approx(10, rel=0.05)
