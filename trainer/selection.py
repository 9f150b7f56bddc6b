"""Selection: which pseudo-labels a student trains on (paper, section 3.1, "data filtering and balancing").

First the confident ones, then as many of each class as the labeled set has in proportion: the most
confident are kept, the scarce are repeated. The same label sets give the same selection, whatever the
order of their rows. It reads label sets only, never an image, and it never sees the holdout.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.recipes import Recipe
from understudy import labels
from understudy.errors import Refused
from understudy.records import Record, Sha256
from understudy.store import Store

#: What a human labeled has no pseudo-label: neither the labeled set's images nor the holdout's.
_CANDIDATES = """
WITH candidates AS (
    SELECT * FROM labels
    WHERE confidence >= $threshold AND sha256 NOT IN (SELECT unnest($human_labeled::VARCHAR[]))
)
"""

_COUNT = _CANDIDATES + "SELECT label, count(*) AS available FROM candidates GROUP BY label ORDER BY label"

#: Of ``available`` images every one gets ``target // available`` copies, and the most confident one more
#: until the target is met; no more than ``max_copies`` of any.
_PICK = (
    _CANDIDATES
    + """,
sets AS (SELECT unnest($label_sets::VARCHAR[]) AS label_set, unnest($shards::VARCHAR[]) AS shard),
quota AS (
    SELECT unnest($classes::INTEGER[]) AS label, unnest($targets::BIGINT[]) AS target,
           unnest($available::BIGINT[]) AS available
),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY label ORDER BY confidence DESC, sha256) AS place FROM candidates
)
SELECT sha256, shard, label, confidence, top_classes, top_probabilities, tail_mass,
       least($max_copies, target // available + (place <= target % available)::BIGINT)::INTEGER AS copies
FROM ranked JOIN quota USING (label) JOIN sets USING (label_set)
WHERE copies > 0
ORDER BY label, place
"""
)


class LabelSets(Record):
    """The label sets that a selection is made from: frozen, so that it can be made again."""

    teacher: str | None  #: None: there is no teacher, and nothing to select from
    label_sets: tuple[str, ...] = ()  #: keys
    shards: tuple[str, ...] = ()  #: the key of the shard that each label set is of


class ClassYield(Record):
    """What the filter and the balance made of one class."""

    available: int  #: images over the threshold
    target: int  #: images wanted
    kept: int  #: different images
    rows: int  #: with their copies


class Selection(Record):
    """What was selected, in numbers; the rows are in the Parquet file that its sha-256 names."""

    classes: tuple[str, ...]  #: the teacher's, which the rows' labels index
    threshold: float
    max_copies: int
    num_candidates: int  #: images over the threshold
    num_kept: int  #: different images
    num_rows: int  #: with their copies
    per_class: dict[str, ClassYield]
    starved: tuple[str, ...]  #: classes that copies could not fill
    empty: tuple[str, ...]  #: classes without any image over the threshold
    rows_sha256: Sha256


@dataclass(frozen=True)
class _Quota:
    """Wanted and available images of the classes that have any."""

    available: Mapping[int, int]
    targets: Mapping[int, int]


def select(
    store: Store,
    sets: LabelSets,
    *,
    classes: Sequence[str],
    labeled_counts: Mapping[str, int],
    human_labeled: set[str],
    recipe: Recipe,
) -> tuple[bytes, Selection]:
    """Choose pseudo-labels; gives the rows as a Parquet file, and what they are in numbers.

    ``classes`` are the teacher's; ``labeled_counts`` is how often each is in the labeled set. Raises
    Refused with the code nothing_selected if no pseudo-label is left.
    """
    known = {"threshold": recipe.threshold, "human_labeled": sorted(human_labeled)}
    counted = labels.query(store, sets.label_sets, _COUNT, known).to_pylist()
    available = {int(row["label"]): int(row["available"]) for row in counted}
    if not available:
        raise Refused(
            f"none of the {len(sets.label_sets)} label sets of teacher {sets.teacher} holds a pseudo-label with a "
            f"confidence of {recipe.threshold} or more; ingest images of the classes, or lower threshold",
            code="nothing_selected",
        )
    quota = _Quota(available, _targets(available, classes, labeled_counts, recipe.per_class))
    filled = sorted(available)
    table = labels.query(
        store,
        sets.label_sets,
        _PICK,
        known
        | {
            "label_sets": list(sets.label_sets),
            "shards": list(sets.shards),
            "classes": filled,
            "targets": [quota.targets[label] for label in filled],
            "available": [available[label] for label in filled],
            "max_copies": recipe.max_copies,
        },
    )
    rows = labels.table_to_parquet(table)
    return rows, _summary(rows, classes, quota, recipe)


def _targets(
    available: Mapping[int, int], classes: Sequence[str], labeled_counts: Mapping[str, int], per_class: int | None
) -> dict[int, int]:
    """How many images of each class to train on: all that there are, in the proportions of the labeled set."""
    if per_class is not None:
        return dict.fromkeys(range(len(classes)), per_class)
    total, labeled = sum(available.values()), sum(labeled_counts.values())
    return {i: max(1, math.floor(total * labeled_counts.get(name, 0) / labeled)) for i, name in enumerate(classes)}


def _summary(rows: bytes, classes: Sequence[str], quota: _Quota, recipe: Recipe) -> Selection:
    picked = labels.table_from_parquet(rows).select(["label", "copies"]).to_pydict()
    kept, copies = dict.fromkeys(range(len(classes)), 0), dict.fromkeys(range(len(classes)), 0)
    for label, count in zip(picked["label"], picked["copies"], strict=True):
        kept[label] += 1
        copies[label] += count
    per_class = {
        name: ClassYield(available=quota.available.get(i, 0), target=quota.targets[i], kept=kept[i], rows=copies[i])
        for i, name in enumerate(classes)
    }
    return Selection(
        classes=tuple(classes),
        threshold=recipe.threshold,
        max_copies=recipe.max_copies,
        num_candidates=sum(quota.available.values()),
        num_kept=sum(kept.values()),
        num_rows=sum(copies.values()),
        per_class=per_class,
        starved=tuple(name for name, y in per_class.items() if 0 < y.rows < y.target),
        empty=tuple(name for name, y in per_class.items() if y.available == 0),
        rows_sha256=hashlib.sha256(rows).hexdigest(),
    )
