"""Which models learned from a bucket: read from what each generation wrote down when it froze its label sets."""

import json

from understudy.catalog import Catalog, generations
from understudy.store import Store, generation_key, shards_prefix


def trained_on(catalog: Catalog, store: Store, folder: str) -> tuple[list[str], list[str]]:
    """The versions whose pseudo-labels were selected from a bucket's label sets, and those taught by them in turn.

    ``folder`` is the bucket's. Both in the order of their generations; the second without the first.
    """
    learned: list[str] = []
    taught: list[str] = []
    for generation in reversed(generations.every(catalog)):
        if generation.version is None:
            continue
        if _selected_from(store, generation.number, shards_prefix(folder)):
            learned.append(generation.version)
        elif generation.teacher in {*learned, *taught}:
            taught.append(generation.version)
    return learned, taught


def _selected_from(store: Store, number: int, prefix: str) -> bool:
    try:
        frozen = json.loads(store.get(generation_key(number, "labels.json")))
    except FileNotFoundError:  # it ended before it had any
        return False
    return any(str(shard).startswith(prefix) for shard in frozen["shards"])
