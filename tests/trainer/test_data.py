import ast
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import trainer
from trainer import data, targets
from trainer.data import Batches, Pictures, Rows
from trainer.noise import Noise
from understudy import images, labels, recipes
from understudy.errors import Refused
from understudy.label_records import Selection
from understudy.records import ShardManifest
from understudy.shards import ShardWriter
from understudy.store import Store, manifest_key

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
RECIPE = recipes.recipe("tiny", {"labeled_batch": 4, "unlabeled_ratio": 3, "label_smoothing": 0.1})


SOFT = recipes.recipe("small", {})


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


def selected(store: Store, manifest: ShardManifest, copies: list[int]) -> tuple[str, Selection]:
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

    written = labels.table_to_parquet(pa.Table.from_pylist(rows))
    found = Selection(
        classes=CLASSES, threshold=0.3, max_copies=4, num_candidates=0, num_kept=0, num_rows=0,
        per_class={}, starved=(), empty=(), rows_sha256=hashlib.sha256(written).hexdigest(),
    )  # fmt: skip
    store.replace("generations/0001/selection.parquet", written)
    return "generations/0001/selection.parquet", found


def make_batches(store: Store, labeled: Rows, pseudo: Rows | None, seed: int = 0) -> Batches:
    noise = Noise(RECIPE)
    return Batches(labeled, pseudo, Pictures(store, noise), noise, RECIPE, seed)


def test_labeled_targets_are_smoothed(local_store, sealed):
    """0.1 is spread over ten classes, so the true one keeps 0.91."""
    rows = data.labeled_rows(local_store, [sealed["labeled"].key], CLASSES, RECIPE)

    whole = rows.whole_targets(range(20))
    assert (whole.shape, whole.dtype) == ((20, 10), np.float32)
    assert sorted(set(whole.ravel().round(4).tolist())) == pytest.approx([0.01, 0.91])
    assert whole.argmax(axis=1).tolist() == [int(m.class_name) for m in sealed["labeled"].members]


def test_soft_targets_are_never_smoothed(local_store, sealed):
    """They are the teacher's probabilities, the tail spread evenly; copies repeat a row."""
    rows = data.pseudo_rows(local_store, *selected(local_store, sealed["unlabeled"], [1, 3]), CLASSES, SOFT)

    assert len(rows) == 4
    assert rows.whole_targets([0])[0] == pytest.approx([0.7, 0.2] + [0.1 / 8] * 8, abs=1e-6)
    assert rows.place(1) == rows.place(2) == rows.place(3) != rows.place(0)


def test_hard_targets_are_smoothed(local_store, sealed):
    """As the official code does."""
    rows = data.pseudo_rows(local_store, *selected(local_store, sealed["unlabeled"], [1, 1]), CLASSES, RECIPE)

    assert rows.whole_targets([1])[0] == pytest.approx([0.01, 0.91] + [0.01] * 8)


def test_a_student_may_know_more_classes_than_its_teacher(local_store, sealed):
    """The teacher's labels are read by the names of its classes; a class that it does not know gets nothing."""
    more = ("00", *CLASSES)
    rows = data.pseudo_rows(local_store, *selected(local_store, sealed["unlabeled"], [1]), more, SOFT)

    assert rows.whole_targets([0])[0] == pytest.approx([0.0, 0.7, 0.2] + [0.1 / 8] * 8, abs=1e-6)


@pytest.mark.parametrize("split", ["holdout", "unlabeled"])
def test_only_the_labeled_split_trains_as_labeled(local_store, sealed, split):
    """A holdout shard is refused by what its manifest says, whoever names it."""
    with pytest.raises(Refused, match=f"is {split}, not labeled"):
        data.labeled_rows(local_store, [sealed[split].key], CLASSES, RECIPE)


def test_a_selection_cannot_reach_the_holdout(local_store, sealed):
    """Design, invariant 3."""
    with pytest.raises(Refused, match="is holdout, not unlabeled"):
        data.pseudo_rows(local_store, *selected(local_store, sealed["holdout"], [1]), CLASSES, RECIPE)


