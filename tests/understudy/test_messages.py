"""The queue, with the real Redis and without any."""

import time

import pytest
from kombu.exceptions import OperationalError

from understudy import messages
from understudy.messages import LABEL, QUEUES, UNPACK

#: A request must not hang because Redis is away.
QUICKLY_S = 5.0


@pytest.fixture
def lonely_app(tmp_path):
    """An application whose Redis is away."""
    app = messages.celery_app(f"redis+socket://{tmp_path}/nobody.sock")
    yield app
    app.close()


def test_rings_are_counted_by_task(app):
    """Each task has its own queue, in which its messages wait."""
    assert (messages.num_waiting(app, LABEL), messages.num_waiting(app, UNPACK)) == (0, 0)

    assert all(messages.ring(app, LABEL, number) for number in range(3))
    assert messages.ring(app, UNPACK, "job")

    assert (messages.num_waiting(app, LABEL), messages.num_waiting(app, UNPACK)) == (3, 1)


def test_a_message_is_one_id_and_no_more(app):
    """What is sent is JSON with the id as its only argument."""
    messages.ring(app, UNPACK, "job1")

    with app.connection_for_read() as connection, connection.SimpleQueue(QUEUES[UNPACK]) as queue:
        message = queue.get(timeout=QUICKLY_S)
        message.ack()

    assert message.content_type == "application/json"
    args, kwargs, _ = message.payload
    assert (message.headers["task"], args, kwargs) == (UNPACK, ["job1"], {})


def test_ringing_without_redis_is_no_error(lonely_app):
    """If Redis is away the caller is told so soon, and goes on: the reconciler will ring."""
    began = time.monotonic()

    assert messages.ring(lonely_app, LABEL, 1) is False

    assert time.monotonic() - began < QUICKLY_S


def test_counting_without_redis_is_an_error_soon(lonely_app):
    """A count that cannot be had is not zero."""
    began = time.monotonic()

    with pytest.raises(OperationalError):
        messages.num_waiting(lonely_app, LABEL)

    assert time.monotonic() - began < QUICKLY_S


def test_redelivery_is_later_than_the_longest_labeling(app):
    """Redis must not hand a label task out again while it can still run; unpacking has no limit, but a lease."""
    limit = app.conf.task_annotations[messages.LABEL]["time_limit"]
    assert app.conf.broker_transport_options["visibility_timeout"] > limit
    assert app.conf.task_time_limit is None
    assert app.conf.task_acks_late
    assert not app.conf.task_reject_on_worker_lost
    assert app.conf.accept_content == ["json"]


def test_a_full_redis_is_one_that_is_away(app):
    """Nobody is rung and nothing can be counted until there is room; what waits is in the catalog."""
    with app.connection_for_write() as connection:
        redis = connection.default_channel.client
        redis.config_set("maxmemory", "1")
        try:
            assert messages.ring(app, LABEL, 1) is False
            with pytest.raises(OperationalError, match="maxmemory"):
                messages.num_waiting(app, LABEL)
        finally:
            redis.config_set("maxmemory", "0")
    assert messages.ring(app, LABEL, 1) is True
