"""Where the loop stands, in one answer; and turning by itself. On both engines."""

import pytest

from understudy.catalog import claims, generations, jobs, loop, pausing, shards
from understudy.records import GenerationRequest, GenerationState, LoopNext, Problem

TEACHER = "g0000-aaaaaa"


@pytest.fixture
def seal(catalog, claimed_job, manifest_of):
    """Seals a shard of so many new images."""

    def make(first, num_images):
        names = [f"x{n}" for n in range(first, first + num_images)]
        return shards.seal(catalog, claimed_job(), manifest_of(names), list(range(num_images)))

    return make


@pytest.fixture
def label(catalog):
    """Publishes the label sets that wait, each of so many images."""

    def make(num_rows):
        while (claim := shards.claim_labels(catalog, lease_s=60)) is not None:
            shards.publish_labels(catalog, claim, key=f"labels/{claim.id}", sha256="0" * 64, num_rows=num_rows)

    return make


def test_the_loop_says_what_starts_next(catalog, seal, label, claimed_job, manifest_of, crown):
    """From an empty catalog to everything labeled: each step by its name, in a sentence."""
    said = loop.state(catalog)
    assert (said.next, said.champion, said.num_images) == (LoopNext.LABELED_SET, None, 0)
    assert "understudy init" in said.why

    shards.seal(catalog, claimed_job(), manifest_of(["a0", "b0"], split="labeled", bucket=None), [0, 1])
    assert loop.state(catalog).why == "nothing: open a generation with `understudy generate`"
    crown(TEACHER)
    assert "understudy ingest" in loop.state(catalog).why
    seal(0, 2)
    seal(2, 2)
    said = loop.state(catalog)
    assert (said.next, said.why) == (LoopNext.LABELS, f"2 shards wait for labels of {TEACHER}")
    assert (said.labels.num_wanted, said.labels.num_done) == (2, 0)
    assert shards.claim_labels(catalog, lease_s=60)
    assert (loop.state(catalog).labels.num_wanted, loop.state(catalog).labels.num_running) == (1, 1)
    label(2)
    said = loop.state(catalog)
    assert (said.num_images, said.num_pseudo_labels, said.num_new_images) == (4, 2, 2)
    assert (said.labels.num_running, said.labels.num_done) == (1, 1)


def test_a_generation_under_way_is_named_with_its_step(catalog, labeled_set):
    """First it waits for a trainer; when it has ended it is not under way any more."""
    generations.open_generation(catalog, GenerationRequest())
    said = loop.state(catalog)
    assert (said.next, said.why) == (LoopNext.GENERATION, "generation 0 waits for a trainer")
    assert (said.generation.number, said.generation.state) == (0, GenerationState.QUEUED)
    claim = generations.claim(catalog, lease_s=60)
    jobs.progress(catalog, claim, "train", 1200, 4000)
    assert loop.state(catalog).why == "generation 0 is under way: train (1,200 of 4,000)"
    pausing.pause(catalog, "why not", actor="key 1")
    said = loop.state(catalog)
    assert (said.next, said.paused, said.by, said.reason) == (LoopNext.RESUME, True, "key 1", "why not")
    assert said.why.startswith("paused by key 1 since 2")
    assert said.why.endswith("generation 0 goes on to its end")
    jobs.progress(catalog, claim, loop.WAITS_FOR_LABELS, 0, 4)
    assert loop.state(catalog).why.endswith("generation 0 waits for labels until then")
    jobs.fail(catalog, claim, Problem(code="diverged", detail="x"))
    assert loop.state(catalog).generation is None


def test_shards_that_nobody_has_wished_labels_for_yet_wait_too(catalog, seal, crown):
    """They were sealed before there was a champion; a failed label set is counted apart."""
    seal(0, 1)
    crown(TEACHER)
    assert loop.state(catalog).labels.num_wanted == 1
    shards.want_labels(catalog)
    claim = shards.claim_labels(catalog, lease_s=60)
    claims.give_back(catalog, claim, Problem(code="worker_fault", detail="x"), max_attempts=1)
    assert loop.state(catalog).labels.model_dump() == {
        "num_wanted": 0, "num_running": 0, "num_done": 0, "num_failed": 1,
    }  # fmt: skip


def test_the_loop_turns_by_itself_after_so_many_newly_labeled_images(catalog, seal, label, labeled_set, crown):
    """Not before, not twice, not while paused, and never for 0; images of the last turn are not counted again."""
    crown(TEACHER)
    loop.turn_after(catalog, 4)
    seal(0, 3)
    label(3)
    assert generations.open_by_itself(catalog, 4) is None
    said = loop.state(catalog)
    assert said.next is LoopNext.GENERATION
    assert "after 4 newly labeled images; there are 3" in said.why
    seal(3, 3)
    label(3)
    assert generations.open_by_itself(catalog, 0) is None
    pausing.pause(catalog, "test", actor="me")
    assert generations.open_by_itself(catalog, 4) is None
    pausing.resume(catalog)
    assert generations.open_by_itself(catalog, 4) == 0
    seal(6, 4)
    label(4)
    assert loop.state(catalog).num_new_images == 4
    assert generations.open_by_itself(catalog, 4) is None  # one is under way
    jobs.fail(catalog, generations.claim(catalog, lease_s=60), Problem(code="diverged", detail="x"))
    assert generations.open_by_itself(catalog, 5) is None
    assert generations.open_by_itself(catalog, 4) == 1


def test_without_a_labeled_set_it_does_not_turn_by_itself(catalog, seal, label, crown):
    """There is nothing to train on; nothing is raised."""
    crown(TEACHER)
    seal(0, 2)
    label(2)
    assert generations.open_by_itself(catalog, 1) is None


def test_of_two_reconcilers_one_turns_the_loop(catalog, seal, label, labeled_set, crown, in_threads):
    """At the same moment, exactly one opens the generation."""
    crown(TEACHER)
    seal(0, 2)
    label(2)
    answers = in_threads(lambda _: generations.open_by_itself(catalog, 2), 4)
    assert sorted(answers, key=str) == [0, None, None, None]
