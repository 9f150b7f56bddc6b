"""Generations from end to end, on scikit-learn's digits, with a real catalog, store, engine and training."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from trainer import gate, generation, program
from trainer.calibration import Calibration, is_calibration
from trainer.card import Export, Training
from trainer.plan import make_plan
from trainer.progress import Progress
from trainer.steps.controlling import Control
from understudy import images, labels, recipes, registry, thresholds
from understudy.catalog import claims, generations, jobs, shards, versions
from understudy.catalog.tables import JobRow
from understudy.errors import Conflict, Diverged, LeaseLost, RecipeRefused, Refused
from understudy.label_records import Selection
from understudy.records import GenerationState, History, JobState
from understudy.shards import read_images, read_manifest
from understudy.store import Store, selection_key


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


def test_a_generation_leaves_its_figures(make_taught_world):
    """On its job, as a history, as TensorBoard's events, and as curves; each step once though a trainer died."""
    world = make_taught_world()
    world.label()
    turn, claim = world.open(overrides={"evaluate_every": 10})
    with pytest.raises(Killed):
        run(world, turn, claim, store=MortalStore(world.store.url, "00000020/state.json"))
    claims.give_back(world.catalog, claim, program.STOPPED, max_attempts=50)

    run(world, turn, world.claim(turn))

    num_steps = world.quick["student_steps"]
    history = History.model_validate_json(world.store.get("generations/0001/history.json"))
    assert [line.step for line in history.lines] == list(range(1, num_steps + 1))
    assert history.validations[-1].step == history.num_steps == num_steps
    training = Training.model_validate_json(world.store.get("generations/0001/training.json"))
    assert (training.history, training.validations) == (history.lines, history.validations)
    metrics = jobs.get(world.catalog, turn.job.id).metrics
    assert (metrics.step, metrics.loss, metrics.eta_s) == (num_steps, history.lines[-1].loss, 0.0)
    assert metrics.ema_accuracy == history.validations[-1].accuracy
    assert 30 < metrics.ema_images < 90  # the calibration half of 120
    assert world.store.get("generations/0001/curves.png").startswith(b"\x89PNG")
    assert world.store.list("generations/0001/tensorboard/")


#: Where a trainer may die: after each of these writes of generation 1.
DEATHS = [
    "plan.json", "labels.json", "selection-", "selection.json", "augmented.jpg", "00000000/tensors", "00000010/state.json",
    "00000020/tensors", "weights.safetensors", "training.json", "answers.json", "calibration.json", "model.onnx", "export.json",
    "model.fp16.onnx", "model.int8.onnx", "variants.json", "evaluation-g0001", "robustness-g0001",
    "evaluation-g0000", "robustness-g0000", "gate-", "variants-", "reliability.png", "confusion.png",
    "models/g0001", "card.json",
]  # fmt: skip


def test_a_generation_survives_death_at_every_step(make_taught_world):
    """Killed after every single write and begun again, it makes the version that an undisturbed run makes, once."""
    outcome = []
    for name, deaths in (("calm", []), ("disturbed", DEATHS)):
        world = make_taught_world(name)
        world.label()
        turn, claim = world.open(overrides={"variants": ["fp16", "int8"], "robustness_images": 2})
        for death in deaths:
            with pytest.raises(Killed, match=death):
                run(world, turn, claim, store=MortalStore(world.store.url, death))
            claims.give_back(world.catalog, claim, program.STOPPED, max_attempts=50)
            claim = world.claim(turn)
        report = run(world, turn, claim)
        outcome.append((report.challenger.version, report.gain, report.verdict))
        (card,) = [v.card for v in versions.every(world.catalog) if v.generation == 1]
        assert [variant.name for variant in card.variants] == ["fp16", "int8"]
        assert card.robustness.num_images == 2
        assert len(card.robustness.by_corruption) == 15
        assert len([key for key in world.store.list("generations/0001") if key.endswith(".png")]) == 4
        assert all(variant.evaluation.num_images == 120 for variant in card.variants)
        assert all(0 < variant.agreement <= 1 for variant in card.variants)
        eligible = [variant.artifact_key for variant in card.variants if variant.is_eligible]
        assert set(eligible) == {
            key for key in world.store.list("models") if "/g0001-" in key and ("fp16" in key or "int8" in key)
        }

    assert outcome[0] == outcome[1]


#: Where a trainer may die while it makes the control.
CONTROL_DEATHS = ["control-checkpoints/0001/00000010/state.json", "control-model.onnx", "control.json"]


