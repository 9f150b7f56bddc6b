"""EfficientNets in PyTorch: the paper's family at any scale, and our own for small images.

timm's blocks and timm's names of tensors, so that its weights load. What a name means stands in
``understudy.architectures``.
"""

import re
from functools import partial
from typing import Any

from timm.models import EfficientNet
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from torch import nn

from understudy.architectures import ScaledEfficientNet, SmallEfficientNet

#: One string of timm's block language a stage: EfficientNet-B0 (Tan & Le 2019, table 1).
PAPER_STAGES = (
    "ds_r1_k3_s1_e1_c16_se0.25",
    "ir_r2_k3_s2_e6_c24_se0.25",
    "ir_r2_k5_s2_e6_c40_se0.25",
    "ir_r3_k3_s2_e6_c80_se0.25",
    "ir_r3_k5_s1_e6_c112_se0.25",
    "ir_r4_k5_s2_e6_c192_se0.25",
    "ir_r1_k3_s1_e6_c320_se0.25",
)
PAPER_STEM_CHANNELS, PAPER_HEAD_CHANNELS = 32, 1280
#: Of these the stride is 1 where images are small (official code, efficientnet_builder.py for SVHN); from 0.
SMALL_STAGES = (1, 2)

#: As B0's but for the kernels (3 everywhere: 5 is wider than what is left of a small image), the expansion (4, for
#: speed on a CPU) and the number of layers.
OWN_STAGES = (
    "ds_r1_k3_s1_e1_c16_se0.25",
    "ir_r2_k3_s2_e4_c24_se0.25",
    "ir_r2_k3_s2_e4_c40_se0.25",
    "ir_r3_k3_s2_e4_c80_se0.25",
    "ir_r3_k3_s1_e4_c112_se0.25",
)
OWN_STEM_CHANNELS = 16
#: Channels before the classifier, by the number of stages: about three times those of the last stage.
OWN_HEAD_CHANNELS = {1: 48, 2: 72, 3: 128, 4: 256, 5: 352}

#: timm's 1e-5 lets a channel that is nearly constant explode; 1e-3 is the official EfficientNet's.
BATCH_NORM_EPS = 1e-3
#: Channels are multiples of this, and never less than 90 % of what was asked for (Tan & Le's code).
CHANNEL_DIVISOR = 8


def scaled(net: ScaledEfficientNet, num_classes: int, dropout: float, drop_path_rate: float) -> EfficientNet:
    """A size of the paper's family with fresh weights."""
    stages = [
        re.sub(r"_s\d_", "_s1_", stage) if net.small and index in SMALL_STAGES else stage
        for index, stage in enumerate(PAPER_STAGES)
    ]
    return _built(
        stages, net.width, net.depth, PAPER_STEM_CHANNELS, PAPER_HEAD_CHANNELS, num_classes, dropout, drop_path_rate
    )


def small(net: SmallEfficientNet, num_classes: int, dropout: float, drop_path_rate: float) -> EfficientNet:
    """Our own for small images with fresh weights."""
    stages, head = list(OWN_STAGES[: net.stages]), OWN_HEAD_CHANNELS[net.stages]
    model = _built(stages, net.width, net.depth, OWN_STEM_CHANNELS, head, num_classes, dropout, drop_path_rate)
    model.conv_stem.stride = (net.stride, net.stride)  # timm's is always 2; its padding fits 1 as well
    return model


def _built(
    stages: list[str],
    width: float,
    depth: float,
    stem_channels: int,
    head_channels: int,
    num_classes: int,
    dropout: float,
    drop_path_rate: float,
) -> EfficientNet:
    channels = partial(round_channels, multiplier=width, divisor=CHANNEL_DIVISOR)
    blocks: Any = decode_arch_def([[stage] for stage in stages], depth_multiplier=depth)  # type: ignore[no-untyped-call]
    return EfficientNet(
        blocks,
        num_classes=num_classes,
        num_features=channels(head_channels),
        stem_size=stem_channels,
        round_chs_fn=channels,
        act_layer=nn.SiLU,
        norm_layer=partial(nn.BatchNorm2d, eps=BATCH_NORM_EPS),
        drop_rate=dropout,
        drop_path_rate=drop_path_rate,
    )
