"""Students: from an architecture's name to a PyTorch module with the recipe's model noise.

A student is any model of timm by its name, or an EfficientNet spelled ``efficientnet@…``
(``understudy.architectures``). Nothing is downloaded here, ever; where weights begin is ``trainer.weights``.
"""

import difflib
import logging

import timm
import torch
from timm.models import EfficientNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer import efficientnet
from understudy import architectures
from understudy.architectures import FAMILY, ScaledEfficientNet, SmallEfficientNet
from understudy.errors import RecipeRefused

log = logging.getLogger(__name__)


def build(
    student: str, num_classes: int, *, dropout: float, drop_path_rate: float, batch_norm_momentum: float = 0.1
) -> nn.Module:
    """A student with fresh weights: float32 (N, 3, H, W) → float32 (N, num_classes) logits.

    ``batch_norm_momentum`` is torch's: the weight of the new batch. Raises RecipeRefused if there is no such
    architecture, or if it cannot have this noise.
    """
    net = architectures.parse(student)
    if isinstance(net, ScaledEfficientNet):
        model: nn.Module = efficientnet.scaled(net, num_classes, dropout, drop_path_rate)
    elif isinstance(net, SmallEfficientNet):
        model = efficientnet.small(net, num_classes, dropout, drop_path_rate)
    else:
        model = _of_timm(student, num_classes, dropout, drop_path_rate)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = batch_norm_momentum
    return model


def _of_timm(student: str, num_classes: int, dropout: float, drop_path_rate: float) -> nn.Module:
    if ":" in student or not timm.is_model(student):  # a colon is timm's way to say: download it
        near = difflib.get_close_matches(student, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise RecipeRefused(f"there is no student {student!r}: give {FAMILY}@… or the name of a model in timm{hint}")
    try:
        model: nn.Module = timm.create_model(
            student, pretrained=False, num_classes=num_classes, drop_rate=dropout, drop_path_rate=drop_path_rate
        )
    except TypeError as error:
        raise RecipeRefused(
            f"student {student!r} cannot be built with dropout {dropout} and drop_path_rate {drop_path_rate} ({error}); "
            f"choose another architecture"
        ) from error
    return model


@torch.inference_mode()
def refuse_misfit(model: nn.Module, student: str, size: int) -> None:
    """Raise RecipeRefused if a student cannot take images of this size, as many transformers can only one."""
    try:
        model.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise RecipeRefused(
            f"student {student} cannot take images of {size} × {size} pixels ({error}); set size, or choose another"
        ) from error


def num_parameters(model: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def refuse_smaller(student: str, num_student: int, teacher: str, num_teacher: int, *, is_allowed: bool = False) -> None:
    """Raise RecipeRefused if a student has fewer parameters than its teacher (paper, section 2).

    Where that is allowed it is a distillation, and the log warns: it gives up accuracy for speed.
    """
    if num_student >= num_teacher:
        return
    sizes = f"student {student} has {num_student:,} parameters, fewer than the {num_teacher:,} of its teacher {teacher}"
    if not is_allowed:
        raise RecipeRefused(f"{sizes}: a student must be equal or larger; choose a larger one or set allow_smaller")
    log.warning("%s: this distils the teacher rather than improve on it (allow_smaller)", sizes)


def freeze(model: nn.Module, num_blocks: int) -> None:
    """Keep the stem and the first blocks of an EfficientNet as they are; all of them if there are fewer.

    The official code's ``fix_layer_num``: no gradient, and under ``train_mode`` neither BatchNorm statistics nor
    stochastic depth. The last convolution, its BatchNorm and the classifier go on learning. Raises RecipeRefused
    for another architecture.
    """
    if not isinstance(model, EfficientNet):
        raise RecipeRefused(
            f"frozen_blocks={num_blocks} is for EfficientNets, and the student is a {type(model).__name__}; "
            f"set frozen_blocks to null"
        )
    blocks = [block for stage in model.blocks.children() for block in stage.children()]
    for module in (model.conv_stem, model.bn1, *blocks[:num_blocks]):
        module.requires_grad_(False)


def train_mode(model: nn.Module) -> None:
    """Noise and BatchNorm as in training, but for what is frozen: that answers as it will when serving."""
    model.train()
    if all(parameter.requires_grad for parameter in model.parameters()):
        return
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def device(name: str) -> torch.device:
    """The device that a setting names; ``auto`` is the best there is. Raises RecipeRefused."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise RecipeRefused(f"there is no torch device {name!r} here: {str(error).splitlines()[0]}") from error
