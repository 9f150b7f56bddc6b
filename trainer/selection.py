"""Selection: which pseudo-labels a student trains on (paper, section 3.1, "data filtering and balancing").

First the confident ones, then as many of each class as the labeled set has in proportion: the most
confident are kept, the scarce are repeated. Or the former choice, labeled anew. The same label sets give the same
selection, whatever the order of their rows. It reads label sets only, never an image, and it never sees the holdout:
of that it is given the teacher's answers on the calibration half, where a recipe asks for a precision.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy import labels, quota, thresholds, tripwires
from understudy.errors import LabelSetMissing, Refused
from understudy.label_records import ClassYield, Selection
from understudy.labels import Session
from understudy.quota import Bins, Quota
from understudy.recipes import Recipe
from understudy.records import Record
from understudy.store import Store, sha256_of
from understudy.thresholds import Answers
from understudy.tripwires import Agreement

#: What a human labeled has no pseudo-label: neither the labeled set's images nor the holdout's.
_IS_UNLABELED = "NOT EXISTS (FROM human_labeled h WHERE h.sha256 = labels.sha256)"
#: Where classes have thresholds of their own, ``$threshold`` is the least of them: that one is pushed down into the files.
_CANDIDATE = f"confidence >= $threshold AND {_IS_UNLABELED}"

_COUNT = f"SELECT label, {{bin}} AS bin, count(*) AS num FROM {{labels}} WHERE {_CANDIDATE} GROUP BY ALL"
_COUNT_CONFIDENT = f"SELECT label, count(*) AS num FROM labels WHERE {_CANDIDATE} GROUP BY label"

#: The last image of each class that is favoured: all that are before it are, none after it is. Only the bin in
#: which it lies is put into order.
_EDGES = f"""
SELECT label, confidence AS edge_confidence, sha256 AS edge_sha256
FROM (
    SELECT label, confidence, sha256, num_wanted,
           row_number() OVER (PARTITION BY label ORDER BY confidence DESC, sha256) AS place
    FROM (SELECT label, confidence, sha256, {quota.BIN_SQL} AS bin FROM {{labels}} WHERE {_CANDIDATE})
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
FROM {{labels}} JOIN quotas USING (label) LEFT JOIN edges USING (label) JOIN sets USING (label_set)
WHERE {_CANDIDATE} AND (base > 0 OR confidence >= edge_confidence) AND copies > 0
ORDER BY label, confidence DESC, sha256
"""

#: The official code's form: a share of the copies by a coin that is the image's own, so that it falls the same
#: way each time (theirs is seeded too late). In the order of the label sets: nothing is sorted.
_PICK_THINNED = f"""
SELECT sha256, shard, label, confidence, top_classes, top_probabilities, tail_mass,
       (floor(copies_each) + (('0x' || sha256[1:8])::UBIGINT < (copies_each - floor(copies_each)) * 4294967296.0)
       ::INTEGER)::INTEGER AS copies
FROM {{labels}} JOIN quotas USING (label) JOIN sets USING (label_set)
WHERE {_CANDIDATE} AND {quota.COARSE_BIN_SQL} >= least_bin AND copies > 0
"""


#: The official code's "reassign": the images and copies of a former choice, with the labels of now.
_PICK_FORMER = f"""
SELECT sha256, shard, label, confidence, top_classes, top_probabilities, tail_mass, copies
FROM labels JOIN (SELECT sha256, copies FROM former) USING (sha256) JOIN sets USING (label_set)
WHERE {_IS_UNLABELED}
ORDER BY label, confidence DESC, sha256
"""


class LabelSets(Record):
    """The label sets that a selection is made from: frozen, so that it can be made again."""

    teacher: str | None  #: None: there is no teacher, and nothing to select from
    label_sets: tuple[str, ...] = ()  #: keys
    shards: tuple[str, ...] = ()  #: the key of the shard that each label set is of


@dataclass(frozen=True)
class Former:
    """A generation's choice that shall be labeled anew."""

    generation: int
    key: str  #: of its rows
    num_kept: int  #: different images in it


@dataclass(frozen=True)
class _Request:
    """What is to be selected from, and how."""

    sets: LabelSets
    classes: Sequence[str]
    labeled_counts: Mapping[str, int]
    recipe: Recipe
    answers: Answers

    def refused(self, why: str, advice: str) -> Refused:
        return Refused(
            f"none of the {len(self.sets.label_sets)} label sets of teacher {self.sets.teacher} holds a pseudo-label "
            f"{why}; {advice}",
            code="nothing_selected",
        )


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
    answers: Answers | None = None,
    former: Former | None = None,
    agreement: Agreement | None = None,
) -> Selection:
    """Choose pseudo-labels; writes the rows to the Parquet file ``rows``, and gives what they are in numbers.

    ``classes`` are the teacher's; ``labeled_counts`` is how often each is in the labeled set. ``answers`` are the
    teacher's on the calibration half, for thresholds by precision. With ``former`` that choice is labeled anew, and
    nothing is filtered. ``agreement`` with the teacher before is taken into the figures. Memory is bounded; what does
    not fit into it goes to ``spool`` (None: the system's temporary folder). Raises Refused with the code
    nothing_selected if no pseudo-label is left, LabelSetMissing, and LabelSetRefused for one that is damaged.
    """
    request = _Request(sets, classes, labeled_counts, recipe, answers or Answers())
    named = {"labels": sets.label_sets} | ({"former": (former.key,)} if former else {})
    tables = {
        "human_labeled": labels.table({"sha256": sorted(human_labeled)}, sha256="string"),
        "sets": labels.table({"label_set": sets.label_sets, "shard": sets.shards}, label_set="string", shard="string"),
    }
    try:
        with labels.opened(store, named, spool=spool, tables=tables) as session:
            chosen = _afresh(session, request) if former is None else _labeled_anew(session, request, former)
            num_labels = session.ask("SELECT count(*) AS num FROM labels").to_pylist()[0]["num"]
            shutil.move(chosen.written, rows)
    except FileNotFoundError as gone:
        raise LabelSetMissing(
            f"a label set that the catalog lists is not in the store: {gone}; restore it, then open another generation"
        ) from gone
    return _summary(request, chosen, former, num_labels, agreement, sha256_of(rows))


