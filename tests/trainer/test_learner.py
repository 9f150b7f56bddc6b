import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from trainer import model, train
from trainer.data import Batch
from trainer.learner import Learner, Normalise
from trainer.optimisation import averaged
from understudy import recipes

RECIPE = recipes.recipe("tiny", {"size": 8, "teacher_steps": 12, "student_steps": 12, "warmup_steps": 2})
CPU = torch.device("cpu")


def recipe(**fields):
    return recipes.replaced(RECIPE, fields)


def batch(step, num_labeled=4, num=12):
    rng = np.random.default_rng(step)
    targets = rng.dirichlet(np.ones(2), num).astype(np.float32)
    return Batch(rng.integers(0, 256, (num, 8, 8, 3), dtype=np.uint8), targets, num_labeled)


def fresh():
    with train.seeded(5):
        return model.build("efficientnet@stages=2", 2, dropout=0.3, drop_path_rate=0.2)


class WithoutBatchNorm(nn.Module):
    """One convolution: its gradient over a batch is the sum of those over the parts."""

    def __init__(self) -> None:
        super().__init__()
        with train.seeded(1):
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def learned(student, chosen, num_steps=3, **kwargs):
    learner = Learner(student, chosen, 12, 5, CPU, **kwargs)
    for step in range(num_steps):
        learner.learn(batch(step), step, 1.0)
    return learner


def test_adamw_along_a_cosine_is_the_plain_loop_bit_for_bit():
    """The same weights and the same average as from the loop that anybody would write."""
    student, normalise = fresh().to(memory_format=torch.channels_last), Normalise(RECIPE.preprocessing)
    ema = averaged(student, RECIPE.ema_decay)
    groups = [
        {"params": [p for p in student.parameters() if p.ndim > 1], "weight_decay": RECIPE.weight_decay},
        {"params": [p for p in student.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RECIPE.learning_rate)
    for step in range(4):
        torch.manual_seed(5 * 1_000_003 + step)
        warmup = min(1.0, (step + 1) / RECIPE.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = RECIPE.learning_rate * warmup * 0.5 * (1.0 + math.cos(math.pi * step / 12))
        student.train()
        each = batch(step)
        logits, targets = student(normalise(torch.from_numpy(each.pixels))), torch.from_numpy(each.targets)
        loss = functional.cross_entropy(logits[:4], targets[:4])
        loss = loss + RECIPE.pseudo_weight * functional.cross_entropy(logits[4:], targets[4:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), RECIPE.max_gradient_norm)
        optimizer.step()
        ema.update_parameters(student)

    learner = learned(fresh(), RECIPE, 4)

    for ours, plain in ((learner.model, student), (learner.ema.module, ema.module)):
        expected = plain.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())
    assert learner.look()[-1].loss == pytest.approx(float(loss.detach()), rel=1e-6)


@pytest.mark.parametrize("parts", [2, 4, 5])
def test_a_batch_in_parts_is_the_batch(parts):
    """Where there is no BatchNorm: the same loss, the same gradient, the same weights."""
    whole = learned(WithoutBatchNorm(), recipe(pseudo_weight=2.0))
    parted = learned(WithoutBatchNorm(), recipe(pseudo_weight=2.0, accumulate=parts))

    for a, b in zip(whole.look(), parted.look(), strict=True):
        assert (b.labeled_loss, b.pseudo_loss) == pytest.approx((a.labeled_loss, a.pseudo_loss), rel=1e-5)
        assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=1e-4)
    expected = whole.model.state_dict()
    for name, value in parted.model.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-5), name


def test_batch_norm_sees_the_parts():
    """In two parts it counts two batches a step: their statistics, not the whole batch's."""
    counted = learned(fresh(), recipe(accumulate=2)).model.state_dict()["bn1.num_batches_tracked"]

    assert int(counted) == 6


def test_bf16_is_near_fp32_and_its_weights_stay_fp32():
    """Half the precision in the passes; what is learned is kept whole. On a CPU auto means fp32."""
    full, auto, half = (learned(fresh(), recipe(precision=p)) for p in ("fp32", "auto", "bf16"))

    losses = [[each.loss for each in learner.look()] for learner in (full, auto, half)]
    assert losses[0] == losses[1]
    assert losses[2] != losses[0]
    assert losses[2] == pytest.approx(losses[0], rel=0.05)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}


def test_rmsprop_goes_on_where_it_was():
    """Its moments are in the state as AdamW's are."""
    chosen = recipe(optimizer="rmsprop", schedule="staircase", learning_rate=0.01)
    whole = learned(fresh(), chosen, 4)
    resumed = Learner(fresh(), chosen, 12, 5, CPU)
    resumed.restore({name: value.clone() for name, value in learned(fresh(), chosen, 2).tensors().items()})
    for step in (2, 3):
        resumed.learn(batch(step), step, 1.0)

    expected = whole.tensors()
    assert any(name.endswith("momentum_buffer") for name in expected)
    assert all(torch.equal(value, expected[name]) for name, value in resumed.tensors().items())


def test_a_compiled_student_is_the_same_student():
    """Its names in a checkpoint tell nothing of it, and neither do its weights."""
    plain, compiled = (
        learned(fresh(), RECIPE),
        learned(fresh(), recipe(compiled=True), compiler=lambda net: net.forward),
    )

    expected = plain.tensors()
    assert compiled.tensors().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in compiled.tensors().items())


def test_a_student_that_cannot_be_compiled_is_run_as_it_is(caplog):
    """With a warning, and as if nothing had been tried: not even BatchNorm remembers."""

    def broken(net):
        def forward(pixels):
            net(pixels)  # half of it ran
            raise RuntimeError("no C compiler\nand a long story")

        return forward

    plain, fallen = learned(fresh(), RECIPE), learned(fresh(), recipe(compiled=True), compiler=broken)

    expected = plain.tensors()
    assert all(torch.equal(value, expected[name]) for name, value in fallen.tensors().items())
    assert "cannot be compiled (RuntimeError: no C compiler)" in caplog.text
