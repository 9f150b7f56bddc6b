"""What was read of label sets is not read again, and takes no more memory than it may."""

import numpy as np
import pytest

from understudy import label_index
from understudy.catalog import label_sets
from understudy.errors import LabelSetRefused
from understudy.label_index import LabelIndex
from understudy.testing import picture

NUM_SETS, NUM_ROWS = 5, 4
SET_BYTES = NUM_ROWS * 44


@pytest.fixture
def sets(teaching, sqlite_catalog, local_store):
    """Published label sets of one teacher, with some images' probabilities."""
    world = teaching(sqlite_catalog, local_store)
    teacher = world.teacher()
    for number in range(NUM_SETS):
        shard = world.shard("a", [picture(0, 3, seed=number * 100 + n, size=8) for n in range(NUM_ROWS)])
        world.label(shard, [[0.5 + number / 100, 0.3, 0.2 - number / 100]] * NUM_ROWS)
    return label_sets.listed(sqlite_catalog, teacher)


def told(index, sets):
    """Each label set's key with its rows, as Python has them."""
    return {
        one.key: (rows.digests.tolist(), rows.confidences.tolist(), rows.margins.tolist())
        for group in index.read(sets)
        for one, rows, _ in group
    }


def test_what_was_read_is_there_when_its_file_is_not(sets, local_store, tmp_path):
    """So it is not read a second time; one that was not read is missed."""
    index = LabelIndex(local_store, tmp_path, 1)
    before = told(index, sets[:-1])
    for one in sets:
        local_store.delete(one.key)

    assert told(index, sets[:-1]) == before
    with pytest.raises(FileNotFoundError):
        told(index, sets)


def test_no_more_is_kept_than_may_be_and_all_of_it_is_told(sets, local_store, tmp_path):
    """Room for two: those stay from one query to the next, and make room for what another query wants."""
    whole = told(LabelIndex(local_store, tmp_path, 1), sets)
    index = LabelIndex(local_store, tmp_path, 1, max_bytes=2 * SET_BYTES)

    assert told(index, sets) == told(index, sets) == whole
    assert [one.key in index for one in sets] == [True, True, False, False, False]
    local_store.delete(sets[0].key)
    assert told(index, sets[:2]) == {one.key: whole[one.key] for one in sets[:2]}
    assert told(index, sets[2:]) == {one.key: whole[one.key] for one in sets[2:]}
    with pytest.raises(FileNotFoundError):  # it has made room
        told(index, sets[:1])


def test_a_damaged_label_set_is_named(sets, local_store, tmp_path):
    """And the others are read when it is not asked for."""
    index = LabelIndex(local_store, tmp_path, 1)
    local_store.replace(sets[1].key, b"no Parquet")

    with pytest.raises(LabelSetRefused, match=sets[1].key):
        told(index, sets)
    assert set(told(index, [sets[0], *sets[2:]])) == {one.key for one in sets} - {sets[1].key}


def test_rows_of_many_label_sets_keep_their_names(sets, local_store, tmp_path):
    """The sha-256 and the label set of any of the rows, whichever are asked for."""
    index = LabelIndex(local_store, tmp_path, 1)
    (seen,) = label_index.seen(index, sets, ("red", "green", "blue"))
    every = np.concatenate([rows.digests for _, rows, _ in seen.group])

    some = np.array([19, 0, 7, 4, 3])
    assert seen.digests(some).tolist() == every[some].tolist()
    assert [one.key for one in seen.sets_of(some)] == [sets[i].key for i in (4, 0, 1, 1, 0)]
    assert seen.before is None
