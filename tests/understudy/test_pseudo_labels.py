"""Pages, counts and previews of pseudo-labels over real label sets in a real catalog."""

from functools import partial

import numpy as np
import pytest

from understudy import pseudo_labels
from understudy.catalog import buckets, label_sets
from understudy.errors import LabelSetRefused, NoChampion, NotFound, Refused
from understudy.label_records import LabelOrder, LabelSort, PreviewRequest
from understudy.pseudo_labels import Cursor, Filters
from understudy.records import ReliabilityBin
from understudy.testing import picture, tiny_evaluation
from understudy.thresholds import Answers
from understudy.tripwires import Agreement

CLASSES = ("red", "green", "blue")


def pictures(num, seed=0):
    return [picture(0, 3, seed=seed * 1000 + n, size=8) for n in range(num)]


def sure_of(label, confidence):
    return [confidence if i == label else (1 - confidence) / 2 for i in range(3)]


def some(num, seed):
    """Probabilities of three classes, some of them equal."""
    random = np.random.default_rng(seed)
    return [sure_of(random.integers(3), round(0.4 + random.integers(12) / 20, 2)) for _ in range(num)]


@pytest.mark.parametrize("sort", LabelSort)
@pytest.mark.parametrize("order", LabelOrder)
def test_pages_are_the_whole_list_in_order(world, looking, sort, order):
    """Every pseudo-label comes once, whatever the size of the pages, equal ones by their sha-256."""
    world.teacher()
    first = world.shard("a", pictures(23, 1))
    world.label(first, some(23, 1))
    world.teacher(CLASSES[::-1])
    world.label(first, some(23, 2))
    world.label(world.shard("b", pictures(8, 2)), some(8, 3))

    told, cursor = [], None
    while True:
        items, cursor = pseudo_labels.page(looking, Filters(), sort=sort, order=order, cursor=cursor, limit=12)
        told += items
        if cursor is None:
            break

    key = {
        LabelSort.CONFIDENCE: lambda item: item.confidence,
        LabelSort.MARGIN: lambda item: item.margin,
        LabelSort.CHANGED: lambda item: {None: 0, False: 2, True: 4}[item.is_changed] + item.confidence,
    }[sort]
    sign = -1 if order == LabelOrder.DESC else 1
    assert len(told) == len({item.sha256 for item in told}) == 31
    assert told == sorted(told, key=lambda item: (sign * key(item), item.sha256))
    assert pseudo_labels.page(looking, Filters(), sort=sort, order=order, limit=1000)[0] == told


def test_very_many_equal_ones_come_by_their_sha256(world, looking):
    """Page by page, also where a whole page and more is as sure."""
    world.teacher()
    world.label(world.shard("a", pictures(60, 1)), [sure_of(i % 3, 1.0) for i in range(60)])
    told, cursor = pseudo_labels.page(looking, Filters(), limit=7)
    while cursor is not None:
        items, cursor = pseudo_labels.page(looking, Filters(), cursor=cursor, limit=7)
        told += items

    assert [item.sha256 for item in told] == sorted({item.sha256 for item in told})
    assert len(told) == 60


def test_what_is_published_between_two_pages_moves_nothing(world, looking):
    """No image of before is told twice or left out; a new champion does not mix its labels in."""
    teacher = world.teacher()
    world.label(world.shard("a", pictures(10, 1)), some(10, 1))
    before = pseudo_labels.page(looking, Filters(), limit=100)[0]
    first, cursor = pseudo_labels.page(looking, Filters(), limit=4)

    world.label(world.shard("a", pictures(10, 2)), some(10, 2))
    world.teacher(CLASSES[::-1])
    rest, _ = pseudo_labels.page(looking, Filters(), cursor=cursor, limit=100)

    told = [item for item in first + rest if item in before]
    assert told == before
    assert {item.teacher for item in rest} == {teacher}


