"""Which models learned from a bucket: read from what each generation wrote down when it froze its label sets."""

import json
from collections.abc import Iterable
from typing import Any

from understudy.catalog import Catalog, generations
from understudy.store import Store, generation_key, shards_prefix


def trained_on(catalog: Catalog, store: Store, folder: str) -> tuple[list[str], list[str]]:
    """The versions trained on a bucket's pseudo-labels or reviewed images, and those taught by them in turn.

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
    """Whether the generation's pseudo-labels, or the images that people had reviewed for it, are of the bucket."""
    read = (*_frozen(store, number, "labels.json").get("shards", ()), *_reviewed(_frozen(store, number, "plan.json")))
    return any(str(shard).startswith(prefix) for shard in read)


def _reviewed(plan: dict[str, Any]) -> Iterable[str]:
    return plan.get("reviewed", {}).get("shards", ())  # type: ignore[no-any-return]  # an earlier plan has no such field


def _frozen(store: Store, number: int, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(store.get(generation_key(number, name))))
    except FileNotFoundError:  # it ended before it had any
        return {}
