"""The training loop: one noised student on labeled and pseudo-labeled images together.

A step is a function of (seed, step) and of the state before it, so a run that was killed and resumed
ends, on a CPU, with the same weights as one that was not. It knows neither the catalog nor the teacher.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from trainer.checkpoints import Checkpoints, RunState
from trainer.data import Batch, Batches
from trainer.model import train_mode
from trainer.progress import Stopped
from understudy.errors import Diverged
from understudy.images import Pixels
from understudy.recipes import Recipe
from understudy.records import Metrics, Preprocessing, Validation

log = logging.getLogger(__name__)

#: After numbers that are not finite the run goes back once and continues with a learning rate this much lower.
RETREAT_FACTOR = 0.1
#: About this many lines of history, whatever the length of the run.
HISTORY_LINES = 200


class NotFinite(ArithmeticError):
    """A loss or a gradient is not finite."""


@dataclass(frozen=True)
class Losses:
    """The losses of one step."""

    loss: Tensor  # () float32, what is minimised
    labeled: Tensor  # () float32
    pseudo: Tensor | None  # () float32


def losses(logits: Tensor, targets: Tensor, num_labeled: int, pseudo_weight: float) -> Losses:
    """Mean cross-entropy of the labeled images plus ``pseudo_weight`` × that of the others.

    ``logits`` and ``targets`` are (N, C), the first ``num_labeled`` rows labeled. At weight 1 it is
    Algorithm 1 of the paper, two means of equal weight; the official code multiplies the second mean by
    the ratio of the batches (``unlabel_ratio``), which ``pseudo_weight`` set to that ratio does too.
    """
    labeled = functional.cross_entropy(logits[:num_labeled], targets[:num_labeled])
    if len(logits) == num_labeled:
        return Losses(labeled, labeled, None)
    pseudo = functional.cross_entropy(logits[num_labeled:], targets[num_labeled:])
    return Losses(labeled + pseudo_weight * pseudo, labeled, pseudo)


def learning_rate(recipe: Recipe, step: int, num_steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    return recipe.learning_rate * warmup * 0.5 * (1.0 + math.cos(math.pi * step / num_steps))


def ema_decay(decay: float, num_averaged: int) -> float:
    """The official ramp: a young average forgets its random beginning quickly."""
    return min(decay, (1 + num_averaged) / (10 + num_averaged))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The moving average of a model's parameters and BatchNorm statistics, as in the official code."""

    @torch.no_grad()
    def average(old: Any, new: Any, num_averaged: Any) -> None:
        if old[0].is_floating_point():
            torch._foreach_lerp_(old, new, 1.0 - ema_decay(decay, int(num_averaged)))
        else:  # counters of batches
            torch._foreach_copy_(old, new)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


