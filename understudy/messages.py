"""The queue: Celery's settings, the names of the tasks, and how to ring.

A message is a doorbell. It carries one id and no more; the work is a row in the catalog already, and
a message that is lost costs time only, because the reconciler rings again. The settings follow from that.
"""

import logging
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from understudy.errors import NotReady

log = logging.getLogger(__name__)

#: What to ring with, for programs that send messages and run no tasks.
Broker = Celery

UNPACK = "understudy.unpack"  #: one job id: take an upload apart into shards
LABEL = "understudy.label"  #: one label-set id: pseudo-label a shard

EXPORT = "understudy.export"  #: one job id: write an export's files

QUEUES = {UNPACK: "unpack", LABEL: "label", EXPORT: "export"}

#: The hard limit of labeling a shard: 1,000 large photos on a slow CPU stay well below it.
TASK_LIMIT_S = 3600
#: A child that has grown beyond this ends after its task, and another takes its place. An engine with its buffers takes
#: 1 GB, the images ahead of it 64 MB, the receipt of a million entries 1 GB: what grows further is a leak.
CHILD_MEMORY_KB = 6 * 2**20
#: Redelivery by the broker is only the second line (the lease is the first), and should not be
#: earlier than a usual task's end: what comes again finds its work claimed, and has cost a message.
VISIBILITY_TIMEOUT_S = 2 * TASK_LIMIT_S


def celery_app(broker_url: str) -> Celery:
    """The Celery application of one broker, the same in every program."""
    app = Celery("understudy", broker=broker_url)
    app.conf.update(
        task_routes={name: {"queue": queue} for name, queue in QUEUES.items()},
        task_ignore_result=True,  # results live in the catalog
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # a task that kills its process must not come back at once, for ever
        worker_prefetch_multiplier=1,
        task_serializer="json",
        accept_content=["json"],
        task_annotations={LABEL: {"time_limit": TASK_LIMIT_S}},  # an upload may take as long as it is large
        worker_send_task_events=False,
        worker_lost_wait=0.5,  # for a dead child's result, which nobody wants; until then its slot takes no other task
        worker_proc_alive_timeout=60,  # a child imports the engine's library before it answers
        worker_max_tasks_per_child=200,
        worker_max_memory_per_child=CHILD_MEMORY_KB,
        worker_hijack_root_logger=False,
        worker_soft_shutdown_timeout=10.0,
        worker_enable_soft_shutdown_on_idle=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": 3,
            "socket_timeout": 10,
            "max_retries": 1,
        },
    )
    return app


def ring(app: Celery, task: str, work_id: str | int) -> bool:
    """Tell the workers of one piece of work. False if nobody could be told: the reconciler will."""
    try:
        app.send_task(task, args=[work_id], retry=False)
    except (OperationalError, OSError) as error:
        log.warning("could not ring for %s %s (%s); the reconciler rings again", task, work_id, error)
        return False
    return True


def look(app: Celery) -> dict[str, Any]:
    """What the broker says of itself (Redis' INFO). Raises NotReady when it does not answer."""
    with app.connection_for_read() as connection:
        try:
            return dict(connection.default_channel.client.info())
        except (*connection.connection_errors, *connection.channel_errors) as error:
            raise NotReady(f"Redis does not answer: {error}") from error


def num_waiting(app: Celery, task: str) -> int:
    """How many messages of a task wait in the queue. Raises OperationalError when Redis is away or full."""
    with app.connection_for_read() as connection:
        try:
            return int(connection.default_channel._size(QUEUES[task]))
        except (*connection.connection_errors, *connection.channel_errors) as error:  # lost meanwhile, or Redis is full
            raise OperationalError(str(error)) from error