def refuse_collapse(selected: Selection, recipe: Recipe) -> None:
    """Raise Refused with the code selection_collapsed if a figure of a selection is beyond its limit."""
    sprung = selected.tripwires.sprung(recipe) if selected.tripwires else ()
    if sprung:
        raise Refused(f"the selection has collapsed: {'; and '.join(sprung)}", code=tripwires.COLLAPSED)


@dataclass(frozen=True)
class _Chosen:
    """A selection's rows, in a file that is gone with its session, and what they are by class."""

    written: Path
    yields: dict[str, ClassYield]


def _afresh(session: Session, request: _Request) -> _Chosen:
    """Filter and balance."""
    recipe, classes = request.recipe, request.classes

    # 1. How sure the teacher must be of each class
    least = _thresholds(session, request)
    source, lowest = thresholds.source(session, least, len(classes))
    known = {"threshold": lowest}

    # 2. Count, by class and bin of confidence
    bin_sql = quota.COARSE_BIN_SQL if recipe.balance == "histogram" else quota.BIN_SQL
    bins = _counted(session.ask(_COUNT.format(bin=bin_sql, labels=source), known))
    if not bins:
        raise request.refused(
            f"with a confidence of {lowest:g} or more",
            "ingest images of the classes, or lower threshold",
        )
    available = {label: sum(some.values()) for label, some in bins.items()}
    quotas = quota.of_classes(available, classes, request.labeled_counts, recipe)

    # 3. Write what is within the quotas
    write = _write_thinned if recipe.balance == "histogram" else _write_exact
    written = write(session, source, known, bins, quotas, recipe.max_copies)
    return _Chosen(written, _yields(session, written, classes, quotas, least))


def _labeled_anew(session: Session, request: _Request, former: Former) -> _Chosen:
    """The images and copies of a former choice, with the labels of now."""
    written = session.write(_PICK_FORMER)
    found = _written_by_class(session, written)
    if not found:
        raise request.refused(
            f"of the {former.num_kept} images that generation {former.generation} had selected",
            "their buckets are gone; set relabel to afresh",
        )
    none = (0, 0)
    return _Chosen(
        written,
        {
            name: ClassYield(
                available=found.get(i, none)[0],
                target=found.get(i, none)[1],
                kept=found.get(i, none)[0],
                rows=found.get(i, none)[1],
            )
            for i, name in enumerate(request.classes)
        },
    )


