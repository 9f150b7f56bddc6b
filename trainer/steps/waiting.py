"""Wait until the teacher has labeled every shard."""

import logging

from trainer.plan import Plan
from trainer.selection import LabelSets
from trainer.work import Work
from understudy import registry
from understudy.catalog import shards
from understudy.catalog.loop import WAITS_FOR_LABELS
from understudy.errors import Conflict

log = logging.getLogger(__name__)


def wait_for_labels(work: Work, plan: Plan) -> LabelSets:
    """Wait until every shard has the teacher's label set, or was set aside; then list what was published.

    Raises Conflict if the teacher is no longer the champion and shards are left that nobody will label.
    """
    teacher, catalog = plan.teacher, work.place.catalog
    if teacher is None or plan.recipe.pseudo_labels == "none":
        return LabelSets(teacher=None)
    while True:
        at = shards.label_progress(catalog, teacher, up_to=plan.last_shard)
        work.progress.show(WAITS_FOR_LABELS, at.num_done + at.num_failed, at.num_shards)
        if at.num_done + at.num_failed >= at.num_shards:
            break
        if (champion := registry.champion(catalog)) != teacher:
            raise Conflict(
                f"{at.num_shards - at.num_done - at.num_failed} shards wait for labels by {teacher}, but {champion} "
                f"is the champion now and labels instead; open another generation"
            )
        work.progress.wait(work.place.poll_s)
    if at.num_failed:
        log.warning("generation %d goes on without %d shards that could not be labeled", work.number, at.num_failed)
    published = [
        task for task in shards.published_labels(catalog, teacher, up_to=plan.last_shard) if task.key is not None
    ]
    return LabelSets(
        teacher=teacher,
        label_sets=tuple(task.key for task in published if task.key is not None),
        shards=tuple(task.shard.key for task in published),
    )
