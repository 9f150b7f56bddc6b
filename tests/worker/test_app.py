import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from understudy import messages
from understudy.catalog import jobs
from understudy.records import JobState
from understudy.testing import picture
from worker import app as worker_app
from worker.attempts import STOP_SIGNALS, Stopped, attempt, stoppable

ROOT = Path(__file__).parents[2]
#: A worker may take this long to start and do its first task, on a busy machine.
PATIENCE_S = 60.0


def test_the_parent_of_a_pool_imports_nothing_that_starts_threads():
    """Engines, decoders and queries are imported by the children, after the fork."""
    code = (
        "import sys, worker.__main__, worker.app\n"
        "print(sorted({'onnxruntime', 'duckdb', 'pyarrow', 'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_tasks_are_those_that_others_ring_for(worker_settings):
    """By the names in ``messages``; building the application opens nothing."""
    tasks = worker_app.build(worker_settings).tasks
    assert {messages.UNPACK, messages.LABEL} <= set(tasks)
    assert not (worker_settings.data / "catalog.db").exists()


def test_a_task_never_raises_into_celery(worker_settings, caplog):
    """Not even when the catalog cannot be opened."""
    broken = worker_settings.model_copy(update={"catalog_url": "sqlite:////nowhere/at/all/catalog.db"})
    worker_app.build(broken).tasks[messages.UNPACK]("some job")
    assert "reconciler rings again" in caplog.text


def test_a_stop_in_the_middle_gives_the_work_back_unharmed(resources, send):
    """The attempt does not count; the next one may begin at once."""
    from understudy.catalog.tables import JobRow

    job = send(picture(0, 3, size=8))
    with pytest.raises(Stopped), stoppable():
        attempt(resources, JobRow, job.id, lambda claim: os.kill(os.getpid(), signal.SIGTERM))
    stopped = jobs.get(resources.catalog, job.id)
    assert (stopped.state, stopped.problem.code) == (JobState.QUEUED, "stopped")
    with resources.catalog.read() as session:
        row = session.get(JobRow, job.id)
        assert row.attempt - row.forgiven == 0


def test_signals_are_answered_as_before_after_a_task():
    """A child that is idle ends as Celery wants it to."""
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    with stoppable():
        assert [signal.getsignal(each) for each in STOP_SIGNALS] != before
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_a_real_worker_unpacks_and_stops(resources, send, redis_url):
    """``python -m worker``: from the ring to the receipt, through Redis, and a clean end at SIGTERM."""
    settings = resources.settings.model_copy(update={"broker_url": redis_url})
    environment = os.environ | settings.environment() | {"PYTHONPATH": str(ROOT)}
    job = send(picture(0, 3, size=8))
    app = messages.celery_app(redis_url)
    with subprocess.Popen([sys.executable, "-m", "worker"], env=environment, cwd=ROOT) as worker:
        try:
            assert messages.ring(app, messages.UNPACK, job.id)
            deadline, pause = time.monotonic() + PATIENCE_S, threading.Event()
            while not jobs.get(resources.catalog, job.id).state.is_ended and time.monotonic() < deadline:
                pause.wait(0.05)  # another process: there is nothing to wait on but the catalog
        finally:
            worker.terminate()
        assert worker.wait(PATIENCE_S) == 0
    app.close()
    assert jobs.get(resources.catalog, job.id).state is JobState.SUCCEEDED


@pytest.mark.parametrize(("arguments", "status"), [(["nonsense"], 2), (["reconcile"], 2)])
def test_a_bad_start_says_what_is_wrong(arguments, status):
    """Exit status 2 with the variable's name, and no trace."""
    environment = os.environ | {"UNDERSTUDY_RECONCILE_S": "never", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "worker", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == status
    assert "Traceback" not in done.stderr
