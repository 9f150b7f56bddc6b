"""Validations of the averaged student while it trains: its accuracy on a part of the holdout, for people to see.

Nothing is chosen by it: no checkpoint is the best one, and no run ends early. The part is the calibration half,
so that the other half, which judges, has been seen by nobody before the gate. A validation changes nothing that trains.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from trainer import evaluate
from trainer.calibration import is_calibration
from trainer.learner import Normalise
from understudy.images import Pixels
from understudy.records import Preprocessing, Validation
from understudy.store import Store

#: Their standard error is at most 2.2 points: enough for a curve.
MAX_IMAGES = 500
#: The images of a validation stay in memory, decoded; at 600 px there is room for 124.
MAX_BYTES = 128 * 2**20
#: Validations take no more of the time than this, of that of training; a validation that would is left out.
MAX_SHARE = 0.05
#: Between two batches it is seen whether the process shall end.
BATCH = 32


@dataclass
class Validator:
    """Looks every so many steps, and at the last one; less often where it would cost too much."""

    load: Callable[[], tuple[Pixels, Sequence[str]]]  #: images as served, (N, size, size, 3) uint8, and their classes
    classes: Sequence[str]  #: of the student
    preprocessing: Preprocessing
    device: torch.device
    every: int  #: steps between two validations
    num_steps: int
    clock: Callable[[], float] = time.monotonic
    is_stopping: Callable[[], bool] = lambda: False  #: this process shall end: a validation is given up
    _began_at: float = field(init=False)
    _spent: float = 0.0  # seconds of validations so far
    _last: float = 0.0  # of the last validation, which the next will be like
    _shown: tuple[torch.Tensor, torch.Tensor] | None = None

    def __post_init__(self) -> None:
        self._began_at = self.clock()

    def validate(self, step: int, student: nn.Module) -> Validation | None:
        """The accuracy of a student after a step.

        None: it is not time, there is nothing to look at, or the process shall end.
        """
        if not self._is_time(step):
            return None
        started = self.clock()
        pixels, truth = self._images()
        num_right = self._num_right(student, pixels, truth)
        self._last = self.clock() - started
        self._spent += self._last
        if num_right is None or not len(truth):
            return None
        return Validation(step=step, accuracy=num_right / len(truth), num_images=len(truth), seconds=self._last)

    def _is_time(self, step: int) -> bool:
        if step == self.num_steps:
            return True
        training = self.clock() - self._began_at - self._spent
        return step % self.every == 0 and self._spent + self._last <= MAX_SHARE * training

    def _images(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, size, size, 3) uint8 and (N,) int64: an index into the classes, -1 for a class that it does not know."""
        if self._shown is None:
            pixels, names = self.load()
            index = {name: i for i, name in enumerate(self.classes)}
            truth = np.array([index.get(name, -1) for name in names], dtype=np.int64)
            self._shown = torch.from_numpy(pixels), torch.from_numpy(truth)
        return self._shown

    @torch.inference_mode()
    def _num_right(self, student: nn.Module, pixels: torch.Tensor, truth: torch.Tensor) -> int | None:
        """Of these images. None: the process shall end."""
        normalise, was_training, num_right = Normalise(self.preprocessing).to(self.device), student.training, 0
        student.eval()  # no dropout, and BatchNorm on its statistics: no random number is drawn, no buffer written
        try:
            for first in range(0, len(truth), BATCH):
                if self.is_stopping():
                    return None
                part = slice(first, first + BATCH)
                answers = student(normalise(pixels[part].to(self.device))).argmax(1).cpu()
                num_right += int((answers == truth[part]).sum())
        finally:
            student.train(was_training)
        return num_right


def validator(
    store: Store,
    holdout: Sequence[str],
    classes: Sequence[str],
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    every: int,
    num_steps: int,
    is_stopping: Callable[[], bool],
) -> Validator:
    """A validator on the calibration half of a holdout, which it reads at its first validation."""

    def load() -> tuple[Pixels, Sequence[str]]:
        return evaluate.some(store, holdout, preprocessing, is_calibration, max_images(preprocessing.size))

    return Validator(load, classes, preprocessing, device, every, num_steps, is_stopping=is_stopping)


def max_images(size: int) -> int:
    """Images of a validation, at so many pixels a side."""
    return min(MAX_IMAGES, MAX_BYTES // (3 * size**2))
