import ast
from pathlib import Path

import numpy as np
import pytest

import trainer
from trainer import data
from trainer.data import Batches, Pictures, Rows
from trainer.noise import Noise
from trainer.selection import Selection
from understudy import images, labels, recipes
from understudy.errors import Refused
from understudy.records import ShardManifest
from understudy.shards import ShardWriter
from understudy.store import Store

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
RECIPE = recipes.recipe("tiny", {"labeled_batch": 4, "unlabeled_ratio": 3, "label_smoothing": 0.1})


@pytest.fixture
def sealed(local_store, digits, tmp_path):
    """One shard of 20 digits of each split, in a store."""

    def seal(split: str, at: int) -> ShardManifest:
        writer = ShardWriter(tmp_path / f"{split}.tar", split=split, bucket="b" if split == "unlabeled" else None)
        for digit in digits[at : at + 20]:
            name = None if split == "unlabeled" else digit.class_name
            writer.add(digit.data, sha256=digit.sha256, name="x", facts=images.inspect(digit.data), class_name=name)
        return writer.seal(local_store)

    return {split: seal(split, 20 * i) for i, split in enumerate(("labeled", "unlabeled", "holdout"))}


def selected(manifest: ShardManifest, copies: list[int]) -> tuple[bytes, Selection]:
    """The first images of a shard, as if they were selected: image i is soft 0.7 / 0.2 / tail of class i."""
    rows = [
        {
            "sha256": manifest.members[i].sha256,
            "shard": manifest.key,
            "label": i,
            "top_classes": [i, i + 1],
            "top_probabilities": [0.7, 0.2],
            "tail_mass": 0.1,
            "copies": count,
        }
        for i, count in enumerate(copies)
    ]
    import pyarrow as pa

    found = Selection(
        classes=CLASSES, threshold=0.3, max_copies=4, num_candidates=0, num_kept=0, num_rows=0,
        per_class={}, starved=(), empty=(), rows_sha256="0" * 64,
    )  # fmt: skip
    return labels.table_to_parquet(pa.Table.from_pylist(rows)), found


def make_batches(store: Store, labeled: Rows, pseudo: Rows | None, seed: int = 0) -> Batches:
    noise = Noise(RECIPE)
    return Batches(labeled, pseudo, Pictures(store, noise), noise, RECIPE, seed)


def test_labeled_targets_are_smoothed(local_store, sealed):
    """0.1 is spread over ten classes, so the true one keeps 0.91."""
    rows = data.labeled_rows(local_store, [sealed["labeled"].key], CLASSES, RECIPE)

    assert (rows.targets.shape, rows.targets.dtype) == ((20, 10), np.float32)
    assert sorted(set(rows.targets.ravel().round(4).tolist())) == pytest.approx([0.01, 0.91])
    assert rows.targets.argmax(axis=1).tolist() == [int(m.class_name) for m in sealed["labeled"].members]


def test_soft_targets_are_never_smoothed(local_store, sealed):
    """They are the teacher's probabilities, the tail spread evenly; copies repeat a row."""
    soft = recipes.recipe("small", {})
    rows = data.pseudo_rows(local_store, *selected(sealed["unlabeled"], [1, 3]), CLASSES, soft)

    assert len(rows) == 4
    assert rows.targets[0] == pytest.approx([0.7, 0.2] + [0.1 / 8] * 8, abs=1e-6)
    assert rows.places[1] == rows.places[2] == rows.places[3] != rows.places[0]


def test_hard_targets_are_smoothed(local_store, sealed):
    """As the official code does."""
    rows = data.pseudo_rows(local_store, *selected(sealed["unlabeled"], [1, 1]), CLASSES, RECIPE)

    assert rows.targets[1] == pytest.approx([0.01, 0.91] + [0.01] * 8)


def test_a_student_may_know_more_classes_than_its_teacher(local_store, sealed):
    """The teacher's labels are read by the names of its classes; a class that it does not know gets nothing."""
    more = ("00", *CLASSES)
    rows = data.pseudo_rows(local_store, *selected(sealed["unlabeled"], [1]), more, recipes.recipe("small", {}))

    assert rows.targets[0] == pytest.approx([0.0, 0.7, 0.2] + [0.1 / 8] * 8, abs=1e-6)


