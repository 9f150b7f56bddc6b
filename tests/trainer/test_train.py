import errno
import os
import random
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trainer import export, model, train, validation
from trainer.checkpoints import Checkpoints
from trainer.data import Batch, Batches
from trainer.progress import Stopped
from understudy import recipes
from understudy.errors import Diverged, RecipeRefused
from understudy.records import Validation
from understudy.store import Store

RECIPE = recipes.recipe(
    "tiny",
    {
        "size": 8, "teacher_steps": 12, "student_steps": 12, "warmup_steps": 2, "checkpoint_every": 4,
        "labeled_batch": 4, "unlabeled_ratio": 1,
    },
)  # fmt: skip
CPU = torch.device("cpu")


@dataclass(frozen=True)
class RandomBatches(Batches):
    """Batches of random pixels: bright ones are class 1. ``poisoned`` steps hold targets that are not numbers."""

    poisoned: tuple[int, ...] = ()

    def at(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        bright = rng.integers(0, 2, 8)
        pixels = (rng.integers(0, 100, (8, 8, 8, 3)) + 150 * bright[:, None, None, None]).astype(np.uint8)
        targets = np.eye(2, dtype=np.float32)[bright]
        return Batch(pixels, targets * np.nan if step in self.poisoned else targets, 4)


class Watching:
    """Validates the average after each step, and remembers what it was told."""

    def __init__(self):
        pixels = np.full((4, 8, 8, 3), 200, dtype=np.uint8)
        preprocessing = RECIPE.preprocessing
        # The clock stands still but for a validation that is free, so that none is left out.
        self.validator = validation.Validator(
            lambda: (pixels, "baba"), ["a", "b"], preprocessing, CPU, 1, 12, lambda: 0.0
        )
        self.seen, self.kept = [], []

    def validate(self, step, averaged_student):
        return self.validator.validate(step, averaged_student)

    def see(self, metrics, looked):
        self.seen.append((metrics.step, len(looked)))

    def keep(self, state):
        self.kept.append(state)


def run_of(store, *, poisoned=(), stop_at=None, generation=0, recipe=RECIPE, num_steps=12, observer=None):
    stopping = threading.Event()

    def show(done, total):
        assert 0 < done <= total == num_steps
        if done + 1 == stop_at:
            stopping.set()

    batches = RandomBatches(None, (), None, None, recipe, 5, poisoned)
    checkpoints = Checkpoints(store, generation)
    return train.Run(batches, checkpoints, recipe, num_steps, 5, CPU, show, stopping.is_set, observer)


def fresh():
    with train.seeded(5):
        return model.build("efficientnet@stages=2", 2, dropout=0.3, drop_path_rate=0.2)


def test_training_learns_and_tells_its_history(local_store):
    """Bright from dark is learned in twelve steps; every step has its line."""
    _, state = run_of(local_store).train(fresh())

    assert [line.step for line in state.history] == list(range(1, 13))
    assert state.history[-1].loss < state.history[0].loss
    assert all(line.pseudo_loss is not None for line in state.history)
    assert state.learning_rate_factor == 1.0


@pytest.mark.parametrize("stop_at", [2, 6, 8, 11])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, stop_at):
    """Stopped anywhere and gone on with by another process: bit for bit the same student."""
    whole, broken = (Store((tmp_path / name).as_uri()) for name in ("whole", "broken"))
    expected, _ = run_of(whole).train(fresh())

    with pytest.raises(Stopped):
        run_of(broken, stop_at=stop_at).train(fresh())
    assert Checkpoints(broken, 0).steps()[-1] == stop_at
    student, state = run_of(broken).train(fresh())

    assert export.weights_to_safetensors(student) == export.weights_to_safetensors(expected)
    assert [line.step for line in state.history] == list(range(1, 13))


def test_looks_change_nothing_that_is_trained(local_store):
    """Bit for bit the same student, watched at every step or not at all; and all is told to who watches."""
    expected, alone = run_of(local_store).train(fresh())
    observer = Watching()

    student, state = run_of(local_store, generation=1, observer=observer).train(fresh())

    assert export.weights_to_safetensors(student) == export.weights_to_safetensors(expected)
    assert [line.loss for line in state.history] == [line.loss for line in alone.history]
    assert [one.step for one in state.validations] == list(range(1, 13))
    assert observer.seen == [(step, step) for step in range(1, 13)]
    assert [kept.step for kept in observer.kept] == [4, 8, 12]
    assert alone.validations == ()


def test_a_resumed_run_has_each_look_and_line_once(local_store):
    """What was seen before the death is in the checkpoint; what came after it is seen anew."""
    with pytest.raises(Stopped):
        run_of(local_store, stop_at=6, observer=Watching()).train(fresh())

    _, state = run_of(local_store, observer=Watching()).train(fresh())

    assert [one.step for one in state.validations] == list(range(1, 13))
    seconds = [line.seconds for line in state.history]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] <= seconds[-1] <= state.seconds


def test_the_time_of_looks_is_no_training_time(local_store):
    """A validation that took an hour, by its own word, is not in the run's seconds."""

    class Slow(Watching):
        def validate(self, step, averaged_student):
            return Validation(step=step, accuracy=0.5, num_images=4, seconds=-3600.0) if step == 2 else None

    _, state = run_of(local_store, observer=Slow()).train(fresh())

    assert state.seconds > 3600.0  # the other way round: an hour that was given back


def test_the_result_is_the_average_without_noise(local_store):
    """Dropout off, BatchNorm on its running statistics: what labels the next round."""
    student, _ = run_of(local_store).train(fresh())

    pixels = torch.rand(4, 3, 8, 8)
    assert not student.training
    assert torch.equal(student(pixels), student(pixels))


