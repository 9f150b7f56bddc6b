"""The lanes with a real engine, in the form of a CPU and in that of a GPU."""

import threading
from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from understudy import images
from understudy.errors import LeaseLost
from understudy.testing import picture
from worker.lanes import Encoded, Feed, Lanes

PATIENCE_S = 30.0
IMAGES = [picture(n % 3, 3, seed=n, size=16) for n in range(11)]


class Kept:
    """A shard that remembers what became of its images."""

    def __init__(self) -> None:
        self.rows, self.left_out, self.errors, self.is_over = {}, {}, deque(), False

    def keep(self, position, row):
        self.rows[position] = row

    def leave_out(self, position, code, detail):
        self.left_out[position] = code

    def fail(self, error):
        self.is_over = True
        self.errors.append(error)


class Overtaken(Kept):
    """One that somebody else has taken over."""

    def keep(self, position, row):
        raise LeaseLost("overtaken")


@pytest.fixture(params=["cpu", "cuda"])
def engine(request, resources, champion):
    """A real engine; as if on a GPU it is one lane with decoders before it."""
    return replace(resources.engine(champion.version), provider=request.param)


def test_every_image_gets_the_engines_own_answer(engine, champion):
    """Of several shards at once, whoever's batch it was in; what is no image gets none, and harms no other."""
    first, second = Kept(), Kept()
    with Lanes(engine, cores=3, max_batch=4) as lanes:
        for position, data in enumerate(IMAGES):
            assert lanes.feed.put(Encoded(first, position, data))
        for position, data in enumerate([IMAGES[0], b"no image", IMAGES[1]]):
            assert lanes.feed.put(Encoded(second, position, data))
        lanes.feed.close()
    expected = engine.predict(np.stack([images.load(data, champion.preprocessing) for data in IMAGES]))
    np.testing.assert_allclose([first.rows[n] for n in range(len(IMAGES))], expected, rtol=1e-5)
    assert (sorted(second.rows), second.left_out) == ([0, 2], {1: "not_an_image"})


def test_a_shard_that_fails_takes_no_other_with_it(engine):
    """Also in one batch with it."""
    bad, good = Overtaken(), Kept()
    with Lanes(engine, cores=2, max_batch=4) as lanes:
        for position, data in enumerate(IMAGES):
            lanes.feed.put(Encoded(bad if position % 2 else good, position, data))
        lanes.feed.close()
    assert sorted(good.rows) == [0, 2, 4, 6, 8, 10]
    assert not good.errors
    assert bad.errors


def test_an_engine_that_breaks_fails_whose_images_it_had(engine):
    """And the lanes go on."""
    broken = replace(engine, _session=None)
    shards = [Kept(), Kept()]
    with Lanes(broken, cores=2, max_batch=2) as lanes:
        for shard in shards:
            lanes.feed.put(Encoded(shard, 0, IMAGES[0]))
        lanes.feed.close()
    assert [type(each.errors[0]) for each in shards] == [AttributeError, AttributeError]


def test_lanes_that_are_left_by_an_error_end_soon(engine):
    """What waits is dropped, and who puts more is told."""
    shard = Kept()
    lanes = Lanes(engine, cores=2, max_batch=2)

    def leave() -> None:
        with lanes:
            for position in range(500):
                lanes.feed.put(Encoded(shard, position, IMAGES[0]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave()
    assert not lanes.feed.put(Encoded(shard, 0, IMAGES[0]))


def test_a_feed_has_room_for_so_much_and_no_more():
    """In items and in bytes; one larger than all the room is taken all the same, alone."""
    feed: Feed[Encoded] = Feed(max_items=3, max_bytes=10)
    shard, put = Kept(), []

    def fill() -> None:
        for position, size in enumerate((4, 4, 30, 1)):
            feed.put(Encoded(shard, position, b"x" * size))
            put.append(position)
        feed.close()

    filling = threading.Thread(target=fill)
    filling.start()
    taken = []
    while batch := feed.take(1):
        assert len(put) <= len(taken) + 4
        taken += [item.position for item in batch]
    filling.join(PATIENCE_S)
    assert taken == put == [0, 1, 2, 3]
