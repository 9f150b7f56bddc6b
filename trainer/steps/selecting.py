"""Select the pseudo-labels that a student is trained on."""

import logging
import tempfile
from pathlib import Path

from trainer import reviewed, selection
from trainer.plan import Plan
from trainer.selection import Former, LabelSets
from trainer.work import Work, made
from understudy import pseudo_labels, thresholds
from understudy.catalog import generations, shards, versions
from understudy.errors import Refused
from understudy.label_records import Selection
from understudy.pseudo_labels import Looking
from understudy.store import generation_key, selection_key

log = logging.getLogger(__name__)


def select(work: Work, plan: Plan, sets: LabelSets) -> Selection:
    """Choose the pseudo-labels; their rows go to a Parquet file that the selection names."""
    work.progress.show("select", 0, len(sets.label_sets))
    catalog, store = work.place.catalog, work.place.store
    assert plan.teacher is not None, "there is nothing to select from without a teacher"
    teacher = versions.get(catalog, plan.teacher).card
    joined = reviewed.read(store, plan.generation, plan.reviewed)
    spool = made(work.place.spool)
    with tempfile.TemporaryDirectory(dir=spool) as folder:
        rows = Path(folder) / "selection.parquet"
        looking = Looking(catalog, store, spool or Path(folder))
        summary = selection.select(
            store,
            sets,
            classes=teacher.classes,
            labeled_counts=plan.labeled_counts,
            # Those of the plan too: a review that was undone since then would put its image into both sets.
            human_labeled=shards.human_labeled(catalog).union(joined.sha256s),
            recipe=plan.recipe,
            rows=rows,
            spool=work.place.spool,
            answers=thresholds.answers_of(store, teacher.generation),
            former=_former(work) if plan.recipe.relabel == "same" else None,
            agreement=pseudo_labels.agreement(looking, plan.teacher, sets.label_sets, plan.recipe.threshold),
        )
        work.claim.check()
        store.put(selection_key(work.number, summary.rows_sha256), rows)
    for warning in summary.warnings:
        log.warning("generation %d: %s", work.number, warning)
    work.progress.show("select", len(sets.label_sets), len(sets.label_sets))
    return summary


def _former(work: Work) -> Former | None:
    """The newest choice of pseudo-labels that a model was made with. None: there is none, so this one is made afresh.

    Raises Refused if its rows are gone.
    """
    store, before = work.place.store, generations.previous(work.place.catalog, work.number)
    while before is not None:
        if store.exists(key := generation_key(before.number, "selection.json")):
            chosen = Selection.model_validate_json(store.get(key))
            rows = selection_key(before.number, chosen.rows_sha256)
            if not store.exists(rows):
                raise Refused(
                    f"the selection of generation {before.number} shall be labeled anew, but its rows ({rows}) are not "
                    f"in the store; set relabel to afresh",
                    code="selection_lost",
                )
            return Former(before.number, rows, chosen.num_kept)
        before = generations.previous(work.place.catalog, before.number)
    log.info("generation %d: there is no selection to label anew; a first one is made", work.number)
    return None
