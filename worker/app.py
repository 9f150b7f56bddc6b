"""The Celery application of a worker: three tasks, each an id and a function that never raises.

The parent of the pool imports and opens as little as it can, because what it holds is forked.
"""

import functools
import logging
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from billiard import current_process
from celery import Celery
from celery.signals import heartbeat_sent, worker_process_init

from understudy import heartbeat, messages, settings
from understudy.settings import WorkerSettings

if TYPE_CHECKING:
    from worker.resources import Resources

log = logging.getLogger(__name__)


def build(read: WorkerSettings) -> Celery:
    """The application with its tasks. Nothing is opened before a child begins."""
    app = messages.celery_app(read.broker_url)
    # Celery sends it every other second from the loop that takes messages, while that is connected to Redis.
    heartbeat_sent.connect(lambda **_: heartbeat.beat(read.heartbeat_file), weak=False)

    @functools.cache
    def resources() -> "Resources":  # a child's own; it keeps them, and the engine, until it ends
        from worker.resources import Resources

        return Resources.open(read, functools.partial(messages.ring, app))

    # Imported in the child: what decodes, computes and queries starts threads that do not survive a fork.
    @app.task(name=messages.UNPACK)  # type: ignore[untyped-decorator]
    def unpack(job_id: str) -> None:
        from worker.unpack import unpack

        _answer(lambda: unpack(resources(), job_id))

    @app.task(name=messages.LABEL)  # type: ignore[untyped-decorator]
    def label(label_set_id: int) -> None:
        from worker.label import label

        _answer(lambda: label(resources(), label_set_id))

    @app.task(name=messages.EXPORT)  # type: ignore[untyped-decorator]
    def export(job_id: str) -> None:
        from worker.export import export

        _answer(lambda: export(resources(), job_id))

    @worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def begin(**_: object) -> None:
        settings.use_one_device(getattr(current_process(), "index", 0), read.devices)
        _take_up_what_the_dead_held(resources, app)

    return app


def _take_up_what_the_dead_held(resources: "Callable[[], Resources]", app: Celery) -> None:
    """A new child often follows one that was killed: what that one held is rung for at once."""
    from understudy.catalog import claims
    from understudy.catalog.tables import JobRow, LabelSetRow

    try:
        catalog = resources().catalog
        rings = [(messages.LABEL, id) for id in claims.release_dead(catalog, LabelSetRow)]
        rings += [(messages.UNPACK, id) for id in claims.release_dead(catalog, JobRow)]
    except Exception as error:  # the catalog is away: the leases lapse by themselves
        log.warning("could not look for what dead processes held: %s", error)
        return
    for task, id in rings:
        log.warning("%s %s: its process is dead; it goes on in another", task, id)
        messages.ring(app, task, id)


def _answer(run: Callable[[], None]) -> None:
    """Run a task so that Celery only ever sees it end well: how it really ended is in the catalog."""
    from worker.attempts import Stopped, stoppable

    try:
        with stoppable():
            run()
    except Stopped:  # the work has been given back; now end as we were told to
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    except Exception:  # the catalog is away: the lease lapses, or there was none
        log.exception("a task could not be begun or ended; the reconciler rings again")
