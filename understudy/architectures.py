"""EfficientNets by name: what a name means, and the sizes of the paper. Builds nothing and knows no torch.

``efficientnet@b0`` to ``@b8`` and ``@l0`` to ``@l2`` are the paper's; ``efficientnet@phi=2.5`` is scaled by a
compound coefficient; with ``,small`` either keeps the resolution of 32 px images longer. ``efficientnet`` and
``efficientnet@width=1.5,depth=1,stages=3,stride=2`` are our own for small images (every key is optional).
Any other name is timm's.
"""

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from understudy.errors import RecipeRefused

FAMILY = "efficientnet"
SMALL = "small"
MAX_STAGES = 5

#: Compound scaling (Tan & Le 2019, section 5.2): width 1.1^φ, depth 1.2^φ, resolution 1.15^φ of B0's 224 px.
ALPHA_DEPTH, BETA_WIDTH, GAMMA_SIZE = 1.2, 1.1, 1.15
BASE_SIZE = 224
#: Smaller than a third of B0 there is nothing to train; 10 has more parameters than the paper's L0.
MIN_PHI, MAX_PHI = -5.0, 10.0
#: Blocks of the first three stages of B0 (Tan & Le 2019, table 1), which depth multiplies, rounded up.
SHALLOW_REPEATS = (1, 2, 2)
#: FixRes looks at images this much larger than in training where the paper names no size. The FixRes authors went
#: from 224 to 320 px for B0 and from 600 to 632 for B7 (their README_FixEfficientNet.md), the paper 1.6 to 1.7 times.
FIXRES_RATIO = 4 / 3


@dataclass(frozen=True)
class SmallEfficientNet:
    """What may be said after ``efficientnet@`` of our own EfficientNet for small images."""

    width: float = 1.0  #: multiplies channels
    depth: float = 1.0  #: multiplies layers
    stages: int = 3  #: 3 for 8 to 32 px, 4 or 5 above
    stride: int = 2  #: of the first convolution; 1 for the smallest images


@dataclass(frozen=True)
class ScaledEfficientNet:
    """One size of the paper's family, and what the official scripts train it with."""

    width: float  #: multiplies channels
    depth: float  #: multiplies layers
    size: int  #: pixels in training
    dropout: float  #: before the classifier
    magnitude: float  #: RandAugment's m on the official scale; 0: no RandAugment
    unlabeled_ratio: int  #: pseudo-labeled images for each labeled one
    epochs: int  #: over the labeled set
    test_size: int | None = None  #: pixels after FixRes; None: the paper has none for it
    small: bool = False  #: strides of stages 2 and 3 are 1, for images of 32 px (official code, SVHN)

    @property
    def num_shallow_blocks(self) -> int:
        """Blocks of the first three of seven stages: a third of all (5 of B0's 16, 28 of L2's 88)."""
        return sum(math.ceil(self.depth * repeats) for repeats in SHALLOW_REPEATS)

    @property
    def fixres_size(self) -> int:
        """Pixels of a last stage at a higher resolution."""
        return self.test_size or enlarged(self.size)


def enlarged(size: int) -> int:
    """A size for FixRes: a third larger, a multiple of 8; of 2 below 64 px, where 8 would be far from a third."""
    step = 8 if size >= 64 else 2
    return step * round(size * FIXRES_RATIO / step)


def _size(
    width: float, depth: float, size: int, dropout: float, magnitude: float, ratio: int, test_size: int | None = None
) -> ScaledEfficientNet:
    # 350 epochs for what is larger than B4, 700 for the others (section 3.1).
    return ScaledEfficientNet(width, depth, size, dropout, magnitude, ratio, 350 if depth > 1.8 else 700, test_size)


#: Width, depth, resolution, dropout: tensorflow/tpu efficientnet_builder.py for B0 to B8, version 1 of the paper
#: (arXiv 1911.04252v1, appendix) for L0 to L2. RandAugment: noisystudent local_scripts/imagenet/train.sh for B0 to
#: B7, "the same noise as B7" for L0 to L2; B8 is in no script and has B7's. Ratio: section 3.2 for B0 to B7,
#: version 1 for L0 and L1, table 7 for L2. Test resolution: section 3.1 for L2, version 1 for L0 and L1.
SIZES = {
    "b0": _size(1.0, 1.0, 224, 0.2, 0, 1),
    "b1": _size(1.0, 1.1, 240, 0.2, 0, 3),
    "b2": _size(1.1, 1.2, 260, 0.3, 6, 3),
    "b3": _size(1.2, 1.4, 300, 0.3, 12, 3),
    "b4": _size(1.4, 1.8, 380, 0.4, 15, 3),
    "b5": _size(1.6, 2.2, 456, 0.4, 18, 3),
    "b6": _size(1.8, 2.6, 528, 0.5, 24, 3),
    "b7": _size(2.0, 3.1, 600, 0.5, 27, 3),
    "b8": _size(2.2, 3.6, 672, 0.5, 27, 3),
    "l0": _size(2.8, 3.7, 380, 0.5, 27, 3, 600),
    "l1": _size(3.9, 3.7, 380, 0.5, 27, 3, 600),
    "l2": _size(4.3, 5.3, 475, 0.5, 27, 14, 800),
}

