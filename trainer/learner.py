"""A student, its average and its optimizer: one step on one batch, and the whole state as named tensors.

On a GPU nothing here waits for the device: what a step found stays there until somebody looks.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch_norm import across_ranks
from trainer.data import Batch
from trainer.distributed import ALONE, Ranks
from trainer.loss import Portion, losses, portions
from trainer.model import train_mode
from trainer.optimisation import averaged, learning_rate, moments, optimizer
from understudy.recipes import Recipe
from understudy.records import Preprocessing

log = logging.getLogger(__name__)

Compiler = Callable[[nn.Module], Callable[[Tensor], Tensor]]


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


@dataclass(frozen=True)
class Found:
    """What one step found, as numbers."""

    step: int  #: steps done
    loss: float
    labeled_loss: float
    pseudo_loss: float | None  #: None without pseudo-labels
    gradient_norm: float
    learning_rate: float


class Learner:
    """All that changes while a run goes on. ``ranks``: the processes among which each batch is divided."""

    def __init__(
        self,
        student: nn.Module,
        recipe: Recipe,
        num_steps: int,
        seed: int,
        device: torch.device,
        *,
        ranks: Ranks = ALONE,
        accumulate: int = 1,
        compiler: Compiler = torch.compile,
    ) -> None:
        self._recipe, self._num_steps, self._seed, self._device, self._ranks = recipe, num_steps, seed, device, ranks
        self.accumulate = max(accumulate, recipe.accumulate)  #: parts that a process runs its rows in
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32: what is left in fp32 loses no accuracy that shows
        placed = student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model: nn.Module = across_ranks(placed, ranks)
        self.ema = averaged(self.model, recipe.ema_decay)
        self._normalise = Normalise(recipe.preprocessing).to(device)
        self._named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]  # others are frozen
        self._optimizer = optimizer(self.model, recipe)
        # The compiled function has the model's own parameters: no name in a checkpoint tells of it.
        self._forward: Callable[[Tensor], Tensor] = compiler(self.model) if recipe.compiled else self.model
        self._is_proven = not recipe.compiled
        self._unseen: list[tuple[int, bool, float, Tensor]] = []

    # -- a step -----------------------------------------------------------------------------------

    def learn(self, batch: Batch, step: int, factor: float) -> None:
        """One step on one batch, in one forward pass, so that BatchNorm sees all images alike.

        With ``accumulate`` it is so many passes: the gradient is the whole batch's, but BatchNorm sees the parts.
        Where several processes train, ``batch`` is this one's part.
        """
        mine = list(portions(batch, self.accumulate))
        train_mode(self.model)
        if not self._is_proven:
            self._prove(mine[0])
        # Dropout and stochastic depth of this step; another draw for each process' rows.
        torch.manual_seed(self._seed * 1_000_003 + step + self._ranks.rank * 2**40)
        rate = factor * learning_rate(self._recipe, step, self._num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        sums = self._gradients(mine)  # (2,) labeled and pseudo loss
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.max_gradient_norm)
        self._optimizer.step()
        self.ema.update_parameters(self.model)
        has_pseudo = len(batch.pixels) > batch.num_labeled
        self._unseen.append((step + 1, has_pseudo, rate, torch.cat([sums, norm.detach().view(1)])))

    def look(self) -> list[Found]:
        """What the steps since the last look found: the one place that waits for the device."""
        if not self._unseen:
            return []
        rows = torch.stack([row for *_, row in self._unseen]).tolist()
        weight = self._recipe.pseudo_weight
        found = [
            Found(step, labeled + weight * pseudo, labeled, pseudo if has_pseudo else None, norm, rate)
            for (step, has_pseudo, rate, _), (labeled, pseudo, norm) in zip(self._unseen, rows, strict=True)
        ]
        self._unseen.clear()
        return found

    def _gradients(self, mine: list[Portion]) -> Tensor:
        """The gradient of the whole batch, summed over portions and processes; gives its losses, (2,) float32."""
        self._optimizer.zero_grad()
        sums = torch.zeros(2, device=self._device)
        for portion in mine:
            sums += self._backward(portion)
        self._ranks.add_up([p.grad for p in self.model.parameters() if p.grad is not None], sums)
        return sums

    def _backward(self, portion: Portion) -> Tensor:
        logits = self._logits(portion)
        targets = self._to_device(portion.targets)
        shares = portion.labeled_share, portion.pseudo_share
        found = losses(logits, targets, portion.num_labeled, self._recipe.pseudo_weight, *shares)
        found.loss.backward()  # type: ignore[no-untyped-call]
        nothing = torch.zeros((), device=self._device)
        both = [nothing if part is None else part.detach() for part in (found.labeled, found.pseudo)]
        return torch.stack(both)

    def _logits(self, portion: Portion) -> Tensor:
        precision = self._recipe.precision
        is_half = precision == "bf16" or (precision == "auto" and self._device.type == "cuda")
        with torch.autocast(self._device.type, torch.bfloat16, enabled=is_half):
            logits = self._forward(self._normalise(self._to_device(portion.pixels)))
        return logits.float()  # (N, C)

    def _prove(self, portion: Portion) -> None:
        """Run once forward and backward; what cannot be compiled is run as it is. Leaves no trace but a warning."""
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        try:
            self._backward(portion)
        except torch.OutOfMemoryError:
            raise
        except Exception as fault:  # whatever a compiler may raise: its own errors, a missing C compiler's, …
            reason = (str(fault).splitlines() or [""])[0]
            log.warning("the student cannot be compiled (%s: %s); it is run as it is", type(fault).__name__, reason)
            self._forward = self.model
        self._is_proven = True
        self._optimizer.zero_grad()
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(kept[name])

    def _to_device(self, array: Any) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type != "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)  # the copy runs beside what was asked before

    # -- the state --------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The whole state as named tensors."""
        state = {f"optimizer.{name}": value for name, value in moments(self._optimizer, self._named)}
        model = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        return state | model | {f"ema.{name}": value for name, value in self.ema.state_dict().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up the state that ``tensors`` gave; what was found since is forgotten."""
        self._unseen.clear()
        self._optimizer.zero_grad()
        self.model.load_state_dict(_under("model.", tensors))
        self.ema.load_state_dict(_under("ema.", tensors))
        for name, parameter in self._named:
            self._optimizer.state[parameter] = {
                # A moment lies in memory as its parameter does; the count of steps stays on the CPU.
                key: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
                for key, value in _under(f"optimizer.{name}.", tensors).items()
            }

    def take_from_rank_0(self) -> None:
        """Have of all that is learned what rank 0 has; moments that a process has not yet are made first."""
        own = self.tensors()
        names = json.loads(self._ranks.tell(json.dumps({name: _shape(t) for name, t in own.items()}).encode()))
        for name, (shape, dtype, place) in names.items():
            if name not in own:
                own[name] = torch.zeros(shape, dtype=getattr(torch, dtype), device=place)
        tensors = {name: own[name] for name in names}
        self._ranks.share(tensors.values())
        self.restore(tensors)

    def result(self) -> nn.Module:
        """The averaged student, un-noised: the teacher of the next generation (official code, section 1.6)."""
        averaged_student: nn.Module = self.ema.module
        return averaged_student.eval()


def _shape(tensor: Tensor) -> tuple[list[int], str, str]:
    return list(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.device.type


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
