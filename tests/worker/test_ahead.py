"""Items made ahead: the same, in order, in one thread, and nothing left running."""

import threading

import pytest

from worker.ahead import ahead


def test_one_is_made_while_another_is_worked_on(until):
    """All come in order; when the first is taken the second is made without being asked for, and no third."""
    made = []

    def items():
        for number in range(5):
            made.append(number)
            yield number

    with ahead(items()) as coming:
        first = next(coming)
        until(lambda: len(made) == 2)
        rest = list(coming)

    assert [first, *rest] == made == list(range(5))


def test_what_making_raises_is_raised_in_its_turn():
    """After what was made before it."""

    def items():
        yield 1
        raise ValueError("the second")

    with ahead(items()) as coming:
        assert next(coming) == 1
        with pytest.raises(ValueError, match="the second"):
            next(coming)


def test_a_block_that_fails_closes_what_it_took_from():
    """In the thread in which it ran: files that it holds open are closed, and no thread is left."""
    threads = []

    def items():
        try:
            while True:
                threads.append(threading.get_ident())
                yield 1
        finally:
            threads.append(threading.get_ident())

    def take() -> None:
        with ahead(items()) as coming:
            next(coming)
            raise KeyError("no")

    with pytest.raises(KeyError):
        take()

    assert len(threads) >= 2
    assert len(set(threads)) == 1
    assert threads[0] not in {thread.ident for thread in threading.enumerate()}
