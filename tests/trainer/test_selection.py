import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer import selection
from trainer.selection import LabelSets
from understudy import labels, recipes
from understudy.errors import Refused
from understudy.store import Store

CLASSES = ("ant", "bee", "cat")


def sha(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def put_labels(store, confidences, key="labels/t/b/1.1.parquet"):
    """One label set: ``confidences`` is a list of (class, confidence); image i is sha(i)."""
    rows = np.zeros((len(confidences), len(CLASSES)), dtype=np.float32)
    for i, (label, confidence) in enumerate(confidences):
        rows[i] = (1 - confidence) / 2
        rows[i, label] = confidence
    store.replace(key, labels.to_parquet([sha(i) for i in range(len(confidences))], rows, {"teacher": "t"}))
    return LabelSets(teacher="t", label_sets=(key,), shards=("shards/b/1.tar",))


def select(store, sets, *, human_labeled=frozenset(), counts=None, **overrides):
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
