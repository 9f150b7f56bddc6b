"""``python -m worker``: the Celery worker. ``python -m worker reconcile``: the reconciler."""

import signal
import sys
import threading
import warnings

from understudy import messages, settings
from understudy.catalog import Catalog
from understudy.errors import SettingsRefused
from understudy.settings import WorkerSettings
from understudy.store import Store
from understudy.telemetry import configure_logging


def main(arguments: list[str]) -> int:
    """Run one of the two until it is told to stop; gives the exit status."""
    if arguments not in ([], ["reconcile"]):
        print("usage: python -m worker [reconcile]", file=sys.stderr)
        return 2
    try:
        read = settings.read(WorkerSettings)
        configure_logging(read.log_format)
        _migrate(read)
    except SettingsRefused as refused:
        print(refused, file=sys.stderr)
        return 2
    return _reconcile(read) if arguments else _work(read)


def _migrate(read: WorkerSettings) -> None:
    catalog = Catalog(read.catalog_url)
    try:
        catalog.migrate()
    finally:
        catalog.close()  # before any fork


def _work(read: WorkerSettings) -> int:
    settings.stop_celery_softly()
    from worker import app

    # In a container the only user is often root; what Celery warns of is pickle, which is off.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    worker = app.build(read).Worker(
        pool_cls="prefork",
        concurrency=read.concurrency,
        queues=sorted(messages.QUEUES.values()),
        without_gossip=True,
        without_mingle=True,
        quiet=True,
        loglevel="INFO",
        redirect_stdouts=False,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _reconcile(read: WorkerSettings) -> int:
    from worker import reconcile, webhooks
    from worker.fetching import Fetcher

    stopped = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stopped.set())
    catalog = Catalog(read.catalog_url)
    try:
        app = messages.celery_app(read.broker_url)
        with webhooks.delivering(catalog, Fetcher(read.hook_allowance), read.hook_allowance):
            reconcile.run(catalog, Store(read.store_url), app, read, stopped)
    finally:
        catalog.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