def test_only_evaluation_reads_the_holdout():
    """Outside of evaluate.py, nothing but the list of the holdout's shards for it is asked for (by the robustness command too)."""
    folder = Path(trainer.__file__).parent
    spoken = {
        path.name: sum(
            isinstance(n, ast.Constant) and n.value == "holdout" for n in ast.walk(ast.parse(path.read_text()))
        )
        for path in folder.rglob("*.py")
    }

    assert {name: count for name, count in spoken.items() if count} == {
        "evaluate.py": 1, "judging.py": 1, "plan.py": 1, "__main__.py": 1,
    }  # fmt: skip


def test_a_selection_that_is_gone_or_damaged_is_named(local_store, sealed):
    """By its key, and with what to do."""
    key, found = selected(local_store, sealed["unlabeled"], [1, 1])
    whole = local_store.get(key)

    local_store.replace(key, whole[:-1] + b"?")
    with pytest.raises(Refused, match=rf"{key} is damaged: its sha-256.*open another generation") as damaged:
        data.pseudo_rows(local_store, key, found, CLASSES, RECIPE)
    local_store.delete(key)
    with pytest.raises(Refused, match=f"{key} is not in the store") as missing:
        data.pseudo_rows(local_store, key, found, CLASSES, RECIPE)

    assert (damaged.value.code, missing.value.code) == ("selection_damaged", "selection_missing")


@pytest.mark.parametrize(
    ("damage", "code"), [(None, "shard_missing"), (b'{"key": ', "shard_damaged"), (b"{}", "shard_damaged")]
)
def test_a_manifest_that_is_gone_or_damaged_is_named(local_store, sealed, damage, code):
    """Of labeled and of unlabeled shards."""
    key, found = selected(local_store, sealed["unlabeled"], [1, 1])
    for split in ("labeled", "unlabeled"):
        manifest = manifest_key(sealed[split].key)
        local_store.delete(manifest)
        if damage is not None:
            local_store.put(manifest, damage)

    with pytest.raises(Refused, match=sealed["labeled"].key) as labeled:
        data.labeled_rows(local_store, [sealed["labeled"].key], CLASSES, RECIPE)
    with pytest.raises(Refused, match=sealed["unlabeled"].key) as unlabeled:
        data.pseudo_rows(local_store, key, found, CLASSES, RECIPE)

    assert (labeled.value.code, unlabeled.value.code) == (code, code)


def test_a_shard_without_an_image_that_was_selected_is_named(local_store, sealed):
    """Its manifest is another's."""
    key, found = selected(local_store, sealed["unlabeled"], [1, 1, 1])
    less = sealed["unlabeled"].model_copy(update={"members": sealed["unlabeled"].members[2:]})
    local_store.replace(manifest_key(less.key), less.to_json())

    with pytest.raises(Refused, match=f"2 of 3 images that were selected of shard {less.key} are not in its manifest"):
        data.pseudo_rows(local_store, key, found, CLASSES, RECIPE)


def test_a_class_that_the_student_lacks_is_refused(local_store, sealed):
    """Of the teacher, and of the labeled set."""
    with pytest.raises(Refused, match="the teacher knows 9, which the student does not"):
        data.pseudo_rows(local_store, *selected(local_store, sealed["unlabeled"], [1]), CLASSES[:-1], RECIPE)
    with pytest.raises(Refused, match="has images of 0, which are no classes of this student"):
        data.labeled_rows(local_store, [sealed["labeled"].key], CLASSES[1:], RECIPE)


def test_classes_of_one_data_set_alone_are_said(local_store, sealed):
    """One that only pseudo-labels have, one without any pseudo-label after selection, and one that nobody teaches."""
    more = (*CLASSES, "new")
    labeled = data.labeled_rows(local_store, [sealed["labeled"].key], more, RECIPE)
    few = Rows(labeled.places, labeled.targets, np.flatnonzero(labeled.targets.classes[:, 0] >= 2).astype(np.int32))
    pseudo = data.pseudo_rows(local_store, *selected(local_store, sealed["unlabeled"], [1] * 8), more, RECIPE)

    assert data.lone_classes(few, pseudo, more) == [
        "2 of 11 classes have no labeled image, and are learned from the teacher's labels alone: 0, 1",
        "2 of 11 classes have no pseudo-label after selection, and are learned from labeled images alone: 8, 9",
        "1 of 11 classes have neither labeled images nor pseudo-labels: nobody teaches them: new",
    ]
    assert data.lone_classes(labeled, labeled, more)[0].startswith("1 of 11 classes have neither")


