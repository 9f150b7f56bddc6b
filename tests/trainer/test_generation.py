"""Generations from end to end, on scikit-learn's digits, with a real catalog, store, engine and training."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from trainer import __main__ as program
from trainer import generation
from trainer.plan import make_plan
from trainer.progress import Progress
from understudy import images, recipes
from understudy.catalog import claims, generations, jobs, shards, versions
from understudy.catalog.tables import JobRow
from understudy.errors import Conflict, LeaseLost, RecipeRefused, Refused
from understudy.records import GenerationState, JobState
from understudy.store import Store


class Killed(BaseException):
    """As kill -9: nobody's except clause takes it."""


class MortalStore(Store):
    """A store whose user dies right after its next write of a name (None: never)."""

    def __init__(self, url: str, dies_after: str | None) -> None:
        super().__init__(url)
        self._dies_after = dies_after

    def put(self, key, data):
        done = super().put(key, data)
        self._maybe_die(key)
        return done

    def replace(self, key, data):
        super().replace(key, data)
        self._maybe_die(key)

    def _maybe_die(self, key):
        if self._dies_after is not None and self._dies_after in key:
            raise Killed(key)


def run(world, turn, claim, stopping=None, store=None):
    place = world.place if store is None else replace(world.place, store=store)
    progress = Progress(world.catalog, claim, stopping or threading.Event())
    return generation.run(place, claim, progress, turn)


def first_teacher(world, **request):
    turn, claim = world.open(recipe="tiny", overrides=world.quick, **request)
    return run(world, turn, claim)


def test_two_generations(make_world):
    """A first teacher is promoted; its student is trained on its labels, judged against it, and all is on the record."""
    world = make_world()

    report = first_teacher(world)

    assert report.verdict == "promote"
    assert report.champion is None
    champion = versions.champion(world.catalog).version
    assert generations.get(world.catalog, 0).state == GenerationState.PROMOTED
    assert shards.label_progress(world.catalog, champion).num_shards == 2
    assert len(world.rung) == 2
    assert shards.want_labels(world.catalog) == []  # asked for already, by the trainer

    world.label()
    turn, claim = world.open(overrides={"threshold": 0.6})
    report = run(world, turn, claim)

    after = generations.get(world.catalog, 1)
    assert after.state.is_ended
    assert after.report == report
    assert report.champion.version == champion
    card = versions.get(world.catalog, after.version).card
    assert card.teacher == champion
    assert card.recipe["name"] == "tiny"
    assert card.recipe["student_steps"] == world.quick["student_steps"]  # as the generation before
    assert card.evaluation == report.challenger
    assert card.data["num_labeled"] == 60
    assert card.data["num_pseudo"] > 0
    assert world.store.list("generations/0001/checkpoints") == []
    for number in (0, 1):  # what the student saw: one row of labeled images, then one of pseudo-labeled ones
        seen = images.decode(world.store.get(f"generations/{number:04d}/augmented.jpg"))
        assert seen.shape[0] == (number + 1) * 78


#: Where a trainer may die: after each of these writes of generation 1.
DEATHS = [
    "plan.json", "labels.json", "selection-", "selection.json", "augmented.jpg", "00000000/tensors", "00000010/state.json",
    "00000020/tensors", "weights.safetensors", "training.json", "model.onnx", "export.json",
    "model.fp16.onnx", "model.int8.onnx", "variants.json", "evaluation-g0001", "evaluation-g0000", "gate-", "variants-",
    "models/g0001", "card.json",
]  # fmt: skip


def test_a_generation_survives_death_at_every_step(make_taught_world):
    """Killed after every single write and begun again, it makes the version that an undisturbed run makes, once."""
    outcome = []
    for name, deaths in (("calm", []), ("disturbed", DEATHS)):
        world = make_taught_world(name)
        world.label()
        turn, claim = world.open(overrides={"variants": ["fp16", "int8"]})
        for death in deaths:
            with pytest.raises(Killed, match=death):
                run(world, turn, claim, store=MortalStore(world.store.url, death))
            claims.give_back(world.catalog, claim, program.STOPPED, max_attempts=50)
            claim = world.claim(turn)
        report = run(world, turn, claim)
        outcome.append((report.challenger.version, report.gain, report.verdict))
        (card,) = [v.card for v in versions.every(world.catalog) if v.generation == 1]
        assert [variant.name for variant in card.variants] == ["fp16", "int8"]
        assert all(variant.evaluation.num_images == 120 for variant in card.variants)
        assert all(0 < variant.agreement <= 1 for variant in card.variants)
        eligible = [variant.artifact_key for variant in card.variants if variant.is_eligible]
        assert set(eligible) == {
            key for key in world.store.list("models") if "/g0001-" in key and ("fp16" in key or "int8" in key)
        }

    assert outcome[0] == outcome[1]


