"""``understudy sources``, ``sync`` and ``ingest`` of a URL: a real service answers, real workers' code fetches."""

import json
import os
import threading
from collections.abc import Callable, Iterator

import boto3
import pytest
from typer.testing import Result

from understudy import settings
from understudy.catalog import Catalog, claims
from understudy.catalog.tables import JobRow
from understudy.errors import UnderstudyError
from understudy.settings import ServiceSettings, WorkerSettings
from understudy.store import Store
from understudy.testing import picture
from worker.resources import Resources
from worker.unpack import unpack


@pytest.fixture
def working(opened: tuple[Catalog, Store], service_settings: ServiceSettings) -> Iterator[None]:
    """A worker that does what waits, in this process."""
    chosen = settings.read(
        WorkerSettings, **{name: getattr(service_settings, name) for name in ("data", "catalog_url", "store_url")}
    )
    resources = Resources(*opened, chosen, lambda task, work_id: None)
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(0.05):
            for job_id in claims.overdue(opened[0], JobRow, limit=10):
                unpack(resources, job_id)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    stopped.set()
    thread.join()


def test_a_prefix_is_ingested_listed_and_synced(run: Callable[..., Result], s3_url: str, working: None):
    """One line says what was new, and that the second time nothing was."""
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    for n in range(2):
        client.put_object(Bucket="understudy", Key=f"cli/{n}.png", Body=picture(n, 3, seed=n, size=8))
    first = run("ingest", "s3://understudy/cli/", "--bucket", "photos")
    assert first.exit_code == 0, first.output
    assert "2 objects listed: 2 new, 0 known; 2 accepted" in first.output
    shown = json.loads(run("sources", "--json").stdout)
    assert [(each["url"], each["objects"]["num_taken"]) for each in shown] == [("s3://understudy/cli/", 2)]
    assert "s3://understudy/cli/" in run("sources").output
    again = run("sync", shown[0]["id"])
    assert "2 objects listed: 0 new, 2 known" in again.output
    said = json.loads(run("sync", shown[0]["id"], "--json").stdout)
    assert (said["kind"], said["state"]) == ("sync", "succeeded")
    assert (said["result"]["new"], said["result"]["unchanged"], said["result"]["jobs"]) == (0, 2, [])
    (ingested,) = json.loads(run("ingest", "s3://understudy/cli/", "--bucket", "photos", "--json").stdout)
    assert (ingested["kind"], ingested["result"]["unchanged"]) == ("sync", 2)


def test_a_failure_is_one_line(run: Callable[..., Result], s3_url: str, working: None):
    """Refused by the service at once, or by the workers later."""
    refused = run("ingest", "https://127.0.0.1/a.zip").exception
    assert isinstance(refused, UnderstudyError)
    assert "127.0.0.1 is a private" in str(refused)
    failed = run("ingest", "s3://no-such-bucket/x/").exception
    assert isinstance(failed, UnderstudyError)
    assert "source_missing" in str(failed)
    assert run("ingest", "/no/such/path").exit_code == 2


def test_without_waiting_the_job_is_named(run: Callable[..., Result]):
    """For scripts that look later."""
    assert run("ingest", "s3://understudy/later/", "--no-wait").stdout.startswith("job ")
