"""BatchNorm over the whole batch where several processes have a part of it each, as in the official code.

On GPUs it is torch's SyncBatchNorm, which works nowhere else; on CPUs the same sums are exchanged here.
"""

from typing import Any

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from trainer.distributed import Ranks, total


def across_ranks(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The model with each BatchNorm replaced by one over all processes; itself for one. Names of parameters stay."""
    if ranks.size == 1:
        return model
    if next(model.parameters()).is_cuda:
        converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, WholeBatchNorm(child))
    return model


class WholeBatchNorm(nn.BatchNorm2d):
    """A BatchNorm (with timm's activation behind it, if it had one) whose statistics are of all processes' images."""

    def __init__(self, of: Any) -> None:
        super().__init__(of.num_features, of.eps, of.momentum, of.affine, of.track_running_stats)
        self.weight, self.bias = of.weight, of.bias
        self.running_mean, self.running_var = of.running_mean, of.running_var
        self.num_batches_tracked = of.num_batches_tracked
        self.drop, self.act = getattr(of, "drop", nn.Identity()), getattr(of, "act", nn.Identity())
        self.train(of.training)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return self._after(super().forward(input))
        counts = torch.tensor([input.numel() / input.shape[1]], device=input.device)
        sums = torch.cat([input.sum((0, 2, 3)), counts.to(input.dtype)])
        sums = _summed(sums)
        num = sums[-1]
        mean = sums[:-1] / num  # (C,)
        centred = input - mean.view(1, -1, 1, 1)
        variance = _summed(centred.square().sum((0, 2, 3))) / num  # (C,), of the batch
        self._remember(mean.detach(), variance.detach() * (num / (num - 1)).detach())
        scale = torch.rsqrt(variance + self.eps)
        scale = scale * self.weight if self.affine else scale
        output = centred * scale.view(1, -1, 1, 1)
        return self._after(output + self.bias.view(1, -1, 1, 1) if self.affine else output)

    def _after(self, output: Tensor) -> Tensor:
        activated: Tensor = self.act(self.drop(output))
        return activated

    @torch.no_grad()
    def _remember(self, mean: Tensor, unbiased: Tensor) -> None:
        """Move the running statistics as torch does: the variance without bias."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), weight)


class _Summed(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return total(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])


def _summed(tensor: Tensor) -> Tensor:
    summed: Tensor = _Summed.apply(tensor)
    return summed