def test_a_control_is_trained_beside_the_student_and_changes_nothing_else(make_taught_world):
    """Killed wherever it is made, it is judged against the same student as without it, and is on report and card."""
    outcome = {}
    for name, deaths, overrides in (("without", [], {}), ("with", CONTROL_DEATHS, {"control": True})):
        world = make_taught_world(name)
        world.label()
        turn, claim = world.open(overrides=overrides)
        for death in deaths:
            with pytest.raises(Killed, match=death):
                run(world, turn, claim, store=MortalStore(world.store.url, death))
            claims.give_back(world.catalog, claim, program.STOPPED, max_attempts=50)
            claim = world.claim(turn)
        outcome[name] = run(world, turn, claim)

    report = outcome["with"]
    assert report.challenger.version == outcome["without"].challenger.version
    rules, without = ([rule for rule in one.rules if rule.name != "latency"] for one in (report, outcome["without"]))
    assert rules == without
    assert outcome["without"].control is None
    assert report.control.version.endswith("-control")
    assert report.control.num_images == report.challenger.num_images
    assert report.control_gain.difference == pytest.approx(report.challenger.accuracy - report.control.accuracy)
    assert "over the control trained on labels alone" in report.reasons[-1]
    kept = Control.model_validate_json(world.store.get("generations/0001/control.json"))
    assert (kept.training.num_pseudo, kept.training.num_steps) == (0, world.quick["student_steps"])
    card = versions.get(world.catalog, report.challenger.version).card
    assert (card.control, card.control_gain) == (report.control, report.control_gain)
    assert [v.id for v in versions.every(world.catalog) if v.generation == 1] == [card.version]
    assert world.store.list("generations/0001/control-checkpoints") == []


def test_a_control_that_diverges_fails_nothing_but_itself(make_taught_world):
    """The student is judged, and the reason is kept."""
    world = make_taught_world()
    world.label()
    turn, claim = world.open(overrides={"control": True})

    class Cliff(MortalStore):
        """Where the control's numbers are not finite."""

        def replace(self, key, data):
            if "control-checkpoints/0001/00000010" in key:
                raise Diverged("loss nan at step 10")
            super().replace(key, data)

    report = run(world, turn, claim, store=Cliff(world.store.url, None))

    assert report.control is None
    kept = Control.model_validate_json(world.store.get("generations/0001/control.json"))
    assert kept.reason == "loss nan at step 10"
    assert generations.get(world.catalog, 1).state.is_ended


@pytest.mark.thorough  # tests/trainer/test_looks.py counts the same looks
def test_every_comparison_on_the_holdout_is_a_look(make_taught_world):
    """The first teacher's, an abandoned one and the last are counted; a holdout that doubles begins anew."""
    world = make_taught_world()
    world.label()
    turn, claim = world.open()
    with pytest.raises(Killed):
        run(world, turn, claim, store=MortalStore(world.store.url, "gate-"))
    first = versions.champion(world.catalog).version
    card = versions.get(world.catalog, first).card
    versions.register(world.catalog, card.model_copy(update={"version": "g0000-copied"}))
    with world.catalog.write() as session:
        versions.promote(session, "g0000-copied", instead_of=first, reason="test", actor="somebody")

    report = run(world, turn, claim)

    assert report.look.number == 3
    assert [(past.generation, past.champion) for past in report.look.before] == [(0, None), (1, first)]
    assert sum(report.look.holdout.values()) == report.challenger.num_images == 120
    assert report.look.fresh_at == 240
    assert gate.replay(report) == report.verdict


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


def test_a_generation_waits_for_labels(make_taught_world, until):
    """It shows how many there are, and ends the wait when its process shall end."""
    world = make_taught_world()
    turn, claim = world.open()
    stopping = threading.Event()

    def stop_when_it_waits():
        until(lambda: jobs.get(world.catalog, turn.job.id).step == "wait for labels")
        stopping.set()

    stopper = threading.Thread(target=stop_when_it_waits)
    stopper.start()
    assert program.attempt(world.place, claim, stopping) is False
    stopper.join()

    job = jobs.get(world.catalog, turn.job.id)
    assert (job.state, job.step, job.done, job.total) == (JobState.QUEUED, "wait for labels", 0, 2)
    world.label()
    assert program.attempt(world.place, world.claim(turn), threading.Event()) is True
    assert jobs.get(world.catalog, turn.job.id).state == JobState.SUCCEEDED


