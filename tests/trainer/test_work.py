"""One claimed generation being worked on."""

import threading

import pytest

from trainer.progress import Progress
from trainer.work import Work


@pytest.fixture
def work(make_world):
    """A claimed generation."""
    world = make_world()
    turn, claim = world.open(recipe="tiny", overrides=world.quick)
    return Work(world.place, claim, Progress(world.catalog, claim, threading.Event()), turn.number)


def test_a_picture_that_cannot_be_drawn_is_a_line_in_the_log(work, caplog):
    """It ends nothing, and the next that can be drawn is kept; one that is there is not drawn again."""

    def fail() -> bytes:
        raise ValueError("no such letter")

    work.draw("augmented.jpg", fail)
    assert "has no picture augmented.jpg" in caplog.text
    assert not work.place.store.exists("generations/0000/augmented.jpg")

    work.draw("augmented.jpg", lambda: b"picture")
    work.draw("augmented.jpg", fail)
    assert work.get("augmented.jpg") == b"picture"
