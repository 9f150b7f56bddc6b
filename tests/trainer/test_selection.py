import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer import selection
from trainer.selection import Former, LabelSets
from understudy import labels, recipes, thresholds
from understudy.errors import LabelSetRefused, Refused
from understudy.store import Store
from understudy.thresholds import Answers
from understudy.tripwires import Agreement

CLASSES = ("ant", "bee", "cat")


def sha(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def put_labels(store, confidences, key="labels/t/b/1.1.parquet", first=0):
    """One label set: ``confidences`` is a list of (class, confidence); image i is sha(i), from ``first`` on."""
    rows = np.zeros((len(confidences), len(CLASSES)), dtype=np.float32)
    for i, (label, confidence) in enumerate(confidences):
        rows[i] = (1 - confidence) / 2
        rows[i, label] = confidence
    store.replace(key, labels.to_parquet([sha(first + i) for i in range(len(confidences))], rows, {"teacher": "t"}))
    return LabelSets(teacher="t", label_sets=(key,), shards=("shards/b/1.tar",))


def select(
    store, sets, *, human_labeled=frozenset(), counts=None, answers=None, former=None, agreement=None, **overrides
):
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.parquet"
        summary = selection.select(
            store,
            sets,
            classes=CLASSES,
            labeled_counts=counts or dict.fromkeys(CLASSES, 5),
            human_labeled=set(human_labeled),
            recipe=recipes.recipe("small", overrides),
            rows=rows,
            spool=Path(folder),
            answers=answers,
            former=former,
            agreement=agreement,
        )
        return labels.table_from_parquet(rows.read_bytes()).to_pylist(), summary


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    confidences=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([0.4, 0.5, 0.6, 0.7, 0.9])), min_size=1, max_size=60
    ),
    max_copies=st.integers(1, 5),
    per_class=st.one_of(st.none(), st.integers(1, 30)),
    data=st.data(),
)
def test_properties_of_every_selection(local_store, confidences, max_copies, per_class, data):
    """Whatever the labels: confident images only, none of a human's, no more copies than allowed, the best ones first."""
    human = {sha(i) for i in data.draw(st.sets(st.integers(0, len(confidences) - 1), max_size=10))}
    sets = put_labels(local_store, confidences)
    candidates = [(i, c, p) for i, (c, p) in enumerate(confidences) if p >= 0.5 and sha(i) not in human]
    overrides = {"threshold": 0.5, "max_copies": max_copies, "per_class": per_class}
    if not candidates:
        with pytest.raises(Refused, match="lower threshold"):
            select(local_store, sets, human_labeled=human, **overrides)
        return

    rows, summary = select(local_store, sets, human_labeled=human, **overrides)

    assert len({row["sha256"] for row in rows}) == len(rows) == summary.num_kept
    assert not human & {row["sha256"] for row in rows}
    assert all(row["confidence"] >= 0.5 and 1 <= row["copies"] <= max_copies for row in rows)
    assert all(row["shard"] == "shards/b/1.tar" for row in rows)
    for label, name in enumerate(CLASSES):
        own = [row for row in rows if row["label"] == label]
        there = sorted(((-p, sha(i)) for i, c, p in candidates if c == label))
        target = summary.per_class[name].target
        assert [row["sha256"] for row in own] == [s for _, s in there[: len(own)]]
        assert sum(row["copies"] for row in own) == min(target, len(there) * max_copies) == summary.per_class[name].rows
        assert max((r["copies"] for r in own), default=1) - min((r["copies"] for r in own), default=1) <= 1


def test_classes_are_balanced_by_the_labeled_set(local_store):
    """The most confident of the abundant are kept, the scarce repeated, and the rest reported."""
    sets = put_labels(local_store, [(0, 0.9)] * 20 + [(1, 0.8)] * 2)

    _, summary = select(local_store, sets, counts={"ant": 10, "bee": 10, "cat": 2}, max_copies=3)

    assert summary.num_candidates == 22
    assert {name: (y.available, y.target, y.kept, y.rows) for name, y in summary.per_class.items()} == {
        "ant": (20, 10, 10, 10),
        "bee": (2, 10, 2, 6),
        "cat": (0, 2, 0, 0),
    }
    assert (summary.starved, summary.empty) == (("bee",), ("cat",))


def test_the_order_of_rows_and_sets_changes_nothing(tmp_path):
    """The same pseudo-labels give the same bytes."""
    confidences = [(i % 3, 0.5 + (i % 5) / 10) for i in range(50)]
    stores = [Store((tmp_path / name).as_uri()) for name in "ab"]
    forward = put_labels(stores[0], confidences)
    table = labels.table_from_parquet(stores[0].get(forward.label_sets[0]))
    stores[1].put(forward.label_sets[0], labels.table_to_parquet(table.take(list(reversed(range(50))))))

    assert select(stores[0], forward) == select(stores[1], forward)