@pytest.mark.parametrize("split", ["holdout", "unlabeled"])
def test_only_the_labeled_split_trains_as_labeled(local_store, sealed, split):
    """A holdout shard is refused by what its manifest says, whoever names it."""
    with pytest.raises(Refused, match=f"is {split}, not labeled"):
        data.labeled_rows(local_store, [sealed[split].key], CLASSES, RECIPE)


def test_a_selection_cannot_reach_the_holdout(local_store, sealed):
    """Design, invariant 3."""
    with pytest.raises(Refused, match="is holdout, not unlabeled"):
        data.pseudo_rows(local_store, *selected(sealed["holdout"], [1]), CLASSES, RECIPE)


def test_only_evaluation_reads_the_holdout():
    """Outside of evaluate.py, nothing but the list of the holdout's shards for it is asked for."""
    folder = Path(trainer.__file__).parent
    spoken = {
        path.name: sum(
            isinstance(n, ast.Constant) and n.value == "holdout" for n in ast.walk(ast.parse(path.read_text()))
        )
        for path in folder.glob("*.py")
    }

    assert {name: count for name, count in spoken.items() if count} == {"evaluate.py": 1, "plan.py": 1}


def test_a_batch_has_its_labeled_images_first_and_its_ratio(local_store, sealed):
    """Labeled rows, then unlabeled_ratio times as many: one concatenated batch."""
    labeled = data.labeled_rows(local_store, [sealed["labeled"].key], CLASSES, RECIPE)
    pseudo = data.pseudo_rows(
        local_store, *selected(sealed["unlabeled"], [1] * 9), CLASSES, recipes.recipe("small", {})
    )

    batch = make_batches(local_store, labeled, pseudo).at(0)

    assert (batch.pixels.shape, batch.pixels.dtype, batch.num_labeled) == ((16, 16, 16, 3), np.uint8, 4)
    assert (batch.targets.shape, batch.targets.dtype) == ((16, 10), np.float32)
    assert batch.targets[:4].max(axis=1) == pytest.approx([0.91] * 4)
    assert batch.targets[4:].max(axis=1) == pytest.approx([0.7] * 12)
    assert len(make_batches(local_store, labeled, None).at(0).pixels) == 4


def test_batches_are_a_function_of_seed_and_step(local_store, sealed):
    """A run that resumes sees what it would have seen, whichever thread makes it."""
    labeled = data.labeled_rows(local_store, [sealed["labeled"].key], CLASSES, RECIPE)
    all_steps = list(make_batches(local_store, labeled, None).since(0, 8))
    resumed = list(make_batches(local_store, labeled, None).since(5, 8))
    other = make_batches(local_store, labeled, None, seed=1).at(5)

    assert len(all_steps) == 8
    for one, two in zip(all_steps[5:], resumed, strict=True):
        assert np.array_equal(one.pixels, two.pixels)
        assert np.array_equal(one.targets, two.targets)
    assert not np.array_equal(other.pixels, resumed[0].pixels)


def test_drawing_goes_through_all_rows_before_it_repeats_one():
    """Every epoch is a permutation, across the borders of batches."""
    steps = [data.drawn(10, step, 4, seed=3, stream=0) for step in range(5)]
    flat = [row for step in steps for row in step]

    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert data.drawn(10, 0, 4, seed=3, stream=1) != steps[0]


def test_pictures_beyond_the_room_are_read_again(local_store, sealed):
    """Memory is bounded; the picture is the same."""
    labeled = data.labeled_rows(local_store, [sealed["labeled"].key], CLASSES, RECIPE)
    pictures = Pictures(local_store, Noise(RECIPE), room=2 * 3 * 16 * 16)

    kept = [pictures[place] for place in labeled.places[:4]]

    assert pictures[labeled.places[0]] is kept[0]
    assert pictures[labeled.places[3]] is not kept[3]
    assert np.array_equal(np.asarray(pictures[labeled.places[3]]), np.asarray(kept[3]))
    assert pictures.room == 0
