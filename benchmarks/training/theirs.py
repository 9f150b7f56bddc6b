"""timm's own training script's step, rebuilt from timm's public parts: the script itself is not in timm's wheel.

Its order of things: forward, loss, backward, optimizer, moving average; JPEG files in a folder a class, timm's
loader with its transforms in worker processes, normalisation and erasing in its PrefetchLoader.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import nn

from understudy.recipes import Recipe

#: timm's script asks for the loss this often (--log-interval).
LOG_INTERVAL = 50


class Theirs:
    """A student trained as timm's script does, on the images of a folder."""

    def __init__(self, folder: Path, student: nn.Module, recipe: Recipe, workers: int, device: torch.device) -> None:
        self._device, self._is_half = device, device.type == "cuda"
        self.model = student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = create_optimizer_v2(
            self.model, opt="adamw", lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self._ema = ModelEmaV3(self.model, decay=recipe.ema_decay, use_warmup=True)
        self._loss = LabelSmoothingCrossEntropy(recipe.label_smoothing)
        self._loader = create_loader(
            create_dataset("", str(folder), is_training=True),
            input_size=(3, recipe.size, recipe.size),
            batch_size=recipe.labeled_batch,
            is_training=True,
            scale=(recipe.min_crop_area, 1.0),
            ratio=(3 / 4, 4 / 3),
            hflip=0.5 if recipe.flip else 0.0,
            color_jitter=0.0,
            auto_augment=f"rand-m{recipe.augment_magnitude:g}-n{recipe.augment_ops}-p1.0-inc1",
            re_prob=recipe.erasing_probability,
            interpolation=recipe.interpolation,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            device=device,
        )
        self._batches = self._endless()
        self._num_steps = 0

    def step(self) -> None:
        """One step of the script."""
        pixels, targets = next(self._batches)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        self.model.train()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_half):
            loss = self._loss(self.model(pixels), targets)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._num_steps += 1
        self._ema.update(self.model, step=self._num_steps)
        if self._num_steps % LOG_INTERVAL == 0:
            loss.item()

    def close(self) -> None:
        """End the worker processes."""
        self._batches.close()  # type: ignore[attr-defined]  # a generator
        del self._batches, self._loader

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self._loader
