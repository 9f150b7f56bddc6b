"""The training loop: one noised student on labeled and pseudo-labeled images together.

A step is a function of (seed, step) and of the state before it, so a run that was killed and resumed
ends, on a CPU, with the same weights as one that was not. It knows neither the catalog nor the teacher.
"""

import errno
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from trainer.checkpoints import Checkpoints, RunState
from trainer.data import Batch, Batches
from trainer.distributed import RankLeft, Ranks
from trainer.guard import NotSound
from trainer.learner import Compiler, Learner
from trainer.loss import can_be_parted, refuse_thin_parts
from trainer.progress import Stopped
from understudy.errors import Diverged, RecipeRefused
from understudy.recipes import Recipe
from understudy.records import Metrics, Validation

log = logging.getLogger(__name__)

#: When a run has gone astray it goes back once and continues with a learning rate this much lower.
RETREAT_FACTOR = 0.1
#: About this many lines of history, whatever the length of the run.
HISTORY_LINES = 200
#: A GPU is asked for its numbers every so many steps: to ask it each time would let it wait for us each time.
LOOK_EVERY = 20
#: What a disk says that has no room. Other troubles of a store do not go away by themselves.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Observer(Protocol):
    """What is told how a run goes. It must change nothing: a run ends with the same weights without it."""

    def validate(self, step: int, averaged_student: nn.Module) -> Validation | None:
        """Validate the averaged student after a step, if it is time. None: it is not."""

    def see(self, metrics: Metrics, validations: Sequence[Validation]) -> None:
        """These are the newest figures; ``validations`` are all so far."""

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
    ranks: Ranks = field(default_factory=Ranks)  #: the processes that train together; checkpoints are rank 0's
    compiler: Compiler = torch.compile

    def train(self, student: nn.Module) -> tuple[nn.Module, RunState]:
        """Train from the newest checkpoint, or from the beginning; gives the averaged student.

        Raises Stopped after a checkpoint when this process shall end, Diverged when the run went astray a
        second time, RecipeRefused when a batch cannot be had in parts small enough, and OSError when the
        last checkpoint finds no room. Several processes raise RankLeft and RanksLost besides.
        """
        try:
            return self._train(student)
        except (Stopped, Diverged, RankLeft):  # all processes raise these at one step
            raise
        except BaseException:
            self.ranks.leave()
            raise

    def _train(self, student: nn.Module) -> tuple[nn.Module, RunState]:
        learner = Learner(
            student, self.recipe, self.num_steps, self.seed, self.device, ranks=self.ranks, compiler=self.compiler
        )
        self._refuse_thin_parts(self.recipe.accumulate)
        state = self._resume(learner)
        while True:
            try:
                return learner.result(), self._go(learner, state)
            except NotSound as found:
                fault: Exception = found
            except torch.OutOfMemoryError as found:
                fault = found.with_traceback(None)  # the frames in it hold what fills the memory
            if isinstance(fault, NotSound):
                state = self._retreat(learner, fault)
            else:
                state = self._with_smaller_parts(learner, fault)

    # -- where to go on ---------------------------------------------------------------------------

    def _resume(self, learner: Learner) -> RunState:
        found = self.checkpoints.newest() if self.ranks.rank == 0 else None
        if found is None and self.ranks.rank == 0:  # the beginning is one too, so there always is one to go back to
            self.checkpoints.write(learner.tensors(), RunState(step=0))
        return self._take_up(learner, found)

    def _back(self, learner: Learner, fault: Exception) -> RunState:
        """Take up the newest checkpoint. Without one that is whole this attempt is over: what was learned is of no use."""
        found = self.checkpoints.newest() if self.ranks.rank == 0 else None
        if found is None and self.ranks.rank == 0:
            raise RuntimeError(f"{fault}, and no checkpoint is whole: the next attempt begins anew") from fault
        return self._take_up(learner, found)

    def _take_up(self, learner: Learner, found: tuple[dict[str, torch.Tensor], RunState] | None) -> RunState:
        """Have all processes at one place: rank 0's checkpoint, or the beginning."""
        if found is not None:
            learner.restore(found[0])
        state = RunState(step=0) if found is None else found[1]
        if self.ranks.size > 1:
            with self.ranks.together():
                state = RunState.model_validate_json(self.ranks.tell(state.to_json()))
                learner.take_from_rank_0()
        learner.accumulate = max(self.recipe.accumulate, state.accumulate)
        return state

    def _retreat(self, learner: Learner, fault: NotSound) -> RunState:
        state = self._back(learner, fault)
        if state.learning_rate_factor < 1.0:
            raise Diverged(
                f"training went astray even with a tenth of the learning rate ({fault}); "
                f"lower learning_rate={self.recipe.learning_rate} or raise warmup_steps={self.recipe.warmup_steps}"
            ) from fault
        log.warning("%s: going back to step %d with a lower learning rate", fault, state.step)
        return self._changed_course(learner, _changed(state, learning_rate_factor=RETREAT_FACTOR))

    def _with_smaller_parts(self, learner: Learner, fault: Exception) -> RunState:
        """Halve what the device must hold: the same batch at the same learning rate, in twice as many parts."""
        if self.ranks.size > 1:  # the others are in the middle of the step that this one could not make
            raise RuntimeError(
                f"{self.device} has too little memory for rank {self.ranks.rank}'s rows in {learner.accumulate} parts "
                f"({str(fault).splitlines()[0]}); open the generation again with accumulate={2 * learner.accumulate}"
            ) from fault
        accumulate = 2 * learner.accumulate
        if not can_be_parted(*self._batch, accumulate * self.ranks.size):
            raise RecipeRefused(
                f"{self.device} has too little memory for {self.recipe.labeled_batch} labeled images and those beside them "
                f"even in {learner.accumulate} parts ({str(fault).splitlines()[0]}); lower labeled_batch or size, choose a "
                f"smaller student, or a larger device",
                code="out_of_memory",
            ) from fault
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        state = self._back(learner, fault)
        log.warning(
            "%s has too little memory for a step in %d parts: going back to step %d, in %d parts",
            self.device, learner.accumulate, state.step, accumulate,
        )  # fmt: skip
        learner.accumulate = accumulate
        return self._changed_course(learner, _changed(state, accumulate=accumulate))

    def _changed_course(self, learner: Learner, state: RunState) -> RunState:
        """Whoever resumes must not run into the same again."""
        if self.ranks.rank == 0:
            self.checkpoints.write(learner.tensors(), state)
        return state

    @property
    def _batch(self) -> tuple[int, int]:
        num_labeled = self.recipe.labeled_batch
        return num_labeled, num_labeled * self.recipe.unlabeled_ratio if self.batches.pseudo is not None else 0

    def _refuse_thin_parts(self, accumulate: int) -> None:
        if accumulate * self.ranks.size > 1:
            refuse_thin_parts(*self._batch, accumulate, self.ranks.size)

    # -- step by step -----------------------------------------------------------------------------

    def _go(self, learner: Learner, state: RunState) -> RunState:
        journal, done = _Journal(self.num_steps, state, self.ranks.size), state.step
        with closing(self.batches.since(state.step, self.num_steps)) as batches:  # type: ignore[type-var]
            for step, batch in enumerate(batches, state.step):
                with self.ranks.together(is_stopping=self.is_stopping()) as shall_stop:
                    learner.learn(batch, step, state.learning_rate_factor)
                done = step + 1
                journal.count(batch)
                is_kept = shall_stop or done == self.num_steps or done % self.recipe.checkpoint_every == 0
                newest = journal.note(learner) if is_kept or done % self._look_every == 0 else None
                self._show_to_observer(learner, journal, done, newest)
                if is_kept:
                    self._keep(learner, journal.state(done), is_periodic=not shall_stop and done < self.num_steps)
                self.show(done, self.num_steps)
                if shall_stop:
                    break
        with self.ranks.together():  # whoever found no room for the last checkpoint has left before
            pass
        if done < self.num_steps:
            raise Stopped
        return journal.state(self.num_steps)

    def _show_to_observer(self, learner: Learner, journal: "_Journal", step: int, newest: Metrics | None) -> None:
        if self.observer is None:
            return
        journal.validations.extend(filter(None, [self.observer.validate(step, learner.ema.module)]))
        if newest is not None:
            self.observer.see(newest, journal.validations)

    @property
    def _look_every(self) -> int:
        return LOOK_EVERY if self.device.type == "cuda" else 1

    def _keep(self, learner: Learner, state: RunState, *, is_periodic: bool) -> None:
        """Write a checkpoint; one for which there is no room is left out if there will be another."""
        if self.ranks.rank > 0:
            return
        if not state.watched.is_calm and state.step < self.num_steps:
            log.warning("no checkpoint at step %d: the loss is far above its best", state.step)
            return
        try:
            self.checkpoints.write(learner.tensors(), state)
        except OSError as error:
            if not is_periodic or error.errno not in NO_ROOM:
                raise
            log.warning("%s; training goes on, and tries again at step %d", error.strerror, self._next(state.step))
            return
        if self.observer is not None:
            self.observer.keep(state)

    def _next(self, step: int) -> int:
        return min(self.num_steps, step + self.recipe.checkpoint_every)


