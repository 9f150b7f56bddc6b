import math

import pytest
import torch
from torch import nn

from trainer import model, optimisation
from understudy import recipes

RECIPE = recipes.recipe("tiny", {"teacher_steps": 12, "student_steps": 12, "warmup_steps": 2})

#: The official code at a labeled batch of 2048: 0.016 for each 256 images, 626 steps an epoch of ImageNet.
OFFICIAL = recipes.recipe(
    "tiny",
    {
        "optimizer": "rmsprop",
        "schedule": "staircase",
        "learning_rate": 0.128,
        "warmup_steps": 3130,
        "decay_rate": 0.97,
        "decay_steps": 1502,
        "weight_decay": 1e-5,
        "teacher_steps": 218_948,
        "student_steps": 218_948,
    },
)


def test_the_learning_rate_warms_up_and_ends_at_zero():
    """Linear, then a cosine."""
    rates = [optimisation.learning_rate(RECIPE, step, 12) / RECIPE.learning_rate for step in range(13)]

    assert rates[0] == pytest.approx(0.5)
    assert rates[6] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0.0)
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_the_average_covers_batch_norm_statistics():
    """By hand: the first update copies; the second has decay (1 + 1) / (10 + 1)."""
    net = nn.BatchNorm1d(1)
    average = optimisation.averaged(net, decay=0.99)
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
    assert optimisation.ema_decay(0.99, 10**6) == 0.99


def test_the_official_staircase():
    """Five epochs of linear warm-up from 0 instead of, not before, ×0.97 every 2.4 epochs counted from step 0."""
    expected = {
        0: 0.0,
        1565: 0.064,
        3129: 0.128 * 3129 / 3130,
        3130: 0.128 * 0.97**2,  # 4.999 epochs are two stairs
        4505: 0.128 * 0.97**2,
        4506: 0.128 * 0.97**3,
        218_947: 0.128 * 0.97**145,
    }

    assert {step: optimisation.learning_rate(OFFICIAL, step, 218_948) for step in expected} == pytest.approx(expected)


def test_the_official_rmsprop_by_hand():
    """TensorFlow's: mean square from 1, eps under the root, the rate inside of the momentum, L2 in the gradient."""
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(2.0)
        net.bias.fill_(2.0)
    optimizer = optimisation.optimizer(net, OFFICIAL.model_copy(update={"learning_rate": 0.1, "weight_decay": 0.5}))
    expected = {"weight": 2.0, "bias": 2.0}
    square, momentum = dict.fromkeys(expected, 1.0), dict.fromkeys(expected, 0.0)
    for gradient in (3.0, -1.0, 0.5):
        for name, parameter in net.named_parameters():
            parameter.grad = torch.full_like(parameter, gradient)
            pulled = gradient + (0.5 * expected[name] if name == "weight" else 0.0)
            square[name] += 0.1 * (pulled**2 - square[name])
            momentum[name] = 0.9 * momentum[name] + 0.1 * pulled / math.sqrt(square[name] + 1e-3)
            expected[name] -= momentum[name]
        optimizer.step()

    assert {name: float(p.detach()) for name, p in net.named_parameters()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
def test_biases_batch_norm_and_frozen_weights_are_not_decayed(name):
    """Weight decay pulls on convolutions and the classifier alone; what is frozen is in no group."""
    net = model.build("efficientnet@stages=2", 2, dropout=0.3, drop_path_rate=0.2)
    net.conv_stem.weight.requires_grad_(False)
    decayed, free = optimisation.optimizer(net, RECIPE.model_copy(update={"optimizer": name})).param_groups

    assert decayed["weight_decay"] == RECIPE.weight_decay
    assert free["weight_decay"] == 0.0
    assert {p.ndim for p in free["params"]} == {1}
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert not any(p is net.conv_stem.weight for p in decayed["params"])
