"""The supervised-only control: what pseudo-labels gain, as a number."""

import logging

from trainer.calibration import Calibration
from trainer.card import Export, Training
from trainer.plan import Plan
from trainer.steps.exporting import export_student
from trainer.steps.teaching import train_student
from trainer.work import Work
from understudy.errors import Diverged
from understudy.records import Record

log = logging.getLogger(__name__)

#: What the files of the supervised-only control begin with.
CONTROL = "control-"


class Control(Record):
    """The supervised-only control: the same student, noise and steps, but labeled images alone."""

    training: Training | None = None
    exported: Export | None = None
    reason: str | None = None  #: why there is none


def make_control(work: Work, plan: Plan) -> Control:
    """Train and export the control; it is never registered. One that diverges fails nothing but itself."""
    try:
        training = train_student(work, plan, None, CONTROL)
    except Diverged as fault:
        log.warning("generation %d has no control: %s", work.number, fault)
        return Control(reason=str(fault))
    unfitted = Calibration(reason="a control is compared by its accuracy, which no temperature changes")
    return Control(training=training, exported=export_student(work, plan, unfitted, CONTROL))