@pytest.mark.parametrize(("content", "code"), [(None, "label_set_missing"), (b"no Parquet", "label_set_damaged")])
def test_a_label_set_that_is_gone_or_damaged_ends_the_generation_by_name(make_taught_world, content, code):
    """Nothing is trained on less than the teacher said, and nothing tried again that cannot get better."""
    world = make_taught_world()
    world.label()
    turn, claim = world.open()
    key = shards.published_labels(world.catalog, turn.teacher)[0].key
    world.store.delete(key)
    if content is not None:
        world.store.put(key, content)

    program.attempt(world.place, claim, threading.Event())

    job = jobs.get(world.catalog, turn.job.id)
    assert (job.state, job.problem.code) == (JobState.FAILED, code)
    assert key.rsplit("/", 1)[-1] in job.problem.detail


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
        assert process.wait(30) == 0

    job = jobs.get(world.catalog, turn.job.id)
    assert (job.state, job.problem.code) == (JobState.QUEUED, "stopped")
    assert len(world.store.list("generations/0000/checkpoints")) == 4  # the beginning, and where it was


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"recipe": "gigantic"}, "recipe_refused"),
        ({"recipe": "tiny", "student": "efficientnet@width=wide"}, "recipe_refused"),
        ({"recipe": "tiny", "weights": "0" * 64}, "conflict"),
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
    turn, claim = world.open(overrides={"threshold": 0.999999})

    with pytest.raises(Refused, match="lower threshold"):
        run(world, turn, claim)


def test_the_temperature_is_fitted_on_a_half_of_the_holdout_and_served(make_taught_world):
    """It is in the graph, which answers as torch does; the figures and answers are those of the half that calibrates."""
    world = make_taught_world()
    card = versions.get(world.catalog, registry.champion(world.catalog)).card
    exported = Export.model_validate_json(world.store.get("generations/0000/export.json"))
    fitted = Calibration.model_validate_json(world.store.get("generations/0000/calibration.json"))
    half = [
        (member.class_name, images.load(data, card.preprocessing))
        for shard in shards.of_split(world.catalog, "holdout")
        for member, data in read_images(world.store, read_manifest(world.store, shard.key))
        if is_calibration(member.sha256)
    ]

    served = registry.load(world.store, world.catalog, card.version, provider="cpu")
    probabilities = served.predict(np.stack([pixels for _, pixels in half]))

    assert card.temperature == fitted.temperature == exported.calibration.temperature
    assert abs(fitted.temperature - 1) > 0.05
    assert fitted.negative_log_likelihood[1] < fitted.negative_log_likelihood[0]
    assert card.training["calibration"]["num_images"] == fitted.num_images == len(half) >= 50
    assert 0 < exported.worst_difference <= 1e-4
    told = thresholds.answers_of(world.store, 0)
    truth = [card.classes.index(name) for name, _ in half]
    assert list(told.predicted) == probabilities.argmax(axis=1).tolist()
    assert told.confidence == pytest.approx(probabilities.max(axis=1), abs=1e-4)
    assert list(told.is_right) == (probabilities.argmax(axis=1) == truth).tolist()


def test_a_collapse_ends_the_generation_with_the_reason(make_taught_world):
    """No student is trained; the selection with its figures stays to be looked at, and the champion serves on."""
    world = make_taught_world()
    champion = versions.champion(world.catalog).version
    world.label()
    turn, claim = world.open(overrides={"min_kept_share": 1})

    assert program.attempt(world.place, claim, threading.Event()) is True

    job = jobs.get(world.catalog, turn.job.id)
    assert (job.state, job.problem.code) == (JobState.FAILED, "selection_collapsed")
    assert "min_kept_share asks for 100.00%" in job.problem.detail
    selected = Selection.model_validate_json(world.store.get("generations/0001/selection.json"))
    assert 0 < selected.tripwires.kept_share < 1
    assert not world.store.exists("generations/0001/training.json")
    assert versions.champion(world.catalog).version == champion


def test_a_later_teacher_labels_the_same_choice_anew(make_taught_world):
    """The first student's choice is made; the second's is that one with new labels, and says so."""
    world = make_taught_world()
    world.label()
    turn, claim = world.open(overrides={"relabel": "same", "student_steps": 6})
    run(world, turn, claim)
    world.label()
    first = Selection.model_validate_json(world.store.get("generations/0001/selection.json"))
    turn, claim = world.open()
    with pytest.raises(Killed):
        run(world, turn, claim, store=MortalStore(world.store.url, "selection.json"))
    second = Selection.model_validate_json(world.store.get("generations/0002/selection.json"))

    def copies(generation, selected):
        rows = world.store.get(selection_key(generation, selected.rows_sha256))
        return {row["sha256"]: row["copies"] for row in labels.table_from_parquet(rows).to_pylist()}

    assert (first.relabeled, second.relabeled, second.num_gone) == (None, 1, 0)
    assert copies(1, first) == copies(2, second) != {}

    world.store.delete(selection_key(1, first.rows_sha256))
    world.store.delete("generations/0002/selection.json")
    claims.give_back(world.catalog, claim, program.STOPPED, max_attempts=50)
    assert program.attempt(world.place, world.claim(turn), threading.Event()) is True
    assert jobs.get(world.catalog, turn.job.id).problem.code == "selection_lost"


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
