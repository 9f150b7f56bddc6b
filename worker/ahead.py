"""Working ahead: what comes next is made in a thread while what came before is worked on."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_END = object()


@contextmanager
def ahead(items: Generator[T]) -> Iterator[Iterator[T]]:
    """The same items in the same order, one of them made ahead; what making one raises, taking it raises.

    ``items`` runs in that thread alone, and is closed there when the block ends, however it does.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        try:
            yield _taken(thread, items)
        finally:
            thread.submit(items.close).result()


def _taken(thread: ThreadPoolExecutor, items: Generator[T]) -> Iterator[T]:
    making = thread.submit(next, items, _END)
    while (item := making.result()) is not _END:
        making = thread.submit(next, items, _END)
        yield item  # type: ignore[misc]  # what is not _END is a T