def test_soft_labels_are_kept_as_the_teacher_gave_them(local_store):
    """The selection has all that is needed for soft targets."""
    rows, _ = select(local_store, put_labels(local_store, [(2, 0.8)]))

    assert rows[0]["top_classes"][0] == 2
    assert rows[0]["top_probabilities"] == pytest.approx([0.8, 0.1, 0.1])


def test_no_label_sets_are_nothing_to_learn_from(local_store):
    """A champion without a bucket."""
    with pytest.raises(Refused, match="ingest images"):
        select(local_store, LabelSets(teacher="t"))


def test_the_official_form_keeps_whole_bins_and_thins_them_by_each_images_own_coin(local_store):
    """The histogram form: the same each time, about as many as wanted, none below the edge, copies within the limit."""
    sets = put_labels(local_store, [(0, 0.5 + (i % 50) / 100) for i in range(1000)] + [(1, 0.95)] * 10)
    overrides = {"balance": "histogram", "per_class": 90, "max_copies": 3}

    rows, summary = select(local_store, sets, **overrides)

    ants = [row for row in rows if row["label"] == 0]
    assert min(row["confidence"] for row in ants) > 0.949  # 20 images a bin: five bins have the 90
    assert 70 <= summary.per_class["ant"].rows <= 100
    assert {row["copies"] for row in rows if row["label"] == 1} == {3}
    assert (summary.starved, summary.empty) == (("ant", "bee") if len(ants) < 90 else ("bee",), ("cat",))
    assert select(local_store, sets, **overrides) == (rows, summary)


def by_images(rows):
    """What was selected: of each image its class and copies."""
    return {row["sha256"]: (row["label"], row["copies"]) for row in rows}


#: Numbers that are the same in float32, as label sets have them, and in float64, as a recipe has.
CONFIDENCES = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([0.375, 0.5, 0.625, 0.75, 0.875])), min_size=1, max_size=60
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(confidences=CONFIDENCES)
def test_without_a_balance_all_that_is_confident_is_taken_once(local_store, confidences):
    """Whatever the labeled set has."""
    confidences = [*confidences, (0, 0.875)]
    expected = {sha(i): (label, 1) for i, (label, p) in enumerate(confidences) if p >= 0.5}

    rows, summary = select(
        local_store, put_labels(local_store, confidences), balance="none", threshold=0.5, max_copies=3
    )

    assert by_images(rows) == expected
    assert (summary.num_rows, summary.starved, summary.max_copies) == (len(expected), (), 1)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(confidences=CONFIDENCES, balance=st.sampled_from(["none", "exact", "histogram"]))
def test_each_class_has_its_own_threshold_where_precision_is_asked_for(local_store, confidences, balance):
    """Class 0 is proved from 0.75 on, class 1 by what all prove together, class 2 is proved to be mostly wrong."""
    mostly_wrong = [(2, 0.875, i % 2 == 0) for i in range(20)]
    said = [(0, 0.75, True)] * 200 + [(0, 0.375, False)] * 200 + mostly_wrong
    answers = Answers(
        predicted=tuple(c for c, _, _ in said),
        confidence=tuple(p for _, p, _ in said),
        is_right=tuple(right for _, _, right in said),
    )
    least = {0: 0.75, 1: 0.75}
    expected = {sha(i) for i, (label, p) in enumerate(confidences) if p >= least.get(label, 2)}
    sets = put_labels(local_store, [*confidences, (1, 0.875)])
    expected.add(sha(len(confidences)))
    overrides = {"thresholds": "precision", "min_precision": 0.8, "balance": balance, "per_class": 60}

    rows, summary = select(local_store, sets, answers=answers, **overrides)

    assert set(by_images(rows)) == expected
    assert [one.threshold for one in summary.per_class.values()] == [0.75, 0.75, None]
    assert (summary.thresholds, summary.num_answers, summary.num_candidates) == ("precision", 420, len(expected))
    assert summary.tripwires.kept_share == pytest.approx(len(expected) / (len(confidences) + 1))


def test_a_precision_that_nothing_proves_is_refused(local_store):
    """A teacher without answers, or with too few: the message has both numbers."""
    sets = put_labels(local_store, [(0, 0.9)])

    with pytest.raises(Refused, match=r"by 0 answers .* at least 15 right ones") as refused:
        select(local_store, sets, thresholds="precision", min_precision=0.9)

    assert refused.value.code == "nothing_selected"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(confidences=CONFIDENCES)