def test_a_row_of_ten_classes_takes_less_than_a_hundred_bytes(local_store, sealed):
    """10 million of them fit into a GB: columns, and sparse targets."""
    rows = data.pseudo_rows(local_store, *selected(local_store, sealed["unlabeled"], [3] * 9), CLASSES, SOFT)
    wide = targets.soft(
        np.zeros((5, 10), np.int32),
        np.full((5, 10), 0.09, np.float32),
        np.full(5, 0.1, np.float32),
        np.ones(1000, bool),
    )

    columns = (rows.places.shard, rows.places.offset, rows.places.num_bytes)
    assert sum(column.nbytes for column in columns) == 16 * 9
    assert rows.image.nbytes == 4 * 27
    assert (wide.classes.nbytes + wide.probabilities.nbytes + wide.others.nbytes) / 5 == 64


def test_a_batch_has_its_labeled_images_first_and_its_ratio(local_store, sealed):
    """Labeled rows, then unlabeled_ratio times as many: one concatenated batch."""
    labeled = data.labeled_rows(local_store, [sealed["labeled"].key], CLASSES, RECIPE)
    pseudo = data.pseudo_rows(local_store, *selected(local_store, sealed["unlabeled"], [1] * 9), CLASSES, SOFT)

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


def test_a_process_makes_the_batches_that_threads_make(local_store, sealed):
    """Pixels and targets, from the step on at which a run resumes; labeled and pseudo-labeled ones."""
    labeled = data.labeled_rows(local_store, [sealed["labeled"].key], CLASSES, RECIPE)
    pseudo = data.pseudo_rows(local_store, *selected(local_store, sealed["unlabeled"], [2] * 9), CLASSES, SOFT)
    threads = make_batches(local_store, labeled, pseudo)

    made = list(replace(threads, num_workers=1).since(3, 6))

    for one, two in zip(made, threads.since(3, 6), strict=True):
        assert np.array_equal(one.pixels, two.pixels)
        assert np.array_equal(one.targets, two.targets)
        assert (one.num_labeled, len(one.pixels)) == (4, 16)


def test_a_short_run_starts_no_process_unless_it_is_asked_for(local_store, sealed):
    """However many cores there are."""
    labeled = data.labeled_rows(local_store, [sealed["labeled"].key], CLASSES, RECIPE)

    made = [data.batches(local_store, labeled, None, RECIPE, 0, 10, workers) for workers in (-1, 0, 2)]

    assert [one.num_workers for one in made] == [0, 0, 2]
    assert made[0].num_images == 4


def test_drawing_goes_through_all_rows_before_it_repeats_one():
    """Every epoch is a permutation, across the borders of batches."""
    steps = [data.drawn(10, step, 4, seed=3, stream=0) for step in range(5)]
    flat = [row for step in steps for row in step]

    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert data.drawn(10, 0, 4, seed=3, stream=1) != steps[0]


@pytest.mark.parametrize("num", [2, 3])
def test_parts_of_a_batch_are_the_whole(local_store, sealed, num):
    """What processes that train together make are the images of one process, noise and all, each once."""
    labeled = data.labeled_rows(local_store, [sealed["labeled"].key], CLASSES, RECIPE)
    pseudo = data.pseudo_rows(local_store, *selected(local_store, sealed["unlabeled"], [1] * 9), CLASSES, RECIPE)

    whole = data.batches(local_store, labeled, pseudo, RECIPE, 3, 10).at(2)
    parts = [data.batches(local_store, labeled, pseudo, RECIPE, 3, 10, part=(i, num)).at(2) for i in range(num)]

    for of in (lambda part: part.pixels, lambda part: part.targets):
        labeled_ones = [of(part)[: part.num_labeled] for part in parts]
        others = [of(part)[part.num_labeled :] for part in parts]
        assert np.array_equal(np.concatenate(labeled_ones + others), of(whole))
    assert sum(part.labeled_share for part in parts) == pytest.approx(1)
    assert sum(part.pseudo_share for part in parts) == pytest.approx(1)