def _thresholds(session: Session, request: _Request) -> dict[int, float]:
    """The least confidence of each class; classes of which no label is trusted are left out."""
    recipe = request.recipe

    def num_confident() -> dict[int, int]:
        counts = session.ask(_COUNT_CONFIDENT, {"threshold": recipe.threshold}).to_pylist()
        return {row["label"]: row["num"] for row in counts}

    least = thresholds.of_classes(recipe, len(request.classes), request.answers, num_confident)
    if not least:
        raise request.refused(
            f"that is proved to be right in {recipe.min_precision:.0%} of cases, by {len(request.answers.is_right)} "
            f"answers on the calibration half of the holdout",
            f"at least {thresholds.least_answers(recipe.min_precision)} right ones are needed: send more labeled "
            f"images, lower min_precision, or set thresholds to fixed",
        )
    return least


def _counted(table: Any) -> dict[int, dict[int, int]]:
    bins: dict[int, dict[int, int]] = {}
    counts = table.to_pydict()
    for label, number, num in zip(counts["label"], counts["bin"], counts["num"], strict=True):
        bins.setdefault(label, {})[number] = num
    return bins


def _write_exact(
    session: Session,
    source: str,
    known: dict[str, Any],
    bins: Mapping[int, Bins],
    quotas: Mapping[int, Quota],
    max_copies: int,
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
    session.keep("edges", _EDGES.format(labels=source), known)
    return session.write(_PICK.format(labels=source), known | {"max_copies": max_copies})


def _write_thinned(
    session: Session,
    source: str,
    known: dict[str, Any],
    bins: Mapping[int, Bins],
    quotas: Mapping[int, Quota],
    max_copies: int,
) -> Path:
    thinned = {label: quota.thinned(some, quotas[label].target, max_copies) for label, some in bins.items()}
    columns: dict[str, list[Any]] = {
        "label": list(thinned),
        "least_bin": [one.bin for one in thinned.values()],
        "copies_each": [one.copies for one in thinned.values()],
    }
    session.give("quotas", labels.table(columns, label="int32", least_bin="int32", copies_each="float64"))
    return session.write(_PICK_THINNED.format(labels=source), known)


def _yields(
    session: Session,
    written: Path,
    classes: Sequence[str],
    quotas: Mapping[int, Quota],
    least: Mapping[int, float],
) -> dict[str, ClassYield]:
    found = _written_by_class(session, written)
    return {
        name: ClassYield(
            available=quotas[i].available,
            target=quotas[i].target,
            kept=found.get(i, (0, 0))[0],
            rows=found.get(i, (0, 0))[1],
            threshold=least.get(i),
        )
        for i, name in enumerate(classes)
    }


def _written_by_class(session: Session, written: Path) -> dict[int, tuple[int, int]]:
    """What was really written: of each class that has any, the different images, and these with their copies."""
    told = session.ask(
        "SELECT label, count(*) AS kept, sum(copies)::BIGINT AS num_rows FROM read_parquet($file) GROUP BY label",
        {"file": str(written)},
    )
    return {row["label"]: (row["kept"], row["num_rows"]) for row in told.to_pylist()}


def _summary(
    request: _Request,
    chosen: _Chosen,
    former: Former | None,
    num_labels: int,
    agreement: Agreement | None,
    rows_sha256: str,
) -> Selection:
    recipe, yields = request.recipe, chosen.yields
    num_candidates = sum(y.available for y in yields.values())
    num_kept = sum(y.kept for y in yields.values())
    skew = thresholds.skew_in_words(request.labeled_counts) if recipe.thresholds == "adaptive" else None
    return Selection(
        classes=tuple(yields),
        threshold=recipe.threshold,
        thresholds=recipe.thresholds if former is None else "former",
        balance=recipe.balance if former is None else "former",
        max_copies=1 if recipe.balance == "none" else recipe.max_copies,
        num_labels=num_labels,
        num_candidates=num_candidates,
        num_kept=num_kept,
        num_rows=sum(y.rows for y in yields.values()),
        per_class=yields,
        starved=tuple(name for name, y in yields.items() if 0 < y.rows < y.target),
        empty=tuple(name for name, y in yields.items() if y.available == 0),
        rows_sha256=rows_sha256,
        relabeled=former.generation if former else None,
        num_gone=former.num_kept - num_kept if former else 0,
        num_answers=len(request.answers.is_right) if recipe.thresholds == "precision" else 0,
        tripwires=tripwires.measured(
            num_candidates=num_candidates,
            num_labels=former.num_kept if former else num_labels,
            candidates={name: y.available for name, y in yields.items()},
            labeled=request.labeled_counts,
            agreement=agreement,
        ),
        warnings=(skew,) if skew and former is None else (),
    )