class _Journal:
    """What a run remembers of its steps: lines of history, the guard's sight of the loss, the time."""

    def __init__(self, num_steps: int, begun: RunState, num_processes: int) -> None:
        self._num_steps, self._begun, self._num_processes = num_steps, begun, num_processes
        self._line_every = max(1, num_steps // HISTORY_LINES)
        self._history, self._watched = list(begun.history), begun.watched
        self.validations = list(begun.validations)
        self._validated_before = sum(one.seconds for one in begun.validations)
        self._started = self._last = time.monotonic()
        self._num_images = 0

    def count(self, batch: Batch) -> None:
        self._num_images += len(batch.pixels) * self._num_processes

    def note(self, learner: Learner) -> Metrics:
        """Take down what the learner found since it was last asked; gives the newest. Raises NotFinite and RanAway."""
        found = learner.look()
        rate, seconds = self._images_per_second(), self._seconds()
        for each in found:
            self._watched = self._watched.after(each.loss, each.gradient_norm, each.step, self._num_steps)
            newest = Metrics(
                step=each.step,
                loss=each.loss,
                labeled_loss=each.labeled_loss,
                pseudo_loss=each.pseudo_loss,
                learning_rate=each.learning_rate,
                gradient_norm=each.gradient_norm,
                images_per_second=rate,
                seconds=seconds,
            )
            if each.step % self._line_every == 0 or each.step == self._num_steps:
                self._history.append(newest)
        return newest

    def state(self, step: int) -> RunState:
        """The state at a step that has been noted."""
        return _changed(
            self._begun,
            step=step,
            seconds=self._seconds(),
            history=tuple(self._history),
            validations=tuple(self.validations),
            watched=self._watched,
        )

    def _seconds(self) -> float:
        """Of training, without validations."""
        validating = sum(one.seconds for one in self.validations) - self._validated_before
        return self._begun.seconds + time.monotonic() - self._started - validating

    def _images_per_second(self) -> float:
        """Since it was last asked for, waiting for batches included."""
        now = time.monotonic()
        rate = self._num_images / max(now - self._last, 1e-9)
        self._num_images, self._last = 0, now
        return rate


def _changed(state: RunState, **values: Any) -> RunState:
    """The same state but for some fields."""
    return state.model_copy(update=values)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's generator begins at ``seed`` in the block, and is after it as if nothing had been."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
