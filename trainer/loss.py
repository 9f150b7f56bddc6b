"""The loss of a step, whole or in portions that are computed one after the other or by several processes.

Legend: N images of a batch, L of them labeled and first; C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

from trainer.data import Batch
from understudy.errors import RecipeRefused
from understudy.images import Pixels

#: BatchNorm needs two images at least to have a variance where a feature map is one pixel.
MIN_IMAGES = 2


@dataclass(frozen=True)
class Losses:
    """The losses of one step, or what a portion adds to them."""

    loss: Tensor  # () float32, what is minimised
    labeled: Tensor | None  # () float32; None: the portion has no labeled image
    pseudo: Tensor | None  # () float32


@dataclass(frozen=True)
class Portion:
    """Some rows of a batch, labeled ones first, and which share of the batch's labeled and other rows they are."""

    pixels: Pixels  # (n, size, size, 3) uint8
    targets: npt.NDArray[np.float32]  # (n, C) float32
    num_labeled: int
    labeled_share: float = 1.0
    pseudo_share: float = 1.0


def losses(
    logits: Tensor,
    targets: Tensor,
    num_labeled: int,
    pseudo_weight: float,
    labeled_share: float = 1.0,
    pseudo_share: float = 1.0,
) -> Losses:
    """Mean cross-entropy of the labeled images plus ``pseudo_weight`` × that of the others.

    ``logits`` and ``targets`` are (N, C), the first ``num_labeled`` rows labeled. At weight 1 it is
    Algorithm 1 of the paper, two means of equal weight; the official code multiplies the second mean by
    the ratio of the batches (``unlabel_ratio``), which ``pseudo_weight`` set to that ratio does too.
    Each mean is multiplied by its share, so that the losses of all portions of a batch add up to the batch's.
    """
    labeled = pseudo = None
    if num_labeled:
        labeled = functional.cross_entropy(logits[:num_labeled], targets[:num_labeled]) * labeled_share
    if len(logits) > num_labeled:
        pseudo = functional.cross_entropy(logits[num_labeled:], targets[num_labeled:]) * pseudo_share
    if labeled is None or pseudo is None:
        only = labeled if labeled is not None else pseudo
        assert only is not None, "a portion has images"
        return Losses(only if labeled is not None else pseudo_weight * only, labeled, pseudo)
    return Losses(labeled + pseudo_weight * pseudo, labeled, pseudo)


def portions(batch: Batch, num: int) -> Iterator[Portion]:
    """The batch in so many portions, each with its part of the labeled rows and of the others."""
    if num == 1:
        yield Portion(batch.pixels, batch.targets, batch.num_labeled, batch.labeled_share, batch.pseudo_share)
        return
    num_pseudo = len(batch.pixels) - batch.num_labeled
    for i in range(num):
        labeled = _chunk(0, batch.num_labeled, i, num)
        pseudo = _chunk(batch.num_labeled, num_pseudo, i, num)
        yield Portion(
            np.concatenate([batch.pixels[labeled], batch.pixels[pseudo]]),
            np.concatenate([batch.targets[labeled], batch.targets[pseudo]]),
            labeled.stop - labeled.start,
            batch.labeled_share * (labeled.stop - labeled.start) / max(1, batch.num_labeled),
            batch.pseudo_share * (pseudo.stop - pseudo.start) / max(1, num_pseudo),
        )


def _chunk(first: int, count: int, i: int, num: int) -> slice:
    """The i-th of ``num`` pieces of ``count`` rows from ``first``, as equal as can be."""
    return slice(first + i * count // num, first + (i + 1) * count // num)


def can_be_parted(num_labeled: int, num_pseudo: int, num: int) -> bool:
    """Whether every one of ``num`` portions has images enough for BatchNorm."""
    return num_labeled // num + num_pseudo // num >= MIN_IMAGES


def refuse_thin_parts(num_labeled: int, num_pseudo: int, accumulate: int, num_processes: int) -> None:
    """Raise RecipeRefused if a batch cannot be had in ``accumulate`` parts by so many processes."""
    if not can_be_parted(num_labeled, num_pseudo, accumulate * num_processes):
        raise RecipeRefused(
            f"accumulate={accumulate} in {num_processes} processes leaves fewer than {MIN_IMAGES} of a batch of "
            f"{num_labeled + num_pseudo} images to a part, too few for BatchNorm; lower accumulate, raise labeled_batch, "
            f"or train in fewer processes"
        )
