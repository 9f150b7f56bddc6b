"""Reviewed images in a generation: they are learned from as people say, and nobody else's word of them is."""

import threading

import pytest

from trainer import data, generation, reviewed
from trainer.plan import Plan, make_plan
from trainer.progress import Progress
from trainer.selection import LabelSets
from trainer.steps.selecting import select
from trainer.steps.waiting import wait_for_labels
from trainer.work import Work
from understudy import labels, lineage
from understudy.catalog import buckets, generations, jobs, reviews, shards, versions
from understudy.catalog.reviews import Decided
from understudy.errors import Refused
from understudy.label_records import Selection
from understudy.records import Problem
from understudy.review_records import Verdict
from understudy.shards import read_manifest
from understudy.store import generation_key, reviewed_key, selection_key

KEEP_ALL = {
    "threshold": 0.05,
    "pseudo_labels": "soft",
    "balance": "none",
    "min_kept_share": 0.0,
    "max_class_shift": 1.0,
}


@pytest.fixture
def world(make_taught_world):
    """A first teacher, whose labels of a hundred unlabeled digits are there."""
    world = make_taught_world()
    world.label()
    return world


def unlabeled(world):
    """The unlabeled images, in the order of their shards, and the key of each one's shard."""
    found = {}
    for shard in shards.of_split(world.catalog, "unlabeled"):
        found |= dict.fromkeys((m.sha256 for m in read_manifest(world.store, shard.key).members), shard.key)
    return found


def say(world, sha256, class_name):
    teacher = versions.champion(world.catalog).version
    verdict = Verdict.REJECT if class_name is None else Verdict.CORRECT
    (made,) = reviews.add(world.catalog, [Decided(sha256, verdict, class_name, teacher, "0", 0.5)], actor="me")
    return made


def planned(world, **overrides):
    """The plan of the next generation, and the work on it."""
    turn, claim = world.open(overrides=world.quick | KEEP_ALL | overrides)
    work = Work(world.place, claim, Progress(world.catalog, claim, threading.Event()), turn.number)
    return work, work.step("plan.json", Plan, lambda: make_plan(world.catalog, world.store, turn))


def chosen(work, plan):
    """The sha-256 of what is selected."""
    sets = work.step("labels.json", LabelSets, lambda: wait_for_labels(work, plan))
    found = select(work, plan, sets)
    rows = work.place.store.get(selection_key(plan.generation, found.rows_sha256))
    return set(labels.table_from_parquet(rows).column("sha256").to_pylist())


def learned(world, plan):
    """The class of each image of the labeled set, the reviewed ones too, by where it lies."""
    joined = reviewed.read(world.store, plan.generation, plan.reviewed)
    rows = data.labeled_rows(world.store, plan.labeled, plan.classes, plan.recipe)
    rows = data.with_reviewed(world.store, rows, joined, plan.classes, plan.recipe)
    told = rows.whole_targets(range(len(rows))).argmax(axis=1)
    return {rows.place(i): plan.classes[label] for i, label in enumerate(told)}


def place_of(world, sha256):
    key = unlabeled(world)[sha256]
    (member,) = [m for m in read_manifest(world.store, key).members if m.sha256 == sha256]
    return data.Place(key, member.offset, member.num_bytes)


def test_what_a_person_says_outranks_the_teacher(world):
    """Corrected: learned as the person says, and in no selection. Rejected: in neither. Undone: as it was."""
    corrected, rejected, undone, other = list(unlabeled(world))[:4]
    say(world, corrected, "7")
    say(world, rejected, None)
    reviews.undo(world.catalog, [say(world, undone, "3").id])

    work, plan = planned(world)

    assert plan.reviewed.num_images == 1
    assert plan.labeled_counts == {str(c): 6 + (c == 7) for c in range(10)}
    found = learned(world, plan)
    assert len(found) == 61
    assert found[place_of(world, corrected)] == "7"
    selected = chosen(work, plan)
    assert {corrected, rejected} & selected == set()
    assert {undone, other} <= selected
    assert len(selected) == len(unlabeled(world)) - 2
    frozen = {m.sha256 for key in plan.holdout for m in read_manifest(world.store, key).members}
    assert frozen.isdisjoint(unlabeled(world))


