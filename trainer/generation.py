"""One generation, straight down: plan, wait for labels, select, train, calibrate, export, evaluate, gate, conclude.

Each step is a file under ``generations/<n>/``; a step that has its file is skipped, so a trainer that
was killed anywhere is continued by the next one. What is in the store first counts: where two trainers
make the same file, both go on with the same bytes. Only ``conclude`` changes what serves.
"""

from functools import partial

from trainer import selection, tracking
from trainer.calibration import Calibration
from trainer.card import Export, Training
from trainer.plan import Plan, make_plan
from trainer.progress import Progress
from trainer.selection import LabelSets
from trainer.steps.controlling import Control, make_control
from trainer.steps.exporting import calibrate_student, export_student, make_variants
from trainer.steps.judging import conclude
from trainer.steps.selecting import select
from trainer.steps.teaching import train_student
from trainer.steps.waiting import wait_for_labels
from trainer.variants import MadeVariants
from trainer.work import Work, Workplace
from understudy.catalog import shards
from understudy.catalog.claims import Claim
from understudy.label_records import Selection
from understudy.records import GateReport, Generation


def run(place: Workplace, claim: Claim, progress: Progress, generation: Generation) -> GateReport:
    """Work on a claimed generation until its verdict.

    Raises what its steps raise: Refused (the request cannot be met), Diverged, Conflict, LeaseLost, and
    Stopped when this process shall end.
    """
    work = Work(place, claim, progress, generation.number)

    # 1. Freeze what was asked for, and what there is to learn from
    plan = work.step("plan.json", Plan, partial(make_plan, place.catalog, place.store, generation))

    # 2. Wait until the teacher has labeled every shard, if its labels are wanted; freeze the list
    sets = work.step("labels.json", LabelSets, partial(wait_for_labels, work, plan))

    # 3. Select pseudo-labels; nothing is learned from a teacher that has collapsed
    selected = None
    if sets.teacher is not None:
        selected = work.step("selection.json", Selection, partial(select, work, plan, sets))
        selection.refuse_collapse(selected, plan.recipe)

    # 4. Train the student
    training = work.step("training.json", Training, partial(train_student, work, plan, selected))

    # 5. Fit its temperature on a half of the holdout
    fitted = work.step("calibration.json", Calibration, partial(calibrate_student, work, plan))

    # 6. Export it, and see the engine agree with torch; then the same in other number formats
    exported = work.step("export.json", Export, partial(export_student, work, plan, fitted))
    made = work.step("variants.json", MadeVariants, partial(make_variants, work, plan, exported))

    # 7. The same student on labels alone, so that the gain from pseudo-labels is a number
    control = None
    if plan.recipe.control and selected is not None:
        control = work.step("control.json", Control, partial(make_control, work, plan))

    # 8. Evaluate, judge, publish, conclude; again if the champion changes meanwhile
    report = conclude(work, plan, sets, selected, training, exported, made, control)

    # 9. A new champion labels everything anew, for the next generation
    if report.is_proved:
        ask_for_labels(place)

    # 10. The generation has ended: who tracks experiments is told
    if place.mlflow_url:
        tracking.track(place.mlflow_url, plan, training, report)
    return report


def ask_for_labels(place: Workplace) -> None:
    """Want the new champion's label sets and ring for them. What is not heard, the reconciler repeats."""
    for task in shards.want_labels(place.catalog):
        if not place.ring(task):
            return