def test_filters_keep_what_they_say(world, looking):
    """Each by itself, against the list of all."""
    teacher = world.teacher()
    a, b = world.shard("a", pictures(20, 1)), world.shard("b", pictures(20, 2))
    world.label(a, some(20, 1))
    world.label(b, some(20, 2))
    world.teacher(CLASSES[::-1])
    world.label(a, some(20, 3))
    world.label(b, some(20, 4))
    ask = partial(pseudo_labels.page, looking, limit=100)
    every = ask(Filters())[0]
    middle = every[20]

    for filters, is_kept in [
        (Filters(bucket="a"), lambda x: x.bucket == "a"),
        (Filters(class_name="blue"), lambda x: x.label == "blue"),
        (Filters(min_confidence=0.6), lambda x: x.confidence >= 0.6),
        (Filters(max_confidence=0.6), lambda x: x.confidence <= 0.6),
        (Filters(min_margin=0.3, max_margin=0.5), lambda x: 0.3 <= x.margin <= 0.5),
        (Filters(is_changed=True), lambda x: x.previous_label != x.label),
        (Filters(is_changed=False), lambda x: x.previous_label == x.label),
        (Filters(sha256=middle.sha256), lambda x: x == middle),
        (Filters(sha256="0" * 64), lambda x: False),
    ]:
        assert ask(filters)[0] == [item for item in every if is_kept(item)], filters
    old = ask(Filters(teacher=teacher))[0]
    assert {item.sha256: item.label for item in old} == {item.sha256: item.previous_label for item in every}
    assert all(item.is_changed is None and item.previous_teacher is None for item in old)


def test_facets_count_every_row_once(world, looking):
    """By class and confidence, by bucket, by teacher, and what changed."""
    old = world.teacher()
    a = world.shard("a", pictures(4, 1))
    world.label(a, [sure_of(0, 0.9), sure_of(1, 0.9), sure_of(2, 0.52), sure_of(2, 1.0)])
    new = world.teacher(CLASSES[::-1])  # its class 2 is red
    world.label(a, [sure_of(2, 0.9), sure_of(2, 0.9), sure_of(0, 0.52), sure_of(0, 1.0)])
    world.label(world.shard("b", pictures(1, 2)), [sure_of(1, 0.4)])

    told = pseudo_labels.facets(looking, with_changed=True)

    counts = {facet.label: (facet.num_images, facet.num_changed) for facet in told.by_class}
    assert counts == {"red": (2, 1), "green": (1, 0), "blue": (2, 0)}
    assert next(f for f in told.by_class if f.label == "blue").by_confidence == tuple(
        int(i in (10, 19)) for i in range(20)
    )
    assert (told.num_images, told.num_label_sets, told.num_changed, told.num_compared) == (5, 2, 1, 4)
    assert (told.by_bucket, told.by_teacher) == ({"a": 4, "b": 1}, {old: 4, new: 5})
    assert pseudo_labels.facets(looking, bucket="b").num_images == 1
    assert pseudo_labels.facets(looking, teacher=old).num_images == 4


def test_an_image_is_told_of_by_every_teacher(world, looking):
    """The oldest teacher first; an image that no label set has, has none."""
    old = world.teacher()
    a = world.shard("a", pictures(2, 1))
    world.label(a, [sure_of(0, 0.9), sure_of(1, 0.8)])
    new = world.teacher(CLASSES[::-1])
    world.label(a, [sure_of(0, 0.7), sure_of(1, 0.6)])
    waiting = world.shard("a", pictures(1, 2))

    told = pseudo_labels.of_image(looking, a.members[0].sha256)

    assert {(x.teacher, x.label, x.previous_label) for x in told} == {(old, "red", None), (new, "blue", "red")}
    assert pseudo_labels.of_image(looking, waiting.members[0].sha256) == []
    with pytest.raises(NotFound, match="no image"):
        pseudo_labels.of_image(looking, "0" * 64)


def test_a_preview_is_what_the_arithmetic_of_a_selection_says(world, looking):
    """Kept, copies, thresholds, starved and empty classes, and the precision by the card's reliability."""
    reliability = tuple(
        ReliabilityBin(low=i / 15, high=(i + 1) / 15, num_images=99 if i == 13 else 0, num_correct=49 if i == 13 else 0)
        for i in range(15)
    )
    teacher = world.teacher()
    card = tiny_evaluation(teacher, CLASSES).model_copy(update={"reliability": reliability})
    teacher = world.teacher(evaluation=card)
    a = world.shard("a", [*pictures(6, 1), *pictures(1, 9)])
    world.label(a, [sure_of(0, 0.5 + i / 20) for i in range(5)] + [sure_of(1, 0.9), sure_of(0, 0.99)])
    world.shard(None, pictures(1, 9), class_name="red")  # a human has labeled the surest

    told = pseudo_labels.preview(looking, PreviewRequest(threshold=0.5, per_class=2, max_copies=1))

    red, green, blue = (told.per_class[name] for name in CLASSES)
    assert (red.available, red.kept, red.rows, green.kept, green.rows) == (5, 2, 2, 1, 1)
    assert red.threshold == pytest.approx(0.65, abs=0.0011)
    assert (told.starved, told.empty, blue.threshold, blue.precision) == (("green",), ("blue",), None, None)
    assert red.precision == pytest.approx((0.7 + 0.65) / 2, abs=0.01)  # nothing is known there: as often as it says
    assert green.precision == pytest.approx((49 + 0.9) / 100, abs=0.001)
    assert told.precision == pytest.approx((0.7 + 0.65 + 0.499) / 3, abs=0.01)
    assert (told.teacher, told.num_candidates, told.num_kept, told.num_holdout) == (teacher, 6, 3, 99)


