"""Selection: which pseudo-labels a student trains on (paper, section 3.1, "data filtering and balancing").

First the confident ones, then as many of each class as the labeled set has in proportion: the most
confident are kept, the scarce are repeated. The same label sets give the same selection, whatever the
order of their rows. It reads label sets only, never an image, and it never sees the holdout.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy import labels, quota
from understudy.errors import Refused
from understudy.labels import Session
from understudy.quota import Bins, Quota
from understudy.recipes import Recipe
from understudy.records import Record, Sha256
from understudy.store import Store, sha256_of

#: What a human labeled has no pseudo-label: neither the labeled set's images nor the holdout's.
_CANDIDATE = "confidence >= $threshold AND NOT EXISTS (FROM human_labeled h WHERE h.sha256 = labels.sha256)"

_COUNT = "SELECT label, {bin} AS bin, count(*) AS num FROM labels WHERE {candidate} GROUP BY ALL"

#: The last image of each class that is favoured: all that are before it are, none after it is. Only the bin in
#: which it lies is put into order.
_EDGES = f"""
SELECT label, confidence AS edge_confidence, sha256 AS edge_sha256
FROM (
    SELECT label, confidence, sha256, num_wanted,
           row_number() OVER (PARTITION BY label ORDER BY confidence DESC, sha256) AS place
    FROM (SELECT label, confidence, sha256, {quota.BIN_SQL} AS bin FROM labels WHERE {_CANDIDATE})
    JOIN cuts USING (label, bin)
)
WHERE place = num_wanted
"""

#: Every image gets ``base`` copies, and the favoured one more; no more than ``max_copies`` of any.
_PICK = f"""
SELECT sha256, shard, label, confidence, top_classes, top_probabilities, tail_mass,
       least($max_copies, base + coalesce(
           confidence > edge_confidence OR (confidence = edge_confidence AND sha256 <= edge_sha256), false
       )::BIGINT)::INTEGER AS copies
FROM labels JOIN quotas USING (label) LEFT JOIN edges USING (label) JOIN sets USING (label_set)
WHERE {_CANDIDATE} AND (base > 0 OR confidence >= edge_confidence) AND copies > 0
ORDER BY label, confidence DESC, sha256
"""

#: The official code's form: a share of the copies by a coin that is the image's own, so that it falls the same
#: way each time (theirs is seeded too late). In the order of the label sets: nothing is sorted.
_PICK_THINNED = f"""
SELECT sha256, shard, label, confidence, top_classes, top_probabilities, tail_mass,
       (floor(copies_each) + (('0x' || sha256[1:8])::UBIGINT < (copies_each - floor(copies_each)) * 4294967296.0)
       ::INTEGER)::INTEGER AS copies
