"""Checkpoints of one training run: tensors as safetensors, the rest as JSON, which is written last.

No pickle: a checkpoint comes from a store that others can write to. There is no random state in it,
because batches and dropout are functions of (seed, step). Each attempt at the run has keys of its own, so
that a trainer who was overtaken and does not know it yet damages nothing of the one who goes on.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from trainer.guard import Watched
from understudy.records import Metrics, Record, Sha256, Validation
from understudy.store import Store, generation_key

log = logging.getLogger(__name__)

#: The one before the newest is what is left if the newest was damaged.
NUM_KEPT = 2


class RunState(Record):
    """All of a run that is not a tensor."""

    step: int  #: steps done
    seconds: float = 0.0  #: of training so far, over all processes that took part
    learning_rate_factor: float = 1.0  #: under 1 after a run that went astray has gone back
    accumulate: int = 1  #: parts that a step is run in, at least: more after the device's memory was too small
    watched: Watched = Watched()
    history: tuple[Metrics, ...] = ()
    validations: tuple[Validation, ...] = ()


class _Manifest(Record):
    state: RunState
    tensors_sha256: Sha256


def _is_anybodys() -> None:
    """Nobody can take over a run that no claim is held for."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run of a generation, as one attempt at it sees them."""

    store: Store
    generation: int
    attempt: int = 0  #: later ones go first
    check: Callable[[], None] = _is_anybodys  #: raises LeaseLost if this process must write no more
    folder: str = "checkpoints"  #: of the generation; another run has another

    def write(self, tensors: dict[str, Tensor], state: RunState) -> None:
        """Write a checkpoint, then delete all but the newest ones. Raises LeaseLost, and OSError if there is no room."""
        data = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
        manifest = _Manifest(state=state, tensors_sha256=hashlib.sha256(data).hexdigest())
        self.check()
        place = self.attempt, state.step
        try:
            self.store.replace(self._key(*place, "tensors.safetensors"), data)
            self.store.replace(self._key(*place, "state.json"), manifest.to_json())
        except OSError as error:
            self._forget_half(place)
            raise OSError(
                error.errno,
                f"a checkpoint of {len(data) / 1e6:.1f} MB at step {state.step} cannot be written ({error}); the older ones "
                f"(steps {', '.join(map(str, self.steps())) or 'none'}) still stand: make room in the store, and go on",
            ) from error
        for old in self._places()[:-NUM_KEPT]:
            self._delete(*old)

    def newest(self) -> tuple[dict[str, Tensor], RunState] | None:
        """The newest whole checkpoint. None: the run has not begun, or is to be begun anew."""
        places = self._places()
        for place in reversed(places):
            try:
                return self._read(*place)
            except (FileNotFoundError, ValueError, SafetensorError) as fault:
                log.warning("generation %d: the checkpoint of step %d is damaged: %s", self.generation, place[1], fault)
        if places:
            log.warning("generation %d: none of %d checkpoints is whole: begin anew", self.generation, len(places))
        return None

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in the order in which they were written."""
        return [step for _, step in self._places()]

    def clear(self) -> None:
        """Delete them all: the run has ended, its weights are a fact."""
        for place in self._places():
            self._delete(*place)

    def _read(self, attempt: int, step: int) -> tuple[dict[str, Tensor], RunState]:
        manifest = _Manifest.model_validate_json(self.store.get(self._key(attempt, step, "state.json")))
        data = self.store.get(self._key(attempt, step, "tensors.safetensors"))
        if hashlib.sha256(data).hexdigest() != manifest.tensors_sha256:
            raise ValueError(f"its {len(data)} bytes of tensors are not those of its manifest")
        return load(data), manifest.state

    def _places(self) -> list[tuple[int, int]]:
        """(attempt, step) of all checkpoints, in order."""
        keys = self.store.list(generation_key(self.generation, self.folder))
        parts = [key.split("/") for key in keys if key.endswith("/state.json")]
        return sorted((int(attempt), int(step)) for *_, attempt, step, _ in parts)

    def _forget_half(self, place: tuple[int, int]) -> None:
        """Delete tensors that have no manifest: they would only take room."""
        if place not in self._places():
            self.store.delete(self._key(*place, "tensors.safetensors"))

    def _delete(self, attempt: int, step: int) -> None:
        for name in ("state.json", "tensors.safetensors"):
            self.store.delete(self._key(attempt, step, name))

    def _key(self, attempt: int, step: int, name: str) -> str:
        return generation_key(self.generation, f"{self.folder}/{attempt:04d}/{step:08d}/{name}")