def test_a_review_between_plan_and_selection_puts_no_image_into_both(world):
    """The plan keeps to its words; what is undone or said later only keeps a label out."""
    first, second = list(unlabeled(world))[:2]
    made = say(world, first, "7")
    work, plan = planned(world)
    reviews.undo(world.catalog, [made.id])
    say(world, second, "2")

    selected = chosen(work, plan)

    assert learned(world, plan)[place_of(world, first)] == "7"
    assert {first, second} & selected == set()


def test_a_plan_that_was_killed_is_made_again_with_the_word_of_then(world):
    """Its list was written and its plan was not: the next attempt's names another list, each image once."""
    first, second = list(unlabeled(world))[:2]
    say(world, first, "7")
    turn, claim = world.open(overrides=world.quick)
    killed = make_plan(world.catalog, world.store, turn)
    assert killed == make_plan(world.catalog, world.store, turn)

    say(world, first, "8")
    say(world, second, "7")
    work = Work(world.place, claim, Progress(world.catalog, claim, threading.Event()), turn.number)
    plan = work.step("plan.json", Plan, lambda: make_plan(world.catalog, world.store, turn))

    assert plan.reviewed.file_sha256 != killed.reviewed.file_sha256
    found = learned(world, plan)
    assert (len(found), found[place_of(world, first)], found[place_of(world, second)]) == (62, "8", "7")
    assert len(learned(world, killed)) == 61
    say(world, first, None)
    assert work.step("plan.json", Plan, lambda: make_plan(world.catalog, world.store, turn)) == plan


def test_a_generation_learns_from_reviewed_images_and_says_so(world):
    """Its card counts them; recalling their bucket names its model, and a later plan has them no more."""
    say(world, next(iter(unlabeled(world))), "7")
    turn, claim = world.open(overrides=world.quick | KEEP_ALL | {"student_steps": 6})

    generation.run(world.place, claim, Progress(world.catalog, claim, threading.Event()), turn)

    version = generations.get(world.catalog, 1).version
    card = versions.get(world.catalog, version).card
    assert (card.data["num_labeled"], card.data["num_reviewed"], card.data["num_pseudo"]) == (61, 1, 99)
    world.store.delete(generation_key(1, "labels.json"))  # as if no label set had been read
    assert lineage.trained_on(world.catalog, world.store, "digits")[0] == [version]
    buckets.delete_bucket(world.catalog, "digits", actor="me")
    assert planned(world)[1].reviewed == reviewed.Reviewed()


def test_what_a_student_learned_from_is_what_was_selected_or_reviewed(world):
    """All of it while the generation may yet choose, or if its list is lost; what is left over is nobody's."""
    said, *others = unlabeled(world)
    say(world, said, "7")
    work, plan = planned(world, threshold=0.6)
    assert lineage.learned(world.catalog, world.store, [said, *others]) == dict.fromkeys([said, *others], 1)
    sets = work.step("labels.json", LabelSets, lambda: wait_for_labels(work, plan))
    selected = work.step("selection.json", Selection, lambda: select(work, plan, sets))
    jobs.fail(world.catalog, work.claim, Problem(code="test", detail="it ends here"))

    chosen = labels.table_from_parquet(world.store.get(selection_key(1, selected.rows_sha256)))["sha256"].to_pylist()
    assert 0 < len(set(chosen)) < len(others)
    assert lineage.learned(world.catalog, world.store, [said, *others]) == dict.fromkeys([said, *chosen], 1)
    assert lineage.learned(world.catalog, world.store, ["0" * 64]) == {}

    world.store.delete(selection_key(1, selected.rows_sha256))
    assert lineage.learned(world.catalog, world.store, others) == dict.fromkeys(others, 1)


def test_a_list_that_is_gone_or_damaged_is_named(world):
    """By its key, before anything is trained on less than the plan says."""
    say(world, next(iter(unlabeled(world))), "7")
    _, plan = planned(world)
    key = reviewed_key(1, plan.reviewed.file_sha256)

    world.store.replace(key, b"x")
    with pytest.raises(Refused, match=f"{key} is damaged"):
        reviewed.read(world.store, 1, plan.reviewed)
    world.store.delete(key)
    with pytest.raises(Refused, match=f"{key} is not in the store"):
        reviewed.read(world.store, 1, plan.reviewed)
