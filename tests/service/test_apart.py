"""A program that is asked over its standard input, for as long as somebody asks."""

import asyncio
import struct
from collections.abc import Callable

import pytest

from service.apart import Apart, Died
from understudy.testing import picture

QUESTION = (struct.pack(">I", 16), picture(0, 3))


def previews(**options: float) -> Apart:
    """Any program that answers: the one that makes pictures."""
    return Apart("service.previews", "pictures", **({"answer_s": 10.0, "max_waiting": 8} | options))  # type: ignore[arg-type]


async def settled(apart: Apart) -> None:
    """After the timers that are due, and the work that they leave."""
    for _ in range(3):
        await asyncio.sleep(0)
    await apart._behind.run(lambda: None)


def test_a_program_answers_one_question_after_another_and_ends_when_nobody_asks():
    """Asked again, another begins."""

    async def ask() -> None:
        apart = previews(idle_s=0.0)
        kind, first = await apart.ask(lambda: QUESTION)
        assert (kind, first[:2]) == (b"j", b"\xff\xd8")
        await settled(apart)
        assert apart.program is None
        assert await apart.ask(lambda: QUESTION) == (kind, first)
        apart.close()
        assert apart.program is None

    asyncio.run(ask())


def test_what_the_question_raises_is_raised_and_the_program_stays():
    """Nothing was sent to it."""

    def broken() -> tuple[bytes, ...]:
        raise KeyError("no such version")

    async def ask() -> None:
        apart = previews()
        await apart.ask(lambda: QUESTION)
        program = apart.program
        with pytest.raises(KeyError):
            await apart.ask(broken)
        assert apart.program is program
        apart.close()

    asyncio.run(ask())


@pytest.mark.parametrize("question", [lambda: (b"no size", b""), lambda: (b"",)])
def test_a_question_that_ends_the_program_is_told_so(question: Callable[[], tuple[bytes, ...]]):
    """And its pipes are closed."""

    async def ask() -> None:
        apart = previews()
        with pytest.raises(Died, match="ended the program"):
            await apart.ask(question)
        assert apart.program is None
        apart.close()

    asyncio.run(ask())