class Normalise(nn.Module):
    """(N, H, W, 3) uint8 → (N, 3, H, W) float32 around zero; the same in training and in the exported graph."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        channels_first = pixels.permute(0, 3, 1, 2)  # a view: in memory it is channels_last already
        return (channels_first.float() / 255.0 - self.mean) / self.std


class Learner:
    """A student, its average and its optimizer: all that changes while a run goes on."""

    def __init__(self, student: nn.Module, recipe: Recipe, num_steps: int, seed: int, device: torch.device) -> None:
        self._recipe, self._num_steps, self._seed, self._device = recipe, num_steps, seed, device
        self.model = student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = averaged(self.model, recipe.ema_decay)
        self._normalise = Normalise(recipe.preprocessing).to(device)
        self._named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]  # others are frozen
        self._optimizer = torch.optim.AdamW(self._groups(recipe.weight_decay), lr=recipe.learning_rate)

    def _groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Biases and BatchNorm's scales are not decayed: they are the parameters with one dimension."""
        decayed = [p for _, p in self._named if p.ndim > 1]
        free = [p for _, p in self._named if p.ndim <= 1]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]

    def learn(self, batch: Batch, step: int, factor: float) -> Metrics:
        """One step on one batch, in one forward pass, so that BatchNorm sees all images alike. Raises NotFinite."""
        torch.manual_seed(self._seed * 1_000_003 + step)  # dropout and stochastic depth of this step
        started = time.perf_counter()
        rate = factor * learning_rate(self._recipe, step, self._num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        train_mode(self.model)
        found = losses(
            self._logits(batch.pixels), self._to_device(batch.targets), batch.num_labeled, self._recipe.pseudo_weight
        )
        self._optimizer.zero_grad()
        found.loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.max_gradient_norm))
        if not (math.isfinite(norm) and math.isfinite(float(found.loss.detach()))):
            raise NotFinite(f"loss {float(found.loss.detach())}, gradient norm {norm} at step {step}")
        self._optimizer.step()
        self.ema.update_parameters(self.model)
        return Metrics(
            step=step + 1,
            loss=float(found.loss.detach()),
            labeled_loss=float(found.labeled.detach()),
            pseudo_loss=None if found.pseudo is None else float(found.pseudo.detach()),
            learning_rate=rate,
            gradient_norm=norm,
            images_per_second=len(batch.pixels) / (time.perf_counter() - started),
        )

    def _logits(self, pixels: Pixels) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            logits: Tensor = self.model(self._normalise(self._to_device(pixels)))
        return logits.float()  # (N, C)

    def _to_device(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)

    def tensors(self) -> dict[str, Tensor]:
        """The whole state as named tensors."""
        moments = {
            f"optimizer.{name}.{key}": value
            for name, parameter in self._named
            for key, value in self._optimizer.state[parameter].items()
        }
        model = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        return moments | model | {f"ema.{name}": value for name, value in self.ema.state_dict().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up the state that ``tensors`` gave."""
        self.model.load_state_dict(_under("model.", tensors))
        self.ema.load_state_dict(_under("ema.", tensors))
        for name, parameter in self._named:
            moments = _under(f"optimizer.{name}.", tensors)
            self._optimizer.state[parameter] = {
                # A moment lies in memory as its parameter does; the count of steps stays on the CPU.
                key: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
                for key, value in moments.items()
            }

    def result(self) -> nn.Module:
        """The averaged student, un-noised: the teacher of the next generation (official code, section 1.6)."""
        averaged_student: nn.Module = self.ema.module
        return averaged_student.eval()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class Observer(Protocol):
    """What is told how a run goes. It must change nothing: a run ends with the same weights without it."""

    def validate(self, step: int, averaged_student: nn.Module) -> Validation | None:
        """Validate the averaged student after a step, if it is time. None: it is not."""

    def see(self, metrics: Metrics, validations: Sequence[Validation]) -> None:
        """One step is done; ``looks`` are all so far."""

    def keep(self, state: RunState) -> None:
        """A checkpoint has been written."""


@dataclass(frozen=True)
class Run:
    """One training run from its first step to its last."""

    batches: Batches
    checkpoints: Checkpoints
    recipe: Recipe
    num_steps: int
    seed: int
    device: torch.device
    show: Callable[[int, int], None]  #: (steps done, steps in all)
    is_stopping: Callable[[], bool]
    observer: Observer | None = None  #: is told how the run goes; None: nobody looks

    def train(self, student: nn.Module) -> tuple[nn.Module, RunState]:
        """Train from the newest checkpoint, or from the beginning; gives the averaged student.

        Raises Stopped after a checkpoint when this process shall end, and Diverged when the numbers were
        not finite a second time.
        """
        learner = Learner(student, self.recipe, self.num_steps, self.seed, self.device)
        state = self._resume(learner)
        while True:
            try:
                return learner.result(), self._go(learner, state)
            except NotFinite as fault:
                state = self._retreat(learner, fault)

    def _resume(self, learner: Learner) -> RunState:
        found = self.checkpoints.newest()
        if found is None:  # the beginning is a checkpoint too, so there always is one to go back to
            self.checkpoints.write(learner.tensors(), RunState(step=0))
            return RunState(step=0)
        tensors, state = found
        learner.restore(tensors)
        return state

    def _retreat(self, learner: Learner, fault: NotFinite) -> RunState:
        state = self._resume(learner)
        if state.learning_rate_factor < 1.0:
            raise Diverged(
                f"training gave numbers that are not finite even with a tenth of the learning rate ({fault}); "
                f"lower learning_rate={self.recipe.learning_rate} or raise warmup_steps={self.recipe.warmup_steps}"
            ) from fault
        log.warning("%s: going back to step %d with a lower learning rate", fault, state.step)
        lowered = _changed(state, learning_rate_factor=RETREAT_FACTOR)
        self.checkpoints.write(learner.tensors(), lowered)
        return lowered

    def _go(self, learner: Learner, state: RunState) -> RunState:
        line_every = max(1, self.num_steps // HISTORY_LINES)
        history, validations, started = list(state.history), list(state.validations), time.monotonic()
        validated_before = sum(one.seconds for one in validations)

        def seconds() -> float:
            validating = sum(one.seconds for one in validations) - validated_before
            return state.seconds + time.monotonic() - started - validating

        def state_at(step: int) -> RunState:
            return _changed(state, step=step, seconds=seconds(), history=tuple(history), validations=tuple(validations))

        with closing(self.batches.since(state.step, self.num_steps)) as batches:  # type: ignore[type-var]
            for step, batch in enumerate(batches, state.step):
                metrics = learner.learn(batch, step, state.learning_rate_factor)
                done, is_stopping = step + 1, self.is_stopping()
                if done % line_every == 0 or done == self.num_steps:
                    history.append(metrics.model_copy(update={"seconds": seconds()}))
                if self.observer is not None:
                    validations.extend(filter(None, [self.observer.validate(done, learner.ema.module)]))
                    self.observer.see(metrics, validations)
                if done % self.recipe.checkpoint_every == 0 or done == self.num_steps or is_stopping:
                    self.checkpoints.write(learner.tensors(), state_at(done))
                    if self.observer is not None:
                        self.observer.keep(state_at(done))
                self.show(done, self.num_steps)
                if is_stopping:
                    raise Stopped
        return state_at(self.num_steps)


def _changed(state: RunState, **values: Any) -> RunState:
    """The same state but for some fields."""
    return state.model_copy(update=values)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's generator begins at ``seed`` in the block, and is after it as if nothing had been."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
