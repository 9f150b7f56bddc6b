"""Jobs over real HTTP: what they say, their receipts in parts, and another try after a fault of ours."""

import csv
import io
import json

import httpx
import pytest

from understudy import images, labels
from understudy.catalog import Catalog, claims, jobs
from understudy.catalog.tables import JobRow
from understudy.records import Job, Outcome, Problem, ReceiptEntry
from understudy.store import Store, quarantine_key, receipt_key
from understudy.testing import picture


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


@pytest.fixture
def ended(http: httpx.Client, sent: str, opened: tuple[Catalog, Store]) -> str:
    """A job that has ended, with a receipt of some thousand lines, and two of its entries kept in quarantine."""
    catalog, store = opened
    claim = claims.claim(catalog, JobRow, sent, lease_s=60)
    assert claim is not None
    names = ["=HYPERLINK(evil)", 'a "quoted", name\nof two lines', *[f"{n}.jpg" for n in range(1198)]]
    lines = [
        ReceiptEntry(index=i, name=name, outcome=Outcome.QUARANTINED if i < 2 else Outcome.ACCEPTED)
        for i, name in enumerate(names)
    ]
    store.put(receipt_key(sent, 1), labels.receipt_to_parquet(lines))
    store.put(quarantine_key(sent, 0), b"<script>")
    store.put(quarantine_key(sent, 1), b"more")
    with catalog.write() as session:
        jobs.succeed(session, claim, {"entries": 1200, "receipt_key": receipt_key(sent, 1)})
    return sent


def test_a_receipt_comes_as_csv_that_is_safe_to_open(http: httpx.Client, ended: str):
    """Every line once; what a spreadsheet would take for a formula is text."""
    answer = http.get(f"/jobs/{ended}/receipt", params={"format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith("attachment")
    header, *rows = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert header == list(ReceiptEntry.model_fields)
    assert [row[0] for row in rows] == [str(n) for n in range(1200)]
    assert [row[1] for row in rows[:3]] == ["'=HYPERLINK(evil)", 'a "quoted", name\nof two lines', "0.jpg"]


def test_a_receipt_comes_as_ndjson_by_what_the_client_accepts(http: httpx.Client, ended: str):
    """Whole or the lines of one outcome; with another Accept it is JSON in pages."""
    accept = {"Accept": "application/x-ndjson;q=0.9, */*;q=0.1"}
    lines = [
        ReceiptEntry(**json.loads(line)) for line in http.get(f"/jobs/{ended}/receipt", headers=accept).iter_lines()
    ]
    assert [line.index for line in lines] == list(range(1200))
    some = http.get(f"/jobs/{ended}/receipt", headers=accept, params={"only": "quarantined"}).text.splitlines()
    assert len(some) == 2
    for other in ("*/*", "application/json, text/csv", "text/html"):
        assert len(http.get(f"/jobs/{ended}/receipt", headers={"Accept": other}).json()["items"]) == 1000
    assert http.get(f"/jobs/{ended}/receipt", params={"format": "xml"}).status_code == 422


def test_quarantined_bytes_are_given_out_so_that_no_browser_runs_them(http: httpx.Client, ended: str):
    """As an attachment of no kind; 404 for what is not kept, and for an unknown job."""
    answer = http.get(f"/jobs/{ended}/quarantine/0")
    assert (answer.content, answer.headers["content-type"]) == (b"<script>", "application/octet-stream")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert [http.get(f"/jobs/{path}").status_code for path in (f"{ended}/quarantine/7", "none/quarantine/0")] == [
        404
    ] * 2


def test_a_quarantined_entry_is_shown_where_it_can_be(http: httpx.Client, ended: str, opened: tuple[Catalog, Store]):
    """As a JPEG made anew; 422 where nothing can be seen, 404 where nothing is kept."""
    opened[1].put(quarantine_key(ended, 2), picture(0, 3, size=64, image_format="JPEG")[:-200])
    shown = http.get(f"/jobs/{ended}/quarantine/2", params={"size": 32})
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/jpeg")
    assert images.inspect(shown.content).width == 32
    refused = http.get(f"/jobs/{ended}/quarantine/0", params={"size": 32})
    assert (refused.status_code, refused.json()["code"]) == (422, "no_preview")
    assert http.get(f"/jobs/{ended}/quarantine/9", params={"size": 32}).status_code == 404


def test_a_quarantine_is_tried_again_as_a_job_of_its_own(http: httpx.Client, ended: str, opened: tuple[Catalog, Store]):
    """In the same bucket, with what is kept; 409 if nothing is."""
    again = http.post(f"/jobs/{ended}/quarantine/retry")
    assert again.status_code == 202
    job = Job(**again.json())
    assert (job.bucket, job.state.value) == ("b", "queued")
    assert [(u["name"], u["num_bytes"]) for u in job.params["uploads"]] == [(f"{ended}/0", 8), (f"{ended}/1", 4)]
    nothing = http.post(f"/jobs/{job.id}/quarantine/retry")
    assert (nothing.status_code, nothing.json()["code"]) == (409, "conflict")