def test_a_preview_has_the_thresholds_of_a_recipe(world, looking, local_store):
    """By precision from the answers of the teacher's generation, adaptive from counts; without a balance all of them."""
    world.teacher()
    world.label(
        world.shard("a", pictures(9, 1)), [sure_of(0, 0.875)] * 4 + [sure_of(0, 0.5)] * 2 + [sure_of(1, 0.75)] * 3
    )
    answers = Answers(predicted=(0,) * 60, confidence=(0.75,) * 40 + (0.5,) * 20, is_right=(True,) * 40 + (False,) * 20)
    local_store.put("generations/0000/answers.json", answers.to_json())

    precise = pseudo_labels.preview(looking, PreviewRequest(thresholds="precision", balance="none"))
    adaptive = pseudo_labels.preview(looking, PreviewRequest(thresholds="adaptive", threshold=0.75, balance="none"))

    assert [one.candidates_from for one in precise.per_class.values()] == [0.75, 0.75, 0.75]
    assert [one.kept for one in precise.per_class.values()] == [one.rows for one in precise.per_class.values()]
    assert [one.kept for one in precise.per_class.values()] == [4, 3, 0]
    assert precise.num_answers == 60
    expected = [0.75, 0.75 * 0.75 / 1.25, 0.0]  # of class 1 three labels are confident where class 0 has four
    assert [one.candidates_from for one in adaptive.per_class.values()] == pytest.approx(expected)
    assert (adaptive.num_kept, adaptive.num_answers) == (7, 0)


def test_a_precision_that_nothing_proves_keeps_nothing(world, looking):
    """A teacher whose generation kept no answers."""
    world.teacher()
    world.label(world.shard("a", pictures(2, 1)), [sure_of(0, 0.9)] * 2)

    told = pseudo_labels.preview(looking, PreviewRequest(thresholds="precision"))

    assert (told.num_kept, told.num_answers) == (0, 0)
    assert {one.candidates_from for one in told.per_class.values()} == {None}


def test_a_preview_has_the_tripwires_of_a_generation(world, looking):
    """A teacher that calls everything red, and contradicts the one before: both figures, and what they would do."""
    first = world.teacher()
    shard = world.shard("a", pictures(30, 1))
    world.label(shard, [sure_of(i % 3, 0.9) for i in range(30)])
    world.shard(None, pictures(3, 7), class_name="red")
    world.shard(None, pictures(3, 8), class_name="blue")
    calm = pseudo_labels.preview(looking, PreviewRequest())
    world.teacher(CLASSES[::-1])  # the same names, in another order
    world.label(shard, [sure_of(2, 0.9)] * 30)

    told = pseudo_labels.preview(looking, PreviewRequest(min_agreement=0.5))

    assert (calm.tripwires.agreement, calm.collapses) == (None, ())
    assert (calm.tripwires.kept_share, calm.tripwires.class_shift) == (1.0, pytest.approx(1 / 3))
    assert (told.tripwires.class_shift, told.tripwires.agreement) == (1.0, pytest.approx(1 / 3))
    assert (told.tripwires.num_compared, told.tripwires.compared_with) == (30, first)
    assert len(told.collapses) == 2


def test_agreement_is_seen_on_some_of_many_label_sets(world, looking):
    """Those of the given keys only, and of these as many as the images may be."""
    first = world.teacher()
    shards = [world.shard("a", pictures(4, seed)) for seed in range(5)]
    for shard in shards:
        world.label(shard, [sure_of(0, 0.9)] * 4)
    now = world.teacher()
    for shard in shards:
        world.label(shard, [sure_of(0, 0.9)] * 3 + [sure_of(1, 0.5)])
    agreement = partial(pseudo_labels.agreement, looking, now)
    listed = [one.key for one in label_sets.listed(looking.catalog, now)]

    assert agreement(listed, 0.3) == Agreement(first, 20, 15)
    assert agreement(listed, 0.7).share == 1.0
    assert agreement(listed[:2], 0.3).num_compared == 8
    assert agreement(listed, 0.3, max_compared=10).num_compared == 12  # every second of five
    assert agreement([], 0.3) is None


