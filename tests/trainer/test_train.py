import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from trainer import export, model, train
from trainer.checkpoints import Checkpoints, RunState
from trainer.data import Batch, Batches
from trainer.progress import Stopped
from understudy import recipes
from understudy.errors import Diverged

RECIPE = recipes.recipe(
    "tiny", {"size": 8, "teacher_steps": 12, "student_steps": 12, "warmup_steps": 2, "checkpoint_every": 4}
)
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


def run_of(store, *, poisoned=(), stop_at=None, generation=0, recipe=RECIPE):
    stopping = threading.Event()

    def show(done, total):
        assert 0 < done <= total == 12
        if done + 1 == stop_at:
            stopping.set()

    batches = RandomBatches(None, None, None, None, recipe, 5, poisoned)
    return train.Run(batches, Checkpoints(store, generation), recipe, 12, 5, CPU, show, stopping.is_set)


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
    from understudy.store import Store

    whole, broken = (Store((tmp_path / name).as_uri()) for name in ("whole", "broken"))
    expected, _ = run_of(whole).train(fresh())

    with pytest.raises(Stopped):
        run_of(broken, stop_at=stop_at).train(fresh())
    assert Checkpoints(broken, 0).steps()[-1] == stop_at
    student, state = run_of(broken).train(fresh())

    assert export.weights_to_safetensors(student) == export.weights_to_safetensors(expected)
    assert [line.step for line in state.history] == list(range(1, 13))


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


def test_only_the_newest_checkpoints_are_kept_and_a_damaged_one_is_passed_over(local_store):
    """The one before the newest is there for that."""
    checkpoints = Checkpoints(local_store, 3)
    for step in (0, 4, 8):
        checkpoints.write({"x": torch.tensor([float(step)])}, RunState(step=step))
    assert checkpoints.steps() == [4, 8]

    local_store.replace("generations/0003/checkpoints/0000/00000008/tensors.safetensors", b"half")

    found = checkpoints.newest()
    assert found is not None
    assert (float(found[0]["x"]), found[1].step) == (4.0, 4)
    checkpoints.clear()
    assert local_store.list("generations/0003/checkpoints") == []
