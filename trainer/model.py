"""Students: from an architecture's name to a PyTorch module, and from a file's bytes to its weights.

A student is any model of timm by its name, or our own EfficientNet for small images, spelled
``efficientnet`` or ``efficientnet@width=1.5,depth=1,stages=3,stride=2`` (every key is optional).
Model noise (dropout, stochastic depth) is set here; nothing is downloaded here, ever.
"""

import difflib
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from timm.models import EfficientNet
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from torch import Tensor, nn

from understudy.errors import RecipeRefused

OWN = "efficientnet"

#: One string of timm's block language a stage, as in EfficientNet-B0 (Tan & Le 2019, table 1) but for
#: the kernels (3 everywhere: 5 is wider than what is left of a small image), the expansion (4, for speed
#: on a CPU) and the number of layers.
STAGES = (
    "ds_r1_k3_s1_e1_c16_se0.25",
    "ir_r2_k3_s2_e4_c24_se0.25",
    "ir_r2_k3_s2_e4_c40_se0.25",
    "ir_r3_k3_s2_e4_c80_se0.25",
    "ir_r3_k3_s1_e4_c112_se0.25",
)
STEM_CHANNELS = 16
#: Channels before the classifier, by the number of stages: about three times those of the last stage.
HEAD_CHANNELS = {1: 48, 2: 72, 3: 128, 4: 256, 5: 352}
#: timm's 1e-5 lets a channel that is nearly constant explode; 1e-3 is the official EfficientNet's.
BATCH_NORM_EPS = 1e-3


@dataclass(frozen=True)
class SmallEfficientNet:
    """What may be said after ``efficientnet@``."""

    width: float = 1.0  #: multiplies channels
    depth: float = 1.0  #: multiplies layers
    stages: int = 3  #: 3 for 8 to 32 px, 4 or 5 above
    stride: int = 2  #: of the first convolution; 1 for the smallest images


def build(student: str, num_classes: int, *, dropout: float, drop_path_rate: float) -> nn.Module:
    """A student with fresh weights: float32 (N, 3, H, W) → float32 (N, num_classes) logits.

    Raises RecipeRefused if there is no such architecture, or if it cannot have this noise.
    """
    if student == OWN or student.startswith(f"{OWN}@"):
        return _small_efficientnet(parse(student), num_classes, dropout, drop_path_rate)
    if ":" in student or not timm.is_model(student):  # a colon is timm's way to say: download it
        near = difflib.get_close_matches(student, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise RecipeRefused(f"there is no student {student!r}: give {OWN}@… or the name of a model in timm{hint}")
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


def parse(student: str) -> SmallEfficientNet:
    """Read ``efficientnet@key=value,…``. Raises RecipeRefused saying what may stand there."""
    _, _, spec = student.partition("@")
    kinds = {name: type(default) for name, default in asdict(SmallEfficientNet()).items()}
    values: dict[str, Any] = {}
    for part in filter(None, spec.split(",")):
        key, _, text = part.partition("=")
        if key not in kinds or key in values:
            raise RecipeRefused(f"student {student!r}: {key!r} is not one of {', '.join(kinds)}, each at most once")
        try:
            values[key] = kinds[key](text)
        except ValueError as error:
            raise RecipeRefused(f"student {student!r}: {key}={text!r} is not a number of the right kind") from error
    net = SmallEfficientNet(**values)
    if not (
        0.25 <= net.width <= 8 and 0.25 <= net.depth <= 8 and 1 <= net.stages <= len(STAGES) and net.stride in (1, 2)
    ):
        raise RecipeRefused(
            f"student {student!r}: width and depth go from 0.25 to 8, stages from 1 to {len(STAGES)}, stride is 1 or 2"
        )
    return net


def _small_efficientnet(
    net: SmallEfficientNet, num_classes: int, dropout: float, drop_path_rate: float
) -> EfficientNet:
    channels = partial(round_channels, multiplier=net.width, divisor=8)
    blocks: Any = decode_arch_def([[stage] for stage in STAGES[: net.stages]], depth_multiplier=net.depth)  # type: ignore[no-untyped-call]
    model = EfficientNet(
        blocks,
        num_classes=num_classes,
        num_features=channels(HEAD_CHANNELS[net.stages]),
        stem_size=STEM_CHANNELS,
        round_chs_fn=channels,
        act_layer=nn.SiLU,
        norm_layer=partial(nn.BatchNorm2d, eps=BATCH_NORM_EPS),
        drop_rate=dropout,
        drop_path_rate=drop_path_rate,
    )
    model.conv_stem.stride = (net.stride, net.stride)  # timm's is always 2; its padding fits 1 as well
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


def refuse_smaller(student: str, num_student: int, teacher: str, num_teacher: int) -> None:
    """Raise RecipeRefused if a student has fewer parameters than its teacher (paper, section 2)."""
    if num_student < num_teacher:
        raise RecipeRefused(
            f"student {student} has {num_student:,} parameters, fewer than the {num_teacher:,} of its teacher {teacher}: "
            f"a student must be equal or larger; choose a larger one or set allow_smaller"
        )


def start_from(model: nn.Module, weights: bytes) -> list[str]:
    """Load weights in place; gives the names that were left fresh: a classifier of another shape.

    Raises RecipeRefused if the file is not safetensors, or if anything but the classifier does not fit.
    """
    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise RecipeRefused(f"the weights are not a safetensors file: {error}") from error
    wanted = model.state_dict()
    fresh = [name for name in _classifier_names(model) if name in wanted and not _fits(tensors.get(name), wanted[name])]
    kept = {name: tensor for name, tensor in tensors.items() if name not in fresh}
    rest = {name for name in wanted if name not in fresh}
    wrong = sorted(rest ^ kept.keys() | {n for n in rest & kept.keys() if not _fits(kept[n], wanted[n])})
    if wrong:
        raise RecipeRefused(
            f"the weights are of another architecture: {len(wrong)} tensors are missing, too many or of another shape, "
            f"beginning with {', '.join(wrong[:5])}"
        )
    model.load_state_dict(kept, strict=False)
    return fresh


def _fits(tensor: Tensor | None, wanted: Tensor) -> bool:
    return tensor is not None and tensor.shape == wanted.shape


def _classifier_names(model: nn.Module) -> list[str]:
    classifier = model.get_classifier()  # type: ignore[operator]  # every model of timm has it
    prefixes = [name for name, module in model.named_modules() if module is classifier]
    return [f"{prefix}.{name}" for prefix in prefixes for name in classifier.state_dict()]


def device(name: str) -> torch.device:
    """The device that a setting names; ``auto`` is the best there is. Raises RecipeRefused."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise RecipeRefused(f"there is no torch device {name!r} here: {str(error).splitlines()[0]}") from error
