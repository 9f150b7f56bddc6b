"""How weights move: the optimizers, their learning rates step by step, and the moving average of the weights.

Two ways: AdamW along a cosine, for small sets; and what the official code does, RMSProp along a staircase.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from timm.optim.rmsprop_tf import RMSpropTF
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from understudy.recipes import Recipe

#: The official code's RMSProp (utils.py): decay and momentum, and what is added to the mean square, under the
#: root as TensorFlow does it. timm's own eps is 1e-10, which lets the first steps jump.
RMSPROP_DECAY, RMSPROP_MOMENTUM, RMSPROP_EPS = 0.9, 0.9, 1e-3


def optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over a model's parameters that learn; biases and BatchNorm are not decayed.

    AdamW's decay is decoupled; RMSProp's is an L2 term of the gradient, as in the official code, which so
    scales with the learning rate only through the gradient.
    """
    groups = _groups(model, recipe.weight_decay)
    if recipe.optimizer == "rmsprop":
        made: Optimizer = RMSpropTF(
            groups, lr=recipe.learning_rate, alpha=RMSPROP_DECAY, momentum=RMSPROP_MOMENTUM, eps=RMSPROP_EPS
        )
        return made
    return AdamW(groups, lr=recipe.learning_rate)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Biases and BatchNorm's scales are the parameters with one dimension. A frozen one is in no group."""
    learned = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in learned if p.ndim > 1]
    free = [p for p in learned if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def learning_rate(recipe: Recipe, step: int, num_steps: int) -> float:
    """The learning rate of a step, counted from 0, by the recipe's schedule."""
    return _staircase(recipe, step) if recipe.schedule == "staircase" else _cosine(recipe, step, num_steps)


def _cosine(recipe: Recipe, step: int, num_steps: int) -> float:
    """Linear warm-up, and a cosine to zero."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    return recipe.learning_rate * warmup * 0.5 * (1.0 + math.cos(math.pi * step / num_steps))


def _staircase(recipe: Recipe, step: int) -> float:
    """Linear warm-up from 0, instead of the staircase and not before it: that is counted from step 0 (utils.py)."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * step / recipe.warmup_steps
    decayed: float = recipe.learning_rate * recipe.decay_rate ** (step // recipe.decay_steps)
    return decayed


def ema_decay(decay: float, num_averaged: int) -> float:
    """The official ramp: a young average forgets its random beginning quickly."""
    return min(decay, (1 + num_averaged) / (10 + num_averaged))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The moving average of a model's parameters and BatchNorm statistics, as in the official code."""

    @torch.no_grad()
    def average(old: Any, new: Any, num_averaged: Any) -> None:
        if old[0].is_floating_point():
            # Counted on the CPU: to read the argument, a copy on the device, would be to wait for the device.
            torch._foreach_lerp_(old, new, 1.0 - ema_decay(decay, int(made.n_averaged)))
        else:  # counters of batches
            torch._foreach_copy_(old, new)

    made = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    return made


def moments(optimizer: Optimizer, named: list[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
    """An optimizer's state as named tensors: ``<parameter>.<moment>``."""
    for name, parameter in named:
        for key, value in optimizer.state[parameter].items():
            yield f"{name}.{key}", value