FROM labels JOIN quotas USING (label) JOIN sets USING (label_set)
WHERE {_CANDIDATE} AND {quota.COARSE_BIN_SQL} >= least_bin AND copies > 0
"""


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


def select(
    store: Store,
    sets: LabelSets,
    *,
    classes: Sequence[str],
    labeled_counts: Mapping[str, int],
    human_labeled: set[str],
    recipe: Recipe,
    rows: Path,
    spool: Path | None = None,
) -> Selection:
    """Choose pseudo-labels; writes the rows to the Parquet file ``rows``, and gives what they are in numbers.

    ``classes`` are the teacher's; ``labeled_counts`` is how often each is in the labeled set. Memory is
    bounded; what does not fit into it goes to ``spool`` (None: the system's temporary folder). Raises
    Refused with the code nothing_selected if no pseudo-label is left.
    """
    known = {"threshold": recipe.threshold}
    tables = {
        "human_labeled": labels.table({"sha256": sorted(human_labeled)}, sha256="string"),
        "sets": labels.table({"label_set": sets.label_sets, "shard": sets.shards}, label_set="string", shard="string"),
    }
    with labels.opened(store, {"labels": sets.label_sets}, spool=spool, tables=tables) as session:
        # 1. Count, by class and bin of confidence
        bin_sql = quota.BIN_SQL if recipe.balance == "exact" else quota.COARSE_BIN_SQL
        bins = _counted(session.ask(_COUNT.format(bin=bin_sql, candidate=_CANDIDATE), known))
        if not bins:
            raise Refused(
                f"none of the {len(sets.label_sets)} label sets of teacher {sets.teacher} holds a pseudo-label with a "
                f"confidence of {recipe.threshold} or more; ingest images of the classes, or lower threshold",
                code="nothing_selected",
            )
        available = {label: sum(some.values()) for label, some in bins.items()}
        targets = quota.targets(available, classes, labeled_counts, recipe.per_class)
        quotas = {i: Quota(available.get(i, 0), targets[i], recipe.max_copies) for i in range(len(classes))}

        # 2. Write what is within the quotas
        write = _write_exact if recipe.balance == "exact" else _write_thinned
        written = write(session, known, bins, quotas, recipe.max_copies)
        yields = _yields(session, written, classes, quotas)
        shutil.move(written, rows)
    return _summary(yields, recipe, sha256_of(rows))


def _counted(table: Any) -> dict[int, dict[int, int]]:
    bins: dict[int, dict[int, int]] = {}
    counts = table.to_pydict()
    for label, number, num in zip(counts["label"], counts["bin"], counts["num"], strict=True):
        bins.setdefault(label, {})[number] = num
    return bins


def _write_exact(
    session: Session, known: dict[str, Any], bins: Mapping[int, Bins], quotas: Mapping[int, Quota], max_copies: int
) -> Path:
    """The best of each class, in order: the edge of each class first, then one pass that knows what is within."""
    cuts = {label: quota.cut(some, quotas[label].num_favoured) for label, some in bins.items()}
    found = {label: cut for label, cut in cuts.items() if cut is not None}
    columns: dict[str, list[Any]] = {
        "label": list(found),
        "bin": [cut.bin for cut in found.values()],
        "num_wanted": [cut.num_wanted for cut in found.values()],
    }
    session.give("cuts", labels.table(columns, label="int32", bin="int32", num_wanted="int64"))
    base = {"label": list(bins), "base": [quotas[label].base for label in bins]}
    session.give("quotas", labels.table(base, label="int32", base="int64"))
    session.keep("edges", _EDGES, known)
    return session.write(_PICK, known | {"max_copies": max_copies})


def _write_thinned(
    session: Session, known: dict[str, Any], bins: Mapping[int, Bins], quotas: Mapping[int, Quota], max_copies: int
) -> Path:
    thinned = {label: quota.thinned(some, quotas[label].target, max_copies) for label, some in bins.items()}
    columns: dict[str, list[Any]] = {
        "label": list(thinned),
        "least_bin": [one.bin for one in thinned.values()],
        "copies_each": [one.copies for one in thinned.values()],
    }
    session.give("quotas", labels.table(columns, label="int32", least_bin="int32", copies_each="float64"))
    return session.write(_PICK_THINNED, known)


def _yields(
    session: Session, written: Path, classes: Sequence[str], quotas: Mapping[int, Quota]
) -> dict[str, ClassYield]:
    """What was really written, by class."""
    told = session.ask(
        "SELECT label, count(*) AS kept, sum(copies)::BIGINT AS num_rows FROM read_parquet($file) GROUP BY label",
        {"file": str(written)},
    )
    by_label = {row["label"]: row for row in told.to_pylist()}
    return {
        name: ClassYield(
            available=quotas[i].available,
            target=quotas[i].target,
            kept=by_label[i]["kept"] if i in by_label else 0,
            rows=by_label[i]["num_rows"] if i in by_label else 0,
        )
        for i, name in enumerate(classes)
    }


def _summary(yields: dict[str, ClassYield], recipe: Recipe, rows_sha256: str) -> Selection:
    return Selection(
        classes=tuple(yields),
        threshold=recipe.threshold,
        max_copies=recipe.max_copies,
        num_candidates=sum(y.available for y in yields.values()),
        num_kept=sum(y.kept for y in yields.values()),
        num_rows=sum(y.rows for y in yields.values()),
        per_class=yields,
        starved=tuple(name for name, y in yields.items() if 0 < y.rows < y.target),
        empty=tuple(name for name, y in yields.items() if y.available == 0),
        rows_sha256=rows_sha256,
    )