def test_adaptive_thresholds_follow_the_confident_labels_of_each_class(local_store, confidences):
    """FlexMatch's formula over a count by hand; what a human labeled counts nowhere."""
    confidences = [*confidences, (0, 0.875), (1, 0.875)]
    human = {sha(len(confidences) - 1)}
    known = [(i, c, p) for i, (c, p) in enumerate(confidences) if sha(i) not in human]
    counts = {label: sum(1 for _, c, p in known if c == label and p >= 0.75) for label in range(3)}
    least = {
        label: 0.75 * (num / max(counts.values())) / (2 - num / max(counts.values())) for label, num in counts.items()
    }
    expected = {sha(i) for i, c, p in known if p >= least[c]}

    rows, summary = select(
        local_store,
        put_labels(local_store, confidences),
        human_labeled=human,
        thresholds="adaptive",
        threshold=0.75,
        balance="none",
        counts={"ant": 30, "bee": 5, "cat": 5},
    )

    assert set(by_images(rows)) == expected
    assert [one.threshold for one in summary.per_class.values()] == pytest.approx(list(least.values()))
    assert "pull towards classes of equal size" in summary.warnings[0]


def test_adaptive_thresholds_of_hard_labels_keep_their_least(local_store):
    """Below 0.6 hard labels teach mistakes (see the recipe)."""
    sets = put_labels(local_store, [(0, 0.95)] * 9 + [(1, 0.95)] + [(1, 0.65), (1, 0.55), (2, 0.5)])

    rows, _ = select(local_store, sets, thresholds="adaptive", threshold=0.9, pseudo_labels="hard", balance="none")

    assert sorted(row["confidence"] for row in rows)[0] == pytest.approx(0.65)
    assert len(rows) == 11


def test_a_former_choice_is_labeled_anew(local_store):
    """Its images and copies with the labels of now, confident or not; what is gone or labeled by a human is counted."""
    first = put_labels(local_store, [(0, 0.9)] * 6 + [(1, 0.8)] * 2 + [(2, 0.2)] * 3, key="labels/t/b/1.1.parquet")
    chosen, summary = select(local_store, first, per_class=4, max_copies=3)
    local_store.replace("generations/0001/rows.parquet", labels.table_to_parquet(_table(chosen)))
    former = Former(1, "generations/0001/rows.parquet", summary.num_kept)
    now = put_labels(local_store, [(1, 0.4)] * 7 + [(2, 0.35)] * 3, key="labels/u/b/1.1.parquet", first=1)
    human = {sha(7)}

    rows, told = select(local_store, now, former=former, human_labeled=human, threshold=0.99)

    was = by_images(chosen)
    assert by_images(rows) == {sha256: (1, was[sha256][1]) for i in range(1, 7) if (sha256 := sha(i)) in was}
    assert all(row["top_probabilities"][0] == pytest.approx(0.4) for row in rows)
    assert (told.relabeled, told.num_kept + told.num_gone) == (1, summary.num_kept)
    assert told.num_gone >= 1
    assert (told.thresholds, told.balance, told.starved) == ("former", "former", ())
    assert told.tripwires.kept_share == told.num_kept / summary.num_kept


def _table(rows):
    return labels.table(
        {"sha256": [row["sha256"] for row in rows], "copies": [row["copies"] for row in rows]},
        sha256="string",
        copies="int32",
    )


def test_a_former_choice_of_which_nothing_is_left(local_store):
    """Its bucket was deleted: select afresh."""
    sets = put_labels(local_store, [(0, 0.9)])
    local_store.replace("generations/0001/rows.parquet", labels.table_to_parquet(_table([])))

    with pytest.raises(Refused, match="set relabel to afresh"):
        select(local_store, sets, former=Former(1, "generations/0001/rows.parquet", 9))


def test_a_damaged_former_choice_is_named(local_store):
    """As a damaged label set is."""
    sets = put_labels(local_store, [(0, 0.9)])
    local_store.replace("generations/0001/rows.parquet", b"PAR1 and no more")

    with pytest.raises(LabelSetRefused, match=r"generations/0001/rows\.parquet"):
        select(local_store, sets, former=Former(1, "generations/0001/rows.parquet", 9))


def test_a_collapse_is_refused_and_its_figures_are_kept(local_store):
    """The selection has them either way; the code and the sentence name the figure."""
    sets = put_labels(local_store, [(0, 0.9)] * 40)
    _, summary = select(local_store, sets, agreement=Agreement("g0000-abcdef", 40, 10))

    with pytest.raises(Refused, match=r"to a single class.*25\.0% of 40 images") as refused:
        selection.refuse_collapse(summary, recipes.recipe("small", {}))

    assert refused.value.code == "selection_collapsed"
    assert (summary.tripwires.class_shift, summary.tripwires.agreement) == (1.0, 0.25)
    selection.refuse_collapse(summary, recipes.recipe("small", {"max_class_shift": 1, "min_agreement": 0.2}))


def test_the_least_answers_of_a_recipe_are_told():
    """What the message of a refusal says is what the arithmetic needs."""
    assert thresholds.least_answers(recipes.recipe("small", {}).min_precision) == 15
