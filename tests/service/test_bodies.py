"""Bodies in memory: the budget that all share, and the time that each has."""

import asyncio

import pytest

from service.bodies import Budget, within
from understudy.errors import BodyTimeout, Overloaded


def test_all_bodies_together_may_not_pass_the_limit_and_give_back_what_they_held():
    """The one too many is refused with the figures; when another ends there is room again."""
    budget = Budget(100, timeout_s=1)
    with budget.allowance() as first:
        first.raise_to(60)
        with budget.allowance() as second:
            second.raise_to(30)
            with pytest.raises(Overloaded, match=r"90 bytes .* 20 more .* limit of 100"):
                second.raise_to(50)
    assert budget.held_bytes == 0


def test_an_allowance_only_grows_by_what_is_missing():
    """Told again of what it holds, it takes nothing."""
    budget = Budget(100, timeout_s=1)
    with budget.allowance() as share:
        for size in (10, 50, 20, 50):
            share.raise_to(size)
        assert budget.held_bytes == 50


async def test_a_body_that_does_not_come_is_not_waited_for():
    """The limit is in the message; the block is left at once."""

    async def read() -> None:
        async with within(0.01):
            await asyncio.Event().wait()

    with pytest.raises(BodyTimeout, match=r"after 0\.01 s"):
        await read()


async def test_a_timeout_of_somebody_else_is_not_called_a_late_body():
    """An outer limit passes through as what it is."""

    async def read_within_both() -> None:
        async with asyncio.timeout(0.01), within(60):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await read_within_both()
