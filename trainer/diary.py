"""What a run's observer writes: the newest figures for the catalog; history, event file and curves for the store.

It changes nothing of the run, and a fault of it ends no run: what is missing is told in the log.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from trainer import events, plots
from trainer.checkpoints import RunState
from trainer.pace import Pace
from trainer.validation import Validator
from trainer.work import made
from understudy.records import History, Metrics, TrainingProgress, Validation
from understudy.store import Store, generation_key

log = logging.getLogger(__name__)

#: Drawing and writing take half a second: 1 % of the time at most.
MIN_INTERVAL_S = 60.0


@dataclass
class Diary:
    """The observer of one generation's training (``train.Observer``)."""

    store: Store
    generation: int
    num_steps: int
    batch_images: int  #: in one step
    validator: Validator
    spool: Path | None
    check: Callable[[], None]  #: raises LeaseLost when somebody else writes here
    clock: Callable[[], float] = time.monotonic
    figures: TrainingProgress | None = None  #: the newest; None: no step is done yet
    _pace: Pace = field(init=False)
    _kept_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._pace, self._kept_at = Pace(self.clock), self.clock()

    def validate(self, step: int, averaged_student: nn.Module) -> Validation | None:
        """Validate, if it is time. None: it is not, or there was a fault, which is in the log."""
        started = self.clock()
        try:
            return self.validator.validate(step, averaged_student)
        except Exception:  # a damaged shard of the holdout, a device without room: evaluation will say it
            log.warning("generation %d: no validation at step %d", self.generation, step, exc_info=True)
            return None
        finally:
            self._pace.leave_out(self.clock() - started)

    def see(self, metrics: Metrics, validations: Sequence[Validation]) -> None:
        """Take the figures of a step."""
        self._pace.see(metrics.step)
        speed, last = self._pace.steps_per_second, validations[-1] if validations else None
        self.figures = TrainingProgress(
            step=metrics.step,
            num_steps=self.num_steps,
            loss=metrics.loss,
            labeled_loss=metrics.labeled_loss,
            pseudo_loss=metrics.pseudo_loss,
            learning_rate=metrics.learning_rate,
            images_per_second=None if speed is None else speed * self.batch_images,
            eta_s=None if speed is None else (self.num_steps - metrics.step) / speed,
            ema_accuracy=None if last is None else last.accuracy,
            ema_step=None if last is None else last.step,
            ema_images=None if last is None else last.num_images,
        )

    def keep(self, state: RunState) -> None:
        """Write what there is of the curves, if that was not done a moment ago."""
        if self.clock() - self._kept_at >= MIN_INTERVAL_S:
            self.write(state)

    def write(self, state: RunState) -> None:
        """Write history, event file and curves; what was there is replaced. Raises LeaseLost."""
        self.check()
        started = self.clock()
        try:
            self._write(
                History(num_steps=self.num_steps, lines=state.history, validations=state.validations), state.seconds
            )
        except Exception:  # a full disk, a store that is away: the checkpoint decides whether the run can go on
            log.warning("generation %d: its curves could not be written", self.generation, exc_info=True)
        self._kept_at = self.clock()
        self._pace.leave_out(self._kept_at - started)

    def _write(self, history: History, seconds: float) -> None:
        self._replace("history.json", history.to_json())
        self._replace(
            f"tensorboard/{events.FILE_NAME}", events.event_file(history, time.time() - seconds, made(self.spool))
        )
        self._replace("curves.png", plots.curves(history, f"generation {self.generation}"))

    def _replace(self, name: str, data: bytes) -> None:
        self.store.replace(generation_key(self.generation, name), data)