def test_nothing_published_is_nothing_told(world, looking):
    """An empty page and a preview that keeps nothing; without a model there is nobody to ask about."""
    with pytest.raises(NoChampion):
        pseudo_labels.page(looking, Filters())
    world.teacher()
    assert pseudo_labels.page(looking, Filters(is_changed=True)) == ([], None)
    assert pseudo_labels.facets(looking, with_changed=True).num_images == 0
    told = pseudo_labels.preview(looking, PreviewRequest())
    assert (told.num_kept, told.precision, told.empty) == (0, None, CLASSES)


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "e30", "W10", "WzEsMiwzLDQsNV0", "ü", "\x00"])
def test_a_cursor_that_no_page_gave_is_refused(world, looking, cursor):
    """With the cursor in the message."""
    world.teacher()
    with pytest.raises(Refused, match="none of ours"):
        pseudo_labels.page(looking, Filters(), cursor=cursor)


def test_what_is_asked_wrongly_is_told(world, looking):
    """A class that there is not, a bucket, a teacher, a cursor of another order, a number that is none."""
    teacher = world.teacher()
    with pytest.raises(Refused, match="'mauve' is none of the teacher's 3 classes"):
        pseudo_labels.page(looking, Filters(class_name="mauve"))
    with pytest.raises(NotFound, match="no bucket 'none'"):
        pseudo_labels.page(looking, Filters(bucket="none"))
    with pytest.raises(NotFound, match="no model 'nobody'"):
        pseudo_labels.facets(looking, teacher="nobody")
    cursor = Cursor(teacher, LabelSort.MARGIN, LabelOrder.DESC, 0.5, "0" * 64)
    with pytest.raises(Refused, match="sort=margin"):
        pseudo_labels.page(looking, Filters(), cursor=str(cursor))
    nobody = Cursor(teacher, LabelSort.CONFIDENCE, LabelOrder.DESC, 0.5, "no sha-256")
    with pytest.raises(Refused, match="none of ours"):
        pseudo_labels.page(looking, Filters(), cursor=str(nobody))
    infinite = Cursor(teacher, LabelSort.CONFIDENCE, LabelOrder.DESC, float("inf"), "0" * 64)
    with pytest.raises(Refused, match="none of ours"):
        pseudo_labels.page(looking, Filters(), cursor=str(infinite))


def test_what_was_prepared_need_not_be_read(world, looking, local_store):
    """Without a champion, and with a label set that cannot be read, it is nothing."""
    pseudo_labels.prepare(looking)
    world.teacher()
    key = world.label(world.shard("a", pictures(3)), some(3, 1))
    pseudo_labels.prepare(looking)
    local_store.delete(key)
    assert pseudo_labels.facets(looking).num_images == 3

    local_store.delete(world.label(world.shard("a", pictures(3, 2)), some(3, 2)))
    pseudo_labels.prepare(looking)


def test_a_damaged_label_set_is_named(world, looking, local_store):
    """Rather than counted as if it were not there."""
    world.teacher()
    key = world.label(world.shard("a", pictures(3)), some(3, 1))
    local_store.replace(key, local_store.get(key)[:-100])

    with pytest.raises(LabelSetRefused, match=key):
        pseudo_labels.facets(looking)


def test_a_label_set_removed_after_it_was_listed_is_not_missed(
    world, looking, sqlite_catalog, local_store, monkeypatch
):
    """A bucket is recalled between the catalog's list and the reading: the answer is of those that are left."""
    world.teacher()
    gone = world.label(world.shard("a", pictures(3, 1)), some(3, 1))
    world.label(world.shard("b", pictures(4, 2)), some(4, 2))
    listed = label_sets.listed

    def listed_just_before(*args, **kwargs):
        found = listed(*args, **kwargs)
        if local_store.exists(gone):
            buckets.delete_bucket(sqlite_catalog, "a", actor="test")
            local_store.delete(gone)
        return found

    monkeypatch.setattr(label_sets, "listed", listed_just_before)

    assert pseudo_labels.facets(looking).num_images == 4


def test_a_label_set_that_is_listed_and_not_there_is_named(world, looking, local_store):
    """That is no race, and no answer without it would be true."""
    world.teacher()
    key = world.label(world.shard("a", pictures(3)), some(3, 1))
    local_store.delete(key)

    with pytest.raises(LabelSetRefused, match=f"{key}.*though the catalog lists it"):
        pseudo_labels.page(looking, Filters())
