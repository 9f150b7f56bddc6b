"""Quarantined bytes become pictures in a program that may die of them."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from service.previews import Previewer
from understudy import images
from understudy.errors import ImageRefused
from understudy.testing import picture

JPEG = picture(0, 3, size=256, image_format="JPEG")


@pytest.fixture
def previewer() -> Iterator[Previewer]:
    opened = Previewer()
    yield opened
    opened.close()


def test_as_much_as_can_be_decoded_is_shown(previewer: Previewer):
    """Also of a picture that breaks off; what is none is refused, and the program lives on."""

    async def ask() -> None:
        for data in (JPEG, JPEG[: len(JPEG) // 2]):
            assert images.inspect(await previewer.preview(data, 16)).width == 16
        program = previewer.apart.program
        with pytest.raises(ImageRefused, match="not an image") as refused:
            await previewer.preview(b"<script>", 16)
        assert refused.value.code == "no_preview"
        assert previewer.apart.program is program is not None

    asyncio.run(ask())


def test_a_program_that_dies_costs_one_picture(previewer: Previewer):
    """The next is made by another."""

    async def ask() -> None:
        await previewer.preview(JPEG, 16)
        assert previewer.apart.program is not None
        previewer.apart.program.kill()
        previewer.apart.program.wait()
        with pytest.raises(ImageRefused, match="ended the program"):
            await previewer.preview(JPEG, 16)
        assert await previewer.preview(JPEG, 16)

    asyncio.run(ask())


def test_a_picture_that_takes_too_long_is_given_up():
    """Its program is ended with it."""
    previewer = Previewer(image_s=0.1)

    async def ask() -> None:
        await previewer.preview(JPEG, 16)  # while it starts it has longer
        program = previewer.apart.program
        assert program is not None
        os.kill(program.pid, signal.SIGSTOP)
        with pytest.raises(ImageRefused, match=r"longer than 0\.1 s"):
            await previewer.preview(JPEG, 16)
        assert program.poll() is not None

    asyncio.run(ask())
    previewer.close()
