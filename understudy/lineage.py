"""Which models learned from what: read from what each generation wrote down before it learned."""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from understudy import labels
from understudy.catalog import Catalog, generations
from understudy.store import Store, generation_key, reviewed_key, selection_key, shards_prefix


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


def learned(catalog: Catalog, store: Store, sha256s: Collection[str], *, spool: Path | None = None) -> dict[str, int]:
    """Those of these images of buckets that a student may have learned from, and the first generation that did.

    They were selected as pseudo-labeled, or reviewed for its plan. What became of the student does not matter. A
    generation with a teacher that is not finished counts as having learned from all: what it chooses is not settled.
    """
    found: dict[str, int] = {}
    for generation in reversed(generations.every(catalog)):
        left = [sha256 for sha256 in sha256s if sha256 not in found]
        if left and generation.teacher is not None:
            chosen = _chosen(store, generation.number, left, spool) if generation.state.is_ended else left
            found |= dict.fromkeys(chosen, generation.number)
    return found


def _chosen(store: Store, number: int, sha256s: list[str], spool: Path | None) -> Iterable[str]:
    """Those that a generation has frozen as its own; all of them if the list of what it selected is lost."""
    reviewed = _frozen(store, number, "plan.json").get("reviewed", {}).get("file_sha256")
    lists = [reviewed_key(number, reviewed)] if reviewed else []
    if rows := _frozen(store, number, "selection.json").get("rows_sha256"):
        lists.append(selection_key(number, rows))
    if not all(store.exists(key) for key in lists):
        return sha256s
    asked = labels.table({"sha256": sha256s}, sha256="string")
    chosen: set[str] = set()
    for key in lists:  # they have no other column in common
        sql = "SELECT DISTINCT sha256 FROM labels WHERE sha256 IN (SELECT sha256 FROM asked)"
        chosen.update(labels.query(store, [key], sql, spool=spool, asked=asked)["sha256"].to_pylist())
    return chosen


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