def test_another_champion_meanwhile_means_another_comparison(make_taught_world):
    """A verdict against one champion does not promote over another: the gate is asked again."""
    world = make_taught_world()
    first = versions.champion(world.catalog).version
    world.label()
    turn, claim = world.open(overrides={"student_steps": 150})
    with pytest.raises(Killed):
        run(world, turn, claim, store=MortalStore(world.store.url, "gate-"))

    class Meddler(MortalStore):
        """Rolls the champion over to a copy of the first one when the verdict has been written."""

        def put(self, key, data):
            done = super().put(key, data)
            if key.endswith("card.json") and versions.champion(world.catalog).version == first:
                card = versions.get(world.catalog, first).card
                versions.register(world.catalog, card.model_copy(update={"version": "g0000-copied"}))
                with world.catalog.write() as session:
                    versions.promote(session, "g0000-copied", instead_of=first, reason="test", actor="somebody")
            return done

    report = run(world, turn, claim, store=Meddler(world.store.url, None))

    assert report.verdict == "promote"
    assert report.champion.version == "g0000-copied"
    assert [c.version for c in versions.history(world.catalog)] == [report.challenger.version, "g0000-copied", first]


def test_a_generation_waits_for_labels(make_taught_world):
    """It shows how many there are, and ends the wait when its process shall end."""
    world = make_taught_world()
    turn, claim = world.open()
    stopping = threading.Event()
    threading.Timer(0.3, stopping.set).start()

    assert program.attempt(world.place, claim, stopping) is False

    job = jobs.get(world.catalog, turn.job.id)
    assert (job.state, job.step, job.done, job.total) == (JobState.QUEUED, "wait for labels", 0, 2)
    world.label()
    assert program.attempt(world.place, world.claim(turn), threading.Event()) is True
    assert jobs.get(world.catalog, turn.job.id).state == JobState.SUCCEEDED


def test_a_teacher_that_was_replaced_is_not_waited_for(make_taught_world):
    """Its missing label sets will never come."""
    world = make_taught_world()
    first = versions.champion(world.catalog).version
    turn, claim = world.open()
    card = versions.get(world.catalog, first).card
    versions.register(world.catalog, card.model_copy(update={"version": "g0000-copied"}))
    with world.catalog.write() as session:
        versions.promote(session, "g0000-copied", instead_of=first, reason="test", actor="somebody")

    with pytest.raises(Conflict, match="open another generation"):
        run(world, turn, claim)


def test_a_stopped_trainer_leaves_a_checkpoint_and_gives_back(make_world):
    """SIGTERM in the middle of training: the attempt is forgiven, and the next trainer goes on."""
    world = make_world()
    turn, claim = world.open(recipe="tiny", overrides=world.quick | {"teacher_steps": 60, "checkpoint_every": 1000})
    stopping = threading.Event()

    class Bell(MortalStore):
        """Asks the process to end as soon as training has begun."""

        def replace(self, key, data):
            super().replace(key, data)
            stopping.set()

    place = replace(world.place, store=Bell(world.store.url, None))
    assert program.attempt(place, claim, stopping) is False

    job = jobs.get(world.catalog, turn.job.id)
    assert job.state == JobState.QUEUED
    kept = [key for key in world.store.list("generations/0000/checkpoints") if key.endswith("00000001/state.json")]
    assert len(kept) == 1
    assert program.attempt(world.place, world.claim(turn), threading.Event()) is True
    assert generations.get(world.catalog, 0).state == GenerationState.PROMOTED


def test_a_lost_lease_ends_the_work_without_a_trace(make_world):
    """Another trainer has it: nothing is written, nothing is failed."""
    world = make_world()
    turn, claim = world.open(recipe="tiny", overrides=world.quick)
    claims.give_back(world.catalog, claim, program.STOPPED)
    newer = world.claim(turn)

    with pytest.raises(LeaseLost):
        run(world, turn, claim)
    assert program.attempt(world.place, claim, threading.Event()) is True

    assert jobs.get(world.catalog, turn.job.id).state == JobState.RUNNING
    assert newer.attempt == claim.attempt + 1