#: What timm calls them: the same blocks, ``tf_`` with TensorFlow's padding. A tag of weights may follow.
_TIMM_NAME = re.compile(r"(?:tf_)?efficientnet_([bl]\d)(?:[_.].*)?")


def compound(phi: float) -> ScaledEfficientNet:
    """EfficientNet of any compound coefficient. Raises ValueError beyond the ends.

    Dropout rises linearly from B0's 0.2 to 0.5 at φ = 6, B7's (Tan & Le 2019, section 5.2); the rest is that of the
    largest of B0 to B7 that is no deeper.
    """
    if not MIN_PHI <= phi <= MAX_PHI:
        raise ValueError(f"phi={phi:g} is not between {MIN_PHI:g} and {MAX_PHI:g}")
    depth = ALPHA_DEPTH**phi
    near = max(
        (s for name, s in SIZES.items() if name <= "b7" and s.depth <= depth), key=lambda s: s.depth, default=None
    )
    return replace(
        near or SIZES["b0"],
        width=BETA_WIDTH**phi,
        depth=depth,
        size=round(BASE_SIZE * GAMMA_SIZE**phi),
        dropout=round(min(0.5, max(0.2, 0.2 + 0.05 * phi)), 3),
    )


def parse(student: str) -> SmallEfficientNet | ScaledEfficientNet | None:
    """What a student's name means; None: it is none of ours. Raises RecipeRefused saying what may stand there."""
    family, _, spec = student.partition("@")
    if family != FAMILY:
        return None
    parts = [part for part in spec.split(",") if part]
    if parts and (parts[0] in SIZES or parts[0].startswith("phi=")):
        return _parse_scaled(student, *parts)
    return _parse_small(student, parts)


def scaled(student: str) -> ScaledEfficientNet | None:
    """The paper's size that a name stands for, ours or timm's; None: none. Raises RecipeRefused as ``parse``."""
    found = parse(student)
    if isinstance(found, ScaledEfficientNet):
        return found
    named = _TIMM_NAME.fullmatch(student)
    return SIZES.get(named[1]) if named else None


def _parse_scaled(student: str, scale: str, *options: str) -> ScaledEfficientNet:
    if options not in ((), (SMALL,)):
        raise RecipeRefused(f"student {student!r}: after {scale} only {SMALL} may stand, once")
    try:
        net = SIZES[scale] if scale in SIZES else compound(float(scale.removeprefix("phi=")))
    except ValueError as error:
        raise RecipeRefused(f"student {student!r}: phi is no number from {MIN_PHI:g} to {MAX_PHI:g}") from error
    return replace(net, small=bool(options))


def _parse_small(student: str, parts: list[str]) -> SmallEfficientNet:
    kinds = {name: type(default) for name, default in asdict(SmallEfficientNet()).items()}
    values: dict[str, Any] = {}
    for part in parts:
        key, _, text = part.partition("=")
        if key not in kinds or key in values:
            raise RecipeRefused(
                f"student {student!r}: {key!r} is not one of {', '.join(kinds)}, each at most once; "
                f"nor is it phi or a size of the paper: {', '.join(SIZES)}"
            )
        try:
            values[key] = kinds[key](text)
        except ValueError as error:
            raise RecipeRefused(f"student {student!r}: {key}={text!r} is not a number of the right kind") from error
    net = SmallEfficientNet(**values)
    if not (
        0.25 <= net.width <= 8 and 0.25 <= net.depth <= 8 and 1 <= net.stages <= MAX_STAGES and net.stride in (1, 2)
    ):
        raise RecipeRefused(
            f"student {student!r}: width and depth go from 0.25 to 8, stages from 1 to {MAX_STAGES}, stride is 1 or 2"
        )
    return net
