"""The review queue, decisions and the audit, over real label sets in a real catalog."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import binomtest

from understudy import pseudo_labels, reviewing
from understudy.catalog import reviews
from understudy.errors import Conflict, NoChampion, NotFound, Refused
from understudy.label_records import PreviewRequest
from understudy.pseudo_labels import Filters
from understudy.review_records import Decision, ReviewOrder, ReviewRequest, Verdict
from understudy.reviewing import Asked
from understudy.testing import picture

CLASSES = ("red", "green", "blue")


def pictures(num, seed=0):
    return [picture(0, 3, seed=seed * 1000 + n, size=8) for n in range(num)]


def leading(label, margin):
    """A label that leads the second class by so much."""
    rest = (1 - margin) / 3
    return [rest + margin if i == label else rest for i in range(3)]


def published(world, bucket, said, seed=1):
    """A shard of a bucket with these labels; gives the sha-256 of its images."""
    shard = world.shard(bucket, pictures(len(said), seed))
    world.label(shard, said)
    return [member.sha256 for member in shard.members]


def whole(looking, asked, limit):
    """All pages of a queue."""
    told, cursor = [], None
    while True:
        page = reviewing.queue(looking, asked, cursor=cursor, limit=limit)
        assert len(page.items) <= limit
        told += page.items
        if (cursor := page.next) is None:
            return told


def decide(looking, *decisions, actor="me"):
    return reviewing.decide(looking, ReviewRequest(reviews=decisions), actor=actor)


def test_the_uncertain_come_first_and_classes_and_buckets_take_turns(world, looking):
    """A class that the teacher is very unsure of hides no other; what is sure comes after all that is not."""
    world.teacher()
    red = published(world, "a", [leading(0, 0.001 * n) for n in range(60)], 1)
    blue = published(world, "b", [leading(2, 0.1 + 0.001 * n) for n in range(5)], 2)
    sure = published(world, "b", [leading(1, 0.9 - 0.01 * n) for n in range(5)], 3)

    told = whole(looking, Asked(), 7)

    assert [item.sha256 for item in told[:10]] == [x for pair in zip(red[:5], blue, strict=True) for x in pair]
    assert [item.sha256 for item in told[10:]] == red[5:] + sure[::-1]
    assert whole(looking, Asked(), 1000) == told
    assert [item.sha256 for item in whole(looking, Asked(bucket="b", class_name="green"), 2)] == sure[::-1]
    assert told[0].classes[0].label == told[0].label == "red"


def test_many_label_sets_are_ranked_some_at_a_time(world, looking, monkeypatch):
    """Each image comes once, the uncertain of all label sets before what is sure; a short page says how to go on."""
    monkeypatch.setitem(reviewing.SETS_TOGETHER, ReviewOrder.UNCERTAIN, 2)
    monkeypatch.setattr(reviewing, "MAX_LOOKED_THROUGH", 2)
    world.teacher()
    random = np.random.default_rng(0)
    for seed in range(7):
        margins = random.choice([0.1, 0.2, 0.6], 4)
        published(world, "ab"[seed % 2], [leading(n % 3, margin) for n, margin in enumerate(margins)], seed)

    told = whole(looking, Asked(), 5)

    assert len({item.sha256 for item in told}) == len(told) == 28
    is_sure = [item.margin > 0.25 for item in told]
    assert is_sure == sorted(is_sure)
    short = reviewing.queue(looking, Asked(), limit=20)
    assert 0 < len(short.items) < 20
    assert short.next is not None


def test_what_is_reviewed_is_not_told_again(world, looking):
    """Nor what a human labeled otherwise; a cursor from before goes on behind where it was."""
    world.teacher()
    names = published(world, "a", [leading(0, 0.001 * n) for n in range(20)])
    first = reviewing.queue(looking, Asked(), limit=5)
    decide(looking, *(Decision(sha256=item.sha256, verdict="accept") for item in first.items[:3]))

    assert [item.sha256 for item in whole(looking, Asked(), 6)] == names[3:]
    rest = reviewing.queue(looking, Asked(), cursor=first.next, limit=100)
    assert [item.sha256 for item in rest.items] == names[5:]
    reviews.undo(looking.catalog, [1])
    assert len(whole(looking, Asked(), 100)) == 18
    world.shard(None, pictures(20, 1)[10:11], "red")
    assert names[10] not in {item.sha256 for item in whole(looking, Asked(), 100)}


def test_disagreements_come_by_how_sure_both_teachers_were(world, looking):
    """Only what the teacher before saw otherwise, whatever the numbers of the classes; classes take turns."""
    world.teacher()
    shard = world.shard("a", pictures(6))
    world.label(shard, [leading(0, 0.8)] * 6)
    before = looking.teacher(None)
    world.teacher(CLASSES[::-1])  # its class 2 is red
    world.label(shard, [leading(n, m) for n, m in ((2, 0.9), (1, 0.3), (1, 0.7), (0, 0.2), (0, 0.6), (2, 0.4))])
    published(world, "a", [leading(0, 0.5)] * 3, 2)  # the teacher before never saw these

    told = whole(looking, Asked(ReviewOrder.DISAGREEMENT), 2)

    names = [member.sha256 for member in shard.members]
    assert [item.sha256 for item in told] == [names[n] for n in (2, 4, 1, 3)]
    assert {(item.previous_teacher, item.previous_label) for item in told} == {(before, "red")}
    assert whole(looking, Asked(ReviewOrder.DISAGREEMENT, bucket="a", class_name="blue"), 1)[0].label == "blue"


def test_an_audit_is_blind_uniform_and_the_same_for_a_seed(world, looking):
    """Every label over the threshold once, in an order that says nothing of it; another seed begins elsewhere."""
    teacher = world.teacher()
    published(world, "a", [leading(n % 3, 0.5 + 0.4 * (n % 2)) for n in range(40)])
    confident = {item.sha256 for item in pseudo_labels.page(looking, Filters(min_confidence=0.8), limit=100)[0]}

    told = whole(looking, Asked(ReviewOrder.AUDIT, threshold=0.8), 7)

    assert {item.sha256 for item in told} == confident
    assert len(told) == len(confident) == 20
    assert told == whole(looking, Asked(ReviewOrder.AUDIT, threshold=0.8), 1000)
    assert told != whole(looking, Asked(ReviewOrder.AUDIT, threshold=0.8, seed=1), 1000)
    assert all(item.label is item.confidence is item.margin is item.previous_label is None for item in told)
    assert {item.classes for item in told} == {()}
    page = reviewing.queue(looking, Asked(ReviewOrder.AUDIT), limit=100)
    assert (page.audit_threshold, page.teacher, len(page.items)) == (0.3, teacher, 40)
    with pytest.raises(Refused) as refused:
        reviewing.queue(looking, Asked(ReviewOrder.AUDIT, class_name="red"))
    assert refused.value.code == "audit_is_blind"


def test_a_decision_has_the_label_that_it_is_about(world, looking):
    """Accepted, corrected or rejected; a correction to the label itself is an acceptance; pages tell of it."""
    teacher = world.teacher()
    names = published(world, "a", [leading(0, 0.5)] * 4)

    made = decide(
        looking,
        Decision(sha256=names[0], verdict="accept", class_name="red"),
        Decision(sha256=names[1], verdict="correct", class_name="blue"),
        Decision(sha256=names[2], verdict="reject"),
        Decision(sha256=names[3], verdict="correct", class_name="red", teacher=teacher),
        actor="key 1",
    )

    assert [(one.verdict, one.class_name) for one in made] == [
        (Verdict.ACCEPT, "red"), (Verdict.CORRECT, "blue"), (Verdict.REJECT, None), (Verdict.ACCEPT, "red")
    ]  # fmt: skip
    assert {(one.teacher, one.label, one.actor) for one in made} == {(teacher, "red", "key 1")}
    assert made[0].confidence == pytest.approx(2 / 3)
    told = {item.sha256: item.review for item in pseudo_labels.page(looking, Filters())[0]}
    assert told == {one.sha256: one for one in made}
    assert pseudo_labels.of_image(looking, names[1])[0].review == made[1]


def test_what_cannot_be_decided_is_refused_and_nothing_is_written(world, looking):
    """Each with its code, among others that could be."""
    world.teacher()
    names = published(world, "a", [leading(0, 0.5)] * 3)
    waiting = world.shard("a", pictures(1, 2)).members[0].sha256
    good = Decision(sha256=names[0], verdict="accept")
    one = {"sha256": names[1]}
    for wrong, error, code in [
        (one | {"verdict": "accept", "class_name": "blue"}, Conflict, "label_changed"),
        (one | {"verdict": "correct", "class_name": "mauve"}, Refused, "unknown_class"),
        (one | {"verdict": "accept", "split": "holdout"}, Conflict, "may_have_trained"),
        (one | {"verdict": "reject", "teacher": "nobody"}, NotFound, "not_found"),
        (one | {"verdict": "reject", "is_audit": True, "audit_threshold": 0.9}, Conflict, "not_in_audit"),
        ({"sha256": "0" * 64, "verdict": "reject"}, NotFound, "not_found"),
        ({"sha256": waiting, "verdict": "reject"}, Conflict, "not_labeled"),
        ({"sha256": names[0], "verdict": "reject"}, Refused, "image_repeated"),
    ]:
        with pytest.raises(error) as refused:
            decide(looking, good, Decision(**wrong))
        assert refused.value.code == code, wrong
    assert reviews.page(looking.catalog) == []
    for nonsense in ({"verdict": "correct"}, {"verdict": "reject", "class_name": "red"}, {"verdict": "maybe"}):
        with pytest.raises(ValueError, match=r"class_name|verdict"):
            Decision(**one, **nonsense)
    with pytest.raises(ValueError, match="blind"):
        Decision(**one, verdict="accept", is_audit=True)


def test_a_class_that_there_is_not_must_be_meant(world, looking):
    """Then it is written down, and trains nothing."""
    world.teacher()
    (name,) = published(world, "a", [leading(0, 0.5)])

    (made,) = decide(looking, Decision(sha256=name, verdict="correct", class_name="mauve", is_new_class=True))

    assert (made.class_name, made.is_new_class) == ("mauve", True)
    assert reviews.joining(looking.catalog) == []


def test_a_preview_counts_what_people_said(world, looking):
    """No label of a reviewed image is a candidate, and what joins the labeled set is in its proportions."""
    world.teacher()
    names = published(world, "a", [leading(0, 0.8)] * 6 + [leading(2, 0.8)] * 6)
    world.shard(None, pictures(1, 5), "red")
    world.shard(None, pictures(1, 6), "blue")
    before = pseudo_labels.preview(looking, PreviewRequest(threshold=0.5))
    assert (before.num_candidates, before.per_class["blue"].target) == (12, 6)

    decide(
        looking,
        Decision(sha256=names[0], verdict="reject"),
        Decision(sha256=names[1], verdict="correct", class_name="blue"),
    )

    after = pseudo_labels.preview(looking, PreviewRequest(threshold=0.5))
    assert (after.num_candidates, after.per_class["red"].available) == (10, 4)
    assert (after.per_class["red"].target, after.per_class["blue"].target) == (3, 6)


def test_the_audit_says_how_right_the_labels_are(world, looking):
    """Of its sample alone, by class too, with Clopper and Pearson's interval; what is not audited has none."""
    teacher = world.teacher()
    names = published(world, "a", [leading(0, 0.8)] * 10 + [leading(1, 0.8)] * 2 + [leading(2, 0.2)])
    assert reviewing.audit(looking).interval is None
    seen = whole(looking, Asked(ReviewOrder.AUDIT, threshold=0.5), 100)
    wrong = set(names[:3])
    decisions = [
        Decision(sha256=item.sha256, verdict="correct", is_audit=True, audit_threshold=0.5,
                 class_name="blue" if item.sha256 in wrong else "red")
        for item in seen
    ]  # fmt: skip
    decide(looking, *decisions[:-1], Decision(**decisions[-1].model_dump() | {"verdict": "reject", "class_name": None}))
    decide(looking, Decision(sha256=names[12], verdict="accept"))

    told = reviewing.audit(looking, threshold=0.5)

    rejected = seen[-1].sha256
    right = sum(name not in wrong and name != rejected for name in names[:10])
    exact = binomtest(right, 12).proportion_ci(0.95, method="exact")
    assert (told.teacher, told.threshold, told.num_audited, told.num_right) == (teacher, 0.5, 12, right)
    assert told.num_rejected == 1
    assert told.precision == right / 12
    assert (told.interval.low, told.interval.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert {name: one.num_audited for name, one in told.per_class.items()} == {"red": 10, "green": 2, "blue": 0}
    assert reviewing.audit(looking, threshold=0.4).num_audited == 0


@pytest.mark.parametrize(("right", "num"), [(0, 1), (1, 1), (0, 30), (30, 30), (7, 9), (500, 1000)])
def test_the_interval_is_the_exact_one(right, num):
    """As SciPy's test of a binomial has it."""
    ours, theirs = reviewing.exact_interval(right, num), binomtest(right, num).proportion_ci(0.95, method="exact")

    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_a_cursor_is_of_one_queue(world, looking):
    """Of other words or of nobody's it is refused; without a teacher there is no queue, and an empty one has no end."""
    with pytest.raises(NoChampion):
        reviewing.queue(looking, Asked())
    old = world.teacher()
    assert reviewing.queue(looking, Asked()).items == ()
    published(world, "a", [leading(0, 0.1 * n) for n in range(4)])
    first = reviewing.queue(looking, Asked(), limit=2)
    for asked in (Asked(bucket="a"), Asked(ReviewOrder.AUDIT), Asked(seed=1), Asked(class_name="red")):
        with pytest.raises(Refused) as refused:
            reviewing.queue(looking, asked, cursor=first.next)
        assert refused.value.code == "bad_cursor"
    for cursor in ("x", "bnVsbA", first.next[:-3], "e30"):
        with pytest.raises(Refused, match="cursor"):
            reviewing.queue(looking, Asked(), cursor=cursor)
    with pytest.raises(NotFound):
        reviewing.queue(looking, Asked(bucket="none"))
    world.teacher(CLASSES[::-1])
    rest = reviewing.queue(looking, Asked(), cursor=first.next)
    assert Counter(item.teacher for item in rest.items) == {old: 2}
