import math
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from trainer import export, model, train, validation
from trainer.checkpoints import Checkpoints, RunState
from trainer.data import Batch, Batches
from trainer.progress import Stopped
from understudy import recipes
from understudy.errors import Diverged
from understudy.records import Validation

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


def run_of(store, *, poisoned=(), stop_at=None, generation=0, recipe=RECIPE, observer=None):
    stopping = threading.Event()

    def show(done, total):
        assert 0 < done <= total == 12
        if done + 1 == stop_at:
            stopping.set()

    batches = RandomBatches(None, None, None, None, recipe, 5, poisoned)
    return train.Run(batches, Checkpoints(store, generation), recipe, 12, 5, CPU, show, stopping.is_set, observer)


def fresh():
    with train.seeded(5):
        return model.build("efficientnet@stages=2", 2, dropout=0.3, drop_path_rate=0.2)


def test_the_loss_by_hand():
    """Mean over labeled plus weight × mean over pseudo-labeled: log 2 each for equal logits."""
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [math.log(3), 0.0]])
    targets = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])

    both = train.losses(logits, targets, 2, 3.0)

    assert float(both.labeled) == pytest.approx(math.log(2))
    pseudo = -0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4)
    assert both.pseudo is not None
    assert float(both.pseudo) == pytest.approx(pseudo)
    assert float(both.loss) == pytest.approx(math.log(2) + 3 * pseudo)
    assert train.losses(logits[:2], targets[:2], 2, 3.0).pseudo is None


def test_the_learning_rate_warms_up_and_ends_at_zero():
    """Linear, then a cosine."""
    rates = [train.learning_rate(RECIPE, step, 12) / RECIPE.learning_rate for step in range(13)]

    assert rates[0] == pytest.approx(0.5)
    assert rates[6] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0.0)
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_the_average_covers_batch_norm_statistics():
    """By hand: the first update copies; the second has decay (1 + 1) / (10 + 1)."""
    net = nn.BatchNorm1d(1)
    average = train.averaged(net, decay=0.99)
    for value in (1.0, 2.0):
        with torch.no_grad():
            net.weight.fill_(value)
            net.running_mean.fill_(10 * value)
            net.num_batches_tracked.fill_(int(value))
        average.update_parameters(net)

    decay = 2 / 11
    assert float(average.module.weight.detach()) == pytest.approx(decay * 1 + (1 - decay) * 2)
    assert float(average.module.running_mean) == pytest.approx(decay * 10 + (1 - decay) * 20)
    assert int(average.module.num_batches_tracked) == 2
    assert train.ema_decay(0.99, 10**6) == 0.99


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


def test_only_the_newest_checkpoints_are_kept_and_a_damaged_one_is_passed_over(local_store):
    """The one before the newest is there for that."""
    checkpoints = Checkpoints(local_store, 3)
    for step in (0, 4, 8):
        checkpoints.write({"x": torch.tensor([float(step)])}, RunState(step=step))
    assert checkpoints.steps() == [4, 8]

    local_store.replace("generations/0003/checkpoints/00000008/tensors.safetensors", b"half")

    found = checkpoints.newest()
    assert found is not None
    assert (float(found[0]["x"]), found[1].step) == (4.0, 4)
    checkpoints.clear()
    assert local_store.list("generations/0003/checkpoints") == []


def test_biases_and_batch_norm_are_not_decayed():
    """Weight decay pulls on convolutions and the classifier alone."""
    learner = train.Learner(fresh(), RECIPE, 12, 0, CPU)
    decayed, free = learner._optimizer.param_groups

    assert decayed["weight_decay"] == RECIPE.weight_decay
    assert free["weight_decay"] == 0.0
    assert {p.ndim for p in free["params"]} == {1}
    assert {p.ndim for p in decayed["params"]} == {2, 4}
