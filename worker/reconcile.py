"""The reconciler: finds in the catalog and the store what should have happened and has not.

All of it may be done twice or by two at once. Redis may be away: then nobody is rung, and the rest is
done all the same.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from understudy import heartbeat, messages, quarantine
from understudy.catalog import Catalog, buckets, claims, generations, idempotency, jobs, loop, pausing, shards
from understudy.catalog.tables import JobRow, LabelSetRow
from understudy.errors import NotFound
from understudy.records import JobKind, Problem
from understudy.settings import WorkerSettings
from understudy.store import Store, labels_prefix, shards_prefix

log = logging.getLogger(__name__)

#: A service shows an arriving upload's progress each second; after ten minutes without, it is dead.
UPLOAD_SILENCE_S = 600.0
#: An upload in parts waits for its client to come back; a laptop that was closed over night does.
UPLOAD_IN_PARTS_SILENCE_S = 24 * 3600.0
#: What a worker could not do three times an hour ago may be possible by now.
RETRY_LABELS_S = 3600.0
#: Rings in a round and a queue. They are only sent into an empty queue, so it stays as short as this.
MAX_RINGS = 1000
#: Between so many objects it is asked whether they may still be deleted.
DELETED_AT_ONCE = 100

_IS_UNPACKED = JobRow.kind.in_([JobKind.INGEST, JobKind.LABELED, JobKind.SYNC, JobKind.FETCH])
_IS_EXPORT = JobRow.kind == JobKind.EXPORT
_IS_GENERATION = JobRow.kind == JobKind.GENERATION


def run(catalog: Catalog, store: Store, app: Celery, settings: WorkerSettings, stopped: threading.Event) -> None:
    """Reconcile every ``settings.reconcile_s`` seconds, the first time at once, until ``stopped`` is set."""
    try:
        sweep_labels(catalog, store, keep_teachers=settings.keep_teachers, is_thorough=True)
    except Exception:
        log.exception("what retired teachers left behind was not swept; the next start tries again")
    while not stopped.is_set():
        heartbeat.beat(settings.heartbeat_file)
        try:
            reconcile(catalog, store, app, settings)
        except Exception:  # the catalog or the store is away: the next round tries again
            log.exception("a round of the reconciler failed; the next is in %s s", settings.reconcile_s)
        stopped.wait(settings.reconcile_s)


def reconcile(catalog: Catalog, store: Store, app: Celery, settings: WorkerSettings) -> None:
    """One round."""
    # 0. What this machine's dead processes held may be taken up at once.
    for work in (LabelSetRow, JobRow):
        if freed := claims.release_dead(catalog, work):
            log.warning("%s %s: their process is dead; they go on in another", work.__tablename__, freed)

    # 1. What killed its holder too often is set aside. A trainer may die more often: it resumes.
    _report("label set", claims.set_aside(catalog, LabelSetRow, max_attempts=shards.LABEL_ATTEMPTS))
    _report("job", claims.set_aside(catalog, JobRow, where=_IS_UNPACKED))
    _report("export", claims.set_aside(catalog, JobRow, where=_IS_EXPORT))
    attempts = generations.MAX_ATTEMPTS
    _report("generation's job", claims.set_aside(catalog, JobRow, where=_IS_GENERATION, max_attempts=attempts))

    # 2. Uploads whose service died end their jobs.
    for job in jobs.stale_uploads(
        catalog, older_than_s=UPLOAD_SILENCE_S, in_parts_older_than_s=UPLOAD_IN_PARTS_SILENCE_S
    ):
        detail = "nothing has arrived for too long; send the upload again"
        jobs.fail_upload(catalog, job.id, Problem(code="upload_broken", detail=detail))
        log.warning("the upload of job %s broke off", job.id)

    # 3. Label sets that failed by a fault of ours get another chance, long after.
    for label_set in shards.retry_labels(catalog, after_s=RETRY_LABELS_S):
        log.info("label set %s is tried again", label_set)

    # 4. Every shard has a label set by the champion, or is waiting for one.
    if wanted := shards.want_labels(catalog):
        log.info("%s shards wait for the champion's label sets", len(wanted))

    # 5. The loop turns by itself, if the settings say so.
    loop.turn_after(catalog, settings.generate_after)
    if (number := generations.open_by_itself(catalog, settings.generate_after)) is not None:
        log.info("%s images are newly labeled: generation %s is open", settings.generate_after, number)

    # 6. Ring for what waits.
    _ring_overdue(app, messages.UNPACK, lambda: claims.overdue(catalog, JobRow, limit=MAX_RINGS, where=_IS_UNPACKED))
    _ring_overdue(app, messages.EXPORT, lambda: claims.overdue(catalog, JobRow, limit=MAX_RINGS, where=_IS_EXPORT))
    _ring_overdue(app, messages.LABEL, lambda: _labels_to_make(catalog))

    # 7. What was sent for jobs that have ended goes, and what was never sent to its end, and old quarantines.
    sweep_uploads(catalog, store)
    quarantine.sweep(catalog, store)
    store.sweep_unfinished(older_than_s=UPLOAD_SILENCE_S)
    sweep_recalls(catalog, store)
    idempotency.forget_old(catalog)

    # 8. The label sets of teachers that are long past go, if the settings say so.
    sweep_labels(catalog, store, keep_teachers=settings.keep_teachers)


def _labels_to_make(catalog: Catalog) -> list[Any]:
    """None while the loop is paused: nobody could take them."""
    with catalog.read() as session:
        if pausing.is_paused(session):
            return []
    return claims.overdue(catalog, LabelSetRow, limit=MAX_RINGS, max_attempts=shards.LABEL_ATTEMPTS)


def sweep_labels(catalog: Catalog, store: Store, *, keep_teachers: int, is_thorough: bool = False) -> None:
    """Delete the label sets of all but the last ``keep_teachers`` champions: their rows first, so that nobody finds them.

    ``is_thorough``: look for objects too where there is no row any more, as after a death between the two.
    """
    for version in shards.retired_teachers(catalog, keep=keep_teachers):
        num_rows = shards.forget_labels(catalog, version)
        if num_rows:
            log.info("%s label sets of %s, which is retired, are deleted", num_rows, version)
        if num_rows or is_thorough:
            _delete_objects(catalog, store, version, keep_teachers)


def _delete_objects(catalog: Catalog, store: Store, version: str, keep_teachers: int) -> None:
    keys = store.list(f"labels/{version}/")
    for at in range(0, len(keys), DELETED_AT_ONCE):
        if version not in shards.retired_teachers(catalog, keep=keep_teachers):
            return  # it was made the champion again meanwhile, and labels anew
        for key in keys[at : at + DELETED_AT_ONCE]:
            store.delete(key)


def _report(what: str, ids: Iterable[object]) -> None:
    for id in ids:
        log.error("%s %s was set aside: its holder died too often", what, id)


def _ring_overdue(app: Celery, task: str, overdue: Callable[[], list[str | int]]) -> None:
    """Ring for all that waits, unless workers have not even heard the last rings yet."""
    try:
        if messages.num_waiting(app, task) > 0:
            return
    except OperationalError as error:
        log.warning("the queue is away (%s); nobody is rung for %s this round", error, task)
        return
    for work_id in overdue():
        if not messages.ring(app, task, work_id):
            return


def sweep_recalls(catalog: Catalog, store: Store) -> None:
    """Delete the objects of deleted buckets, again and again until nobody can be writing there any more."""
    for recall in buckets.unswept(catalog):
        prefixes = [shards_prefix(recall.folder), *(labels_prefix(each, recall.folder) for each in recall.versions)]
        for prefix in prefixes:
            for key in store.list(prefix):
                store.delete(key)
        buckets.swept(catalog, recall)


def sweep_uploads(catalog: Catalog, store: Store) -> None:
    """Delete the uploads of jobs that have ended, or are unknown: a job is in the catalog before its first byte."""
    keys = store.list("uploads/")
    is_over = {job_id: _is_over(catalog, job_id) for job_id in {_job_of(key) for key in keys}}
    for key in keys:
        if is_over[_job_of(key)]:
            store.delete(key)


def _job_of(key: str) -> str:
    return key.split("/")[1]


def _is_over(catalog: Catalog, job_id: str) -> bool:
    try:
        return not jobs.keeps_uploads(jobs.get(catalog, job_id))
    except NotFound:
        return True