def test_sigterm_ends_the_program_within_seconds(make_world):
    """``python -m trainer`` leaves a checkpoint, gives its work back unharmed, and exits with 0."""
    world = make_world()
    long = world.quick | {"teacher_steps": 100_000, "student_steps": 100_000, "checkpoint_every": 100_000}
    turn, claim = world.open(recipe="tiny", overrides=long)
    claims.give_back(world.catalog, claim, program.STOPPED, is_forgiven=True)
    environment = {
        "UNDERSTUDY_CATALOG_URL": f"sqlite:///{world.folder / 'catalog.db'}",
        "UNDERSTUDY_STORE_URL": world.store.url,
        "UNDERSTUDY_DATA": str(world.folder),
        "UNDERSTUDY_DEVICE": "cpu",
    }
    with subprocess.Popen([sys.executable, "-m", "trainer"], env=os.environ | environment) as process:
        pause = threading.Event()
        while (job := jobs.get(world.catalog, turn.job.id)).step != "train" or job.done < 1:
            assert process.poll() is None
            pause.wait(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0

    job = jobs.get(world.catalog, turn.job.id)
    assert (job.state, job.problem.code) == (JobState.QUEUED, "stopped")
    assert len(world.store.list("generations/0000/checkpoints")) == 4  # the beginning, and where it was


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"recipe": "gigantic"}, "recipe_refused"),
        ({"recipe": "tiny", "student": "efficientnet@width=wide"}, "recipe_refused"),
        ({"recipe": "tiny", "weights": "0" * 64}, "recipe_refused"),
    ],
)
def test_a_request_that_cannot_be_met_fails_with_its_reason(make_world, request_, code):
    """The job ends with a stable code; the next generation may be opened at once."""
    world = make_world()
    turn, claim = world.open(**request_)

    assert program.attempt(world.place, claim, threading.Event()) is True

    job = jobs.get(world.catalog, turn.job.id)
    assert (job.state, job.problem.code) == (JobState.FAILED, code)
    world.open()


def test_a_smaller_student_is_refused_before_anything_is_waited_for(make_world):
    """Equal or larger, unless the recipe says otherwise."""
    world = make_world()
    first_teacher(world, student="efficientnet@depth=2")
    turn, claim = world.open(student="efficientnet")

    with pytest.raises(RecipeRefused, match="allow_smaller"):
        run(world, turn, claim)
    allowed = turn.model_copy(
        update={"request": turn.request.model_copy(update={"overrides": {"allow_smaller": True}})}
    )
    assert make_plan(world.catalog, world.store, allowed).student == "efficientnet"


def test_a_teacher_that_is_sure_of_nothing_ends_the_generation(make_taught_world):
    """There is nothing to learn from; the message says what to do."""
    world = make_taught_world()
    world.label()
    turn, claim = world.open(overrides={"threshold": 0.999})

    with pytest.raises(Refused, match="lower threshold"):
        run(world, turn, claim)


def test_a_fault_gives_the_work_back(make_world):
    """What nobody foresaw is tried again, and counted."""
    world = make_world()
    turn, claim = world.open(recipe="tiny", overrides=world.quick)

    class Broken(MortalStore):
        def put(self, key, data):
            raise OSError("disk full")

    place = replace(world.place, store=Broken(world.store.url, None))
    assert program.attempt(place, claim, threading.Event()) is False

    job = jobs.get(world.catalog, turn.job.id)
    assert (job.state, job.problem.code, job.problem.detail) == (JobState.QUEUED, "internal", "OSError: disk full")


def test_the_program_takes_what_waits(make_world):
    """The loop claims a generation, works on it, and ends when it is told."""
    world = make_world()
    turn, claim = world.open(recipe="tiny", overrides=world.quick)
    claims.give_back(world.catalog, claim, program.STOPPED, is_forgiven=True)
    stopping = threading.Event()
    thread = threading.Thread(target=program.work, args=(world.place, stopping), kwargs={"lease_s": 60.0})

    thread.start()
    pause = threading.Event()
    while not jobs.get(world.catalog, turn.job.id).state.is_ended:
        pause.wait(0.1)
    stopping.set()
    thread.join()

    assert generations.get(world.catalog, 0).state == GenerationState.PROMOTED
    assert claims.overdue(world.catalog, JobRow, limit=10) == []


def test_the_default_recipe_is_the_small_one(make_world):
    """Nobody has to know a recipe's name."""
    world = make_world()
    turn, _ = world.open()

    assert make_plan(world.catalog, world.store, turn).recipe == recipes.recipe("small", {})
