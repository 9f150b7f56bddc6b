"""Which label sets are published, on both engines."""

import pytest

from understudy.catalog import label_sets
from understudy.catalog.label_sets import Listed
from understudy.errors import NotFound
from understudy.testing import picture


def test_published_label_sets_are_listed_with_those_before(teaching, catalog, local_store):
    """By teacher, bucket and image; what is wanted and not published is not there."""
    world = teaching(catalog, local_store)
    pictures = [picture(0, 3, seed=i, size=8) for i in range(4)]
    a, b = world.shard("a", pictures[:2]), world.shard("b", pictures[2:])
    old = world.teacher()
    old_key = world.label(a, [[0.5, 0.3, 0.2]] * 2)
    new = world.teacher()
    keys = [world.label(shard, [[0.5, 0.3, 0.2]] * 2) for shard in (a, b)]
    world.shard(None, [pictures[3]], class_name="red")
    first = Listed(keys[0], "a", new, 2, old_key, old)
    second = Listed(keys[1], "b", new, 2, None, None)

    assert label_sets.listed(catalog, new) == [first, second]
    assert label_sets.listed(catalog, new, bucket="b") == [second]
    assert label_sets.listed(catalog, new, sha256=a.members[0].sha256) == [first]
    assert label_sets.listed(catalog, old) == [Listed(old_key, "a", old, 2, None, None)]
    assert label_sets.teachers(catalog) == {old: 2, new: 4}
    assert label_sets.teachers(catalog, bucket="b") == {new: 2}
    assert label_sets.shard_of(catalog, b.members[1].sha256) == b.key
    assert label_sets.labeled_later(catalog) == [b.members[1].sha256]
    with pytest.raises(NotFound):
        label_sets.listed(catalog, new, bucket="c")
    with pytest.raises(NotFound):
        label_sets.shard_of(catalog, "0" * 64)