def test_numbers_that_are_not_finite_send_a_run_back_once(local_store):
    """It goes back to the last good checkpoint with a lower learning rate; a second time it has diverged."""
    with pytest.raises(Diverged, match="lower learning_rate"):
        run_of(local_store, poisoned=(6,)).train(fresh())

    found = Checkpoints(local_store, 0).newest()
    assert found is not None
    assert (found[1].step, found[1].learning_rate_factor) == (4, train.RETREAT_FACTOR)
    _, state = run_of(local_store).train(fresh())  # the fault has gone: the run goes on, still slowly
    assert state.learning_rate_factor == train.RETREAT_FACTOR
    assert state.history[-1].step == 12


def test_a_loss_that_runs_away_sends_a_run_back_too(local_store, caplog):
    """An absurd learning rate: back once to what was good, and then an end with the reason; nothing bad is kept."""
    absurd = recipes.replaced(
        RECIPE,
        {"learning_rate": 1000.0, "warmup_steps": 0, "student_steps": 300, "checkpoint_every": 10, "optimizer": "rmsprop",
         "schedule": "staircase"},
    )  # fmt: skip

    with pytest.raises(Diverged, match=r"a tenth of the learning rate .*lower learning_rate=1000\.0"):
        run_of(local_store, recipe=absurd, num_steps=300).train(fresh())

    found = Checkpoints(local_store, 0).newest()
    assert found is not None
    assert found[1].watched.is_calm
    assert "going back to step" in caplog.text


class SmallDevice(nn.Module):
    """A student on a device that holds so many images."""

    def __init__(self, room):
        super().__init__()
        self.student, self.room = fresh(), room

    def forward(self, x):
        if self.training and len(x) > self.room:
            raise torch.OutOfMemoryError(f"{len(x)} images are too many")
        return self.student(x)


def test_what_does_not_fit_is_run_in_parts(local_store, caplog):
    """The batch is halved until it fits; a run that goes on later does not run into it again."""
    with pytest.raises(Stopped):
        run_of(local_store, stop_at=6).train(SmallDevice(2))

    found = Checkpoints(local_store, 0).newest()
    assert found is not None
    assert (found[1].step, found[1].accumulate) == (6, 4)
    assert caplog.text.count("has too little memory") == 2
    _, state = run_of(local_store).train(SmallDevice(2))
    assert caplog.text.count("has too little memory") == 2
    assert state.history[-1].step == 12


def test_a_device_too_small_for_two_images_is_an_error(local_store):
    """There is nothing left to halve, and the message says what to change."""
    small = recipes.replaced(RECIPE, {"labeled_batch": 4, "unlabeled_ratio": 1})
    with pytest.raises(RecipeRefused, match=r"even in 4 parts \(2 images are too many\); lower labeled_batch"):
        run_of(local_store, recipe=small).train(SmallDevice(1))


class FillingStore(Store):
    """A store whose disk is full for the steps of these checkpoints."""

    full_at: tuple[int, ...] = ()

    def replace(self, key, data):
        if int(key.split("/")[-2]) in self.full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().replace(key, data)


def test_training_goes_on_without_a_checkpoint_in_between(tmp_path, caplog):
    """A full disk costs that checkpoint and no more, and the next one is tried."""
    store = FillingStore(tmp_path.as_uri())
    store.full_at = (4,)

    _, state = run_of(store).train(fresh())

    assert state.history[-1].step == 12
    assert Checkpoints(store, 0).steps() == [8, 12]
    assert "tries again at step 8" in caplog.text


@pytest.mark.parametrize(("full_at", "stop_at", "left"), [(12, None, [4, 8]), (7, 7, [0, 4])])
def test_the_last_checkpoint_needs_its_room(tmp_path, full_at, stop_at, left):
    """At the end, and when the process shall stop: a clear error, and the older checkpoints stand."""
    store = FillingStore(tmp_path.as_uri())
    store.full_at = (full_at,)

    with pytest.raises(OSError, match=r"No space left on device.*still stand: make room"):
        run_of(store, stop_at=stop_at).train(fresh())

    assert Checkpoints(store, 0).steps() == left
    _, state = run_of(Store(tmp_path.as_uri())).train(fresh())
    assert [line.step for line in state.history] == list(range(1, 13))


#: A trainer in a process of its own, which tells its steps.
PROGRAM = """
import dataclasses, importlib.util, sys, torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("here", sys.argv[1])
here = importlib.util.module_from_spec(spec)
sys.modules["here"] = here
spec.loader.exec_module(here)
run = here.run_of(here.Store(sys.argv[2]), num_steps=60)
run = dataclasses.replace(run, show=lambda done, total: print(done, flush=True))
run.train(here.fresh())
"""


def test_a_killed_process_is_gone_on_with_bit_for_bit(tmp_path):
    """``kill -9`` at a step that nobody chose: what goes on from its checkpoint ends with the very same weights."""
    store = Store((tmp_path / "killed").as_uri())
    kill_at = random.Random().randrange(1, 55)
    command = [sys.executable, "-c", PROGRAM, __file__, store.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= kill_at:
                process.kill()
                break
        assert process.wait() == -9, f"killed at {kill_at}"
    assert 0 <= max(Checkpoints(store, 0).steps()) <= 60

    expected, _ = run_of(Store((tmp_path / "whole").as_uri()), num_steps=60).train(fresh())
    student, state = run_of(store, num_steps=60).train(fresh())

    assert export.weights_to_safetensors(student) == export.weights_to_safetensors(expected), f"killed at {kill_at}"
    assert [line.step for line in state.history] == list(range(1, 61))
