"""``/uploads`` over real HTTP: parts in any order, twice, damaged, missing, and across the death of both ends."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from service.routes import uploads
from understudy import messages
from understudy.catalog import Catalog, jobs
from understudy.catalog.tables import JobRow
from understudy.client import Client, RequestFailed
from understudy.packing import Packed
from understudy.records import JobState, Problem
from understudy.store import Store, upload_key
from worker import uploads as arrived

Opened = tuple[Catalog, Store]
PART = uploads.PART_BYTES
DATA = bytes(range(251)) * (2 * PART // 251 + 1) + b"the end"  # two parts and a bit


@pytest.fixture
def begin(http: httpx.Client) -> Callable[..., dict[str, Any]]:
    """Begin an upload of ``DATA``."""

    def begun(key: str | None = None, **changed: Any) -> dict[str, Any]:
        body = {"bucket": "b", "name": "some.tar", "num_bytes": len(DATA)} | changed
        answer = http.post("/uploads", json=body, headers={"Idempotency-Key": key} if key else {})
        return answer.json() | {"answered": answer.status_code}

    return begun


def put(http: httpx.Client, upload: str, number: int, data: bytes | None = None, sha256: str = "") -> httpx.Response:
    data = DATA[number * PART : (number + 1) * PART] if data is None else data
    query = {"sha256": sha256 or hashlib.sha256(data).hexdigest()}
    return http.put(f"/uploads/{upload}/parts/{number}", params=query, content=data)


def test_parts_become_one_upload_whatever_their_order_and_number(
    http: httpx.Client, begin: Callable[..., dict[str, Any]], opened: Opened, app: messages.Broker
):
    """The second is sent first, one twice; a worker reads them as the one archive that was sent."""
    begun = begin()
    assert (begun["answered"], begun["state"], begun["num_parts"]) == (201, "receiving", 3)
    for number in (1, 0, 1, 2):
        assert put(http, begun["id"], number).status_code == 200
    assert http.get(f"/uploads/{begun['id']}").json()["missing"] == []
    first, second = (http.post(f"/uploads/{begun['id']}/complete") for _ in range(2))
    assert (first.status_code, first.json()["state"]) == (202, "queued")
    assert first.json()["id"] == second.json()["id"] == begun["id"]

    (upload,) = arrived.of_job(jobs.get(opened[0], begun["id"]))
    with arrived._bytes_of(opened[1], upload) as file:
        assert file.read() == DATA
        file.seek(PART - 3)
        assert file.read(7) == DATA[PART - 3 : PART + 4]


def test_what_is_wrong_with_a_part_is_said_and_nothing_of_it_is_kept(
    http: httpx.Client, begin: Callable[..., dict[str, Any]]
):
    """Damaged on the way, too short, too long, without a place, of another file; and completing too early."""
    upload = begin()["id"]
    refused = [
        (put(http, upload, 0, sha256="0" * 64), 422, "damaged_part"),
        (put(http, upload, 0, b"short"), 422, "wrong_part_size"),
        (put(http, upload, 0, bytes(PART + 1)), 422, "wrong_part_size"),
        (put(http, upload, 3, b"x"), 422, "no_such_part"),
        (http.post(f"/uploads/{upload}/complete"), 409, "parts_missing"),
        (put(http, "unknown", 0), 404, "not_found"),
    ]
    assert [(a.status_code, a.json()["code"]) for a, _, _ in refused] == [(status, code) for _, status, code in refused]
    assert http.get(f"/uploads/{upload}").json()["missing"] == [0, 1, 2]
    put(http, upload, 0)
    other = put(http, upload, 0, bytes(PART))
    assert (other.status_code, other.json()["code"]) == (409, "part_mismatch")


def test_an_upload_that_is_too_large_is_refused_before_its_first_byte(begin: Callable[..., dict[str, Any]]):
    """With the limit."""
    answer = begin(num_bytes=2**50)
    assert (answer["answered"], answer["code"]) == (413, "body_too_large")
    assert "limit is" in answer["detail"]


def test_a_key_finds_its_upload_again_and_refuses_another(
    begin: Callable[..., dict[str, Any]], http: httpx.Client, opened: Opened
):
    """Also when the upload is complete; but not when it was given up, for then its bytes are gone."""
    first = begin("k")
    put(http, first["id"], 1)
    again = begin("k")
    assert (again["id"], again["missing"]) == (first["id"], [0, 2])
    assert (begin("k", name="other")["answered"], begin("k", name="other")["code"]) == (409, "idempotency_mismatch")
    jobs.fail_upload(opened[0], first["id"], Problem(code="upload_broken", detail="silent"))
    late = put(http, first["id"], 0)
    assert (late.status_code, late.json()["code"]) == (409, "conflict")
    assert begin("k")["id"] != first["id"]


def test_parts_in_the_store_outlive_both_ends(
    url: str, served: Callable[..., Any], service_settings: Any, opened: Opened
):
    """The client breaks off, the service ends and another one begins: only what is missing is sent, once."""
    sent: list[int] = []

    class BreaksOff(Exception):
        pass

    def read(offset: int):
        sent.append(offset)
        if len(sent) == 2:
            raise BreaksOff
        yield DATA[offset:]

    packed = Packed("some.tar", len(DATA), "identity", read)
    with Client(url) as client, pytest.raises(BreaksOff):
        client.upload("b", packed, key="k")
    with served(service_settings) as another, Client(another) as client:
        job = client.upload("b", packed, key="k")
        assert client.upload("b", packed, key="k").id == job.id
    assert sent == [0, PART, PART, 2 * PART]
    assert job.state == JobState.QUEUED
    assert sum(len(opened[1].get(key)) for key in opened[1].list(f"uploads/{job.id}/")) == len(DATA)
    assert upload_key(job.id, 0) == job.params["uploads"][0]["key"]


def test_a_silent_upload_in_parts_is_given_up_later_than_another(begin: Callable[..., dict[str, Any]], opened: Opened):
    """An hour is too long for a request, and not for a client that may come back."""
    upload = begin()["id"]
    other = jobs.open_upload(opened[0], "ingest", bucket="b", params={}).id  # type: ignore[arg-type]
    with opened[0].write() as session:
        session.execute(update(JobRow).values(updated_at=JobRow.updated_at - 3600))
    stale = jobs.stale_uploads(opened[0], older_than_s=600, in_parts_older_than_s=7200)
    assert [job.id for job in stale] == [other]
    assert {j.id for j in jobs.stale_uploads(opened[0], older_than_s=600)} == {other, upload}


def test_a_service_that_is_away_too_long_is_told(begin: Callable[..., dict[str, Any]], url: str):
    """What is refused is not tried again."""
    with Client(url, patience_s=0) as client, pytest.raises(RequestFailed, match="limit is"):
        client.upload("b", Packed("x", 2**50, "", lambda offset: iter([b""])))


def test_an_upload_survives_kill_9_of_client_and_service(
    start_service: Callable[..., Any], opened: Opened, tmp_path: Path, until: Callable[..., None]
):
    """Both die in the middle; the same command at another service sends what is missing, and every byte is there once."""
    catalog, store = opened
    file = tmp_path / "large.tar"
    with file.open("wb") as sparse:
        for number in range(12):  # no two parts are alike
            sparse.seek(number * PART)
            sparse.write(bytes([number]) * 999)
        sparse.truncate(12 * PART - 5)
    command = [sys.executable, "-m", "understudy", "ingest", str(file), "--no-wait", "--json", "--url"]
    first = start_service()
    with subprocess.Popen([*command, first.url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        until(lambda: len(store.list("uploads/")) >= 2)
        first.process.kill()
        client.kill()
    (broken,) = jobs.recent(catalog, limit=9)
    assert broken.state == JobState.RECEIVING
    num_there = len(store.list("uploads/"))

    second = start_service()
    done = subprocess.run([*command, second.url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (job,) = json.loads(done.stdout)
    assert (job["id"], job["state"]) == (broken.id, "queued")
    num_sent = sum(each.get("path", "").endswith(tuple(f"/parts/{n}" for n in range(12))) for each in second.log)
    assert num_sent <= 12 - num_there + 1
    (upload,) = arrived.of_job(jobs.get(catalog, job["id"]))
    with arrived._bytes_of(store, upload) as sent, file.open("rb") as original:
        assert hashlib.file_digest(sent, "sha256").digest() == hashlib.file_digest(original, "sha256").digest()
