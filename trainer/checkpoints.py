"""Checkpoints of one training run: tensors as safetensors, the rest as JSON, which is written last.

No pickle: a checkpoint comes from a store that others can write to. There is no random state in it,
because batches and dropout are functions of (seed, step).
"""

import hashlib
import logging
from dataclasses import dataclass

from safetensors.torch import load, save
from torch import Tensor

from understudy.records import Metrics, Record, Sha256, Validation
from understudy.store import Store, generation_key

log = logging.getLogger(__name__)

#: The one before the newest is what is left if the newest was damaged.
NUM_KEPT = 2


class RunState(Record):
    """All of a run that is not a tensor."""

    step: int  #: steps done
    seconds: float = 0.0  #: of training so far, over all processes that took part
    learning_rate_factor: float = 1.0  #: under 1 after a run has gone back from numbers that were not finite
    history: tuple[Metrics, ...] = ()
    validations: tuple[Validation, ...] = ()


class _Manifest(Record):
    state: RunState
    tensors_sha256: Sha256


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run of a generation."""

    store: Store
    generation: int
    folder: str = "checkpoints"  #: of the generation; another run has another

    def write(self, tensors: dict[str, Tensor], state: RunState) -> None:
        """Write a checkpoint, then delete all but the newest ones."""
        data = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
        manifest = _Manifest(state=state, tensors_sha256=hashlib.sha256(data).hexdigest())
        self.store.replace(self._key(state.step, "tensors.safetensors"), data)
        self.store.replace(self._key(state.step, "state.json"), manifest.to_json())
        for step in self.steps()[:-NUM_KEPT]:
            self._delete(step)

    def newest(self) -> tuple[dict[str, Tensor], RunState] | None:
        """The newest whole checkpoint. None: the run has not begun."""
        for step in reversed(self.steps()):
            manifest = _Manifest.model_validate_json(self.store.get(self._key(step, "state.json")))
            data = self.store.get(self._key(step, "tensors.safetensors"))
            if hashlib.sha256(data).hexdigest() == manifest.tensors_sha256:
                return load(data), manifest.state
            log.warning("generation %d: checkpoint %d is damaged; going back to the one before", self.generation, step)
        return None

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        keys = self.store.list(generation_key(self.generation, self.folder))
        return sorted(int(key.split("/")[-2]) for key in keys if key.endswith("/state.json"))

    def clear(self) -> None:
        """Delete them all: the run has ended, its weights are a fact."""
        for step in self.steps():
            self._delete(step)

    def _delete(self, step: int) -> None:
        for name in ("state.json", "tensors.safetensors"):
            self.store.delete(self._key(step, name))

    def _key(self, step: int, name: str) -> str:
        return generation_key(self.generation, f"{self.folder}/{step:08d}/{name}")
