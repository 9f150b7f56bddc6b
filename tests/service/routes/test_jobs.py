"""Jobs over real HTTP: what they say, their receipts in parts, and another try after a fault of ours."""

import httpx
import pytest

from understudy import labels
from understudy.catalog import Catalog, claims, jobs
from understudy.catalog.tables import JobRow
from understudy.records import Job, Outcome, Problem, ReceiptEntry
from understudy.store import Store, receipt_key


@pytest.fixture
def sent(http: httpx.Client) -> str:
    """The id of a job whose upload has arrived."""
    return str(http.post("/ingest", params={"bucket": "b"}, content=b"PK" * 100).json()["id"])


def test_jobs_are_listed_the_newest_first_and_an_unknown_one_is_a_404(http: httpx.Client, sent: str):
    """Each is the same document alone and in the list."""
    newer = http.post("/ingest", params={"bucket": "b"}, content=b"PK" * 100).json()["id"]
    listed = http.get("/jobs").json()["items"]
    assert [job["id"] for job in listed] == [newer, sent]
    assert http.get(f"/jobs/{sent}").json() == listed[1]
    assert Job(**listed[1]).created_at == pytest.approx(Job(**listed[0]).created_at, abs=60)
    missing = http.get("/jobs/none")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


def test_a_receipt_is_read_in_parts_that_make_the_whole(http: httpx.Client, sent: str, opened: tuple[Catalog, Store]):
    """``next`` leads from part to part and ends with the last."""
    catalog, store = opened
    claim = claims.claim(catalog, JobRow, sent, lease_s=60)
    assert claim is not None
    lines = [ReceiptEntry(index=i, name=f"<{i}>", outcome=Outcome.QUARANTINED, reason="empty") for i in range(5)]
    key = receipt_key(sent, claim.attempt)
    store.put(key, labels.receipt_to_parquet(lines))
    with catalog.write() as session:
        jobs.succeed(session, claim, {"entries": 5, "receipt_key": key})

    read: list[ReceiptEntry] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = http.get(f"/jobs/{sent}/receipt", params={"cursor": cursor, "limit": 2}).json()
        read += [ReceiptEntry(**item) for item in page["items"]]
        cursor = page["next"]
    assert read == lines


def test_an_upload_that_failed_by_our_fault_can_be_tried_again_and_no_other(
    http: httpx.Client, sent: str, opened: tuple[Catalog, Store]
):
    """202 and queued; 409 while it waits, and for one that was refused for what it is."""
    catalog, _ = opened
    refused = http.post("/ingest", params={"bucket": "b"}).json()
    assert refused["code"] == "empty_upload"
    (empty,) = [job["id"] for job in http.get("/jobs").json()["items"] if job["id"] != sent]
    assert http.post(f"/jobs/{empty}/retry").status_code == 409
    assert http.post(f"/jobs/{sent}/retry").status_code == 409

    claim = claims.claim(catalog, JobRow, sent, lease_s=60)
    assert claim is not None
    jobs.fail(catalog, claim, Problem(code=claims.GAVE_UP, detail="its worker died"))
    answer = http.post(f"/jobs/{sent}/retry")
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert http.post("/jobs/none/retry").status_code == 404
