"""``/sources`` over real HTTP: what is named, what is refused, and what workers are told of."""

from collections.abc import Callable

import httpx
import pytest

from service.routes import sources
from understudy import addresses, messages
from understudy.catalog import Catalog, jobs
from understudy.catalog.tables import JobRow
from understudy.errors import SourceRefused
from understudy.records import JobState
from understudy.store import Store

Opened = tuple[Catalog, Store]
URL = "s3://some-bucket/photos/"


def test_a_source_is_a_job_that_workers_are_told_of(http: httpx.Client, redis_url: str, until: Callable[..., None]):
    """Named twice, it is one source; while its sync waits, that sync is the answer."""
    answer = http.post("/sources", json={"bucket": "b", "url": URL})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["state"], job["bucket"], job["params"]["url"]) == ("sync", "queued", "b", URL)
    until(lambda: messages.num_waiting(messages.celery_app(redis_url), messages.UNPACK) >= 1)
    assert http.post("/sources", json={"bucket": "b", "url": URL}).json()["id"] == job["id"]
    (source,) = http.get("/sources").json()["items"]
    assert (source["url"], source["bucket"], source["job"], source["objects"]) == (URL, "b", job["id"], None)
    one = http.get(f"/sources/{source['id']}").json()
    assert one["objects"] == {"num_taken": 0, "num_underway": 0, "num_failed": 0}
    assert [b["name"] for b in http.get("/buckets").json()["items"]] == ["b"]


def test_a_sync_that_has_ended_is_followed_by_another(http: httpx.Client, opened: Opened):
    """With a job of its own; an unknown source has none."""
    job = http.post("/sources", json={"bucket": "b", "url": URL}).json()
    with opened[0].write() as session:
        session.get_one(JobRow, job["id"]).state = JobState.FAILED
    again = http.post(f"/sources/{job['params']['source']}/sync")
    assert again.status_code == 202
    assert again.json()["id"] != job["id"]
    assert http.post("/sources/none/sync").status_code == 404
    assert http.get("/sources/none").status_code == 404


def test_sources_come_in_pages(http: httpx.Client):
    """The cursor of one page asks for the next; together they are all."""
    for n in range(3):
        http.post("/sources", json={"bucket": "b", "url": f"{URL}{n}"})
    first = http.get("/sources", params={"limit": 2}).json()
    rest = http.get("/sources", params={"limit": 2, "cursor": first["next"]}).json()
    assert (len(first["items"]), len(rest["items"]), rest["next"]) == (2, 1, None)
    assert len({each["url"] for each in first["items"] + rest["items"]}) == 3


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ("/etc/passwd", "scheme_refused"),
        ("file:///etc/passwd", "scheme_refused"),
        ("https://user:secret-word@example.org/a.zip", "credentials_in_url"),
        ("https://169.254.169.254/latest/meta-data", "address_refused"),
        ("https://[::1]:6379/", "address_refused"),
    ],
)
def test_what_is_no_source_is_a_422_and_leaves_nothing(http: httpx.Client, named: str, code: str):
    """The problem says what to do, and repeats no secret."""
    answer = http.post("/sources", json={"bucket": "b", "url": named})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert "secret-word" not in answer.text
    assert http.get("/sources").json()["items"] == []
    assert http.get("/buckets").json()["items"] == []


@pytest.mark.parametrize("named", ["s3://own/", "s3://own/data/shards/", "s3://own/data"])
def test_our_own_store_is_no_source(named: str):
    """Neither all of it nor a part; what lies beside it is."""
    with pytest.raises(SourceRefused) as refused:
        sources._refuse_own_store(addresses.parse(named), "s3://own/data/")
    assert refused.value.code == "own_store"
    sources._refuse_own_store(addresses.parse("s3://own/other/"), "s3://own/data")
    sources._refuse_own_store(addresses.parse("s3://others/data/"), "s3://own/data")


def test_a_retry_of_a_failed_sync_is_possible(http: httpx.Client, opened: Opened):
    """As of any job that failed by a fault of ours."""
    job = http.post("/sources", json={"bucket": "b", "url": URL}).json()
    with opened[0].write() as session:
        row = session.get_one(JobRow, job["id"])
        row.state, row.problem = JobState.FAILED, {"code": "worker_fault", "detail": "x"}
    assert http.post(f"/jobs/{job['id']}/retry").status_code == 202
    assert jobs.get(opened[0], job["id"]).state is JobState.QUEUED
