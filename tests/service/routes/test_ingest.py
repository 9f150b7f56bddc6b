"""``POST /ingest`` over real HTTP: what arrives, what breaks off, what is refused."""

import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from understudy import messages
from understudy.catalog import Catalog, jobs
from understudy.catalog.idempotency import Key
from understudy.records import JobKind
from understudy.settings import ServiceSettings
from understudy.store import Store
from understudy.testing import picture

Opened = tuple[Catalog, Store]

#: Requests that contradict themselves, or ask for what is not there.
UNTENABLE: list[dict[str, Any]] = [
    {"recipe": "gigantic"},
    {"recipe": "fixres"},
    {"recipe": "finetune"},
    {"recipe": "paper", "student": "resnet50"},
    {"overrides": {"teacher_stepz": 1}},
    {"overrides": {"threshold": "high"}},
    {"overrides": {"pseudo_labels": "hard"}},
    {"overrides": {"start": "teacher"}},
    {"student": "efficientnet@width=wide"},
]


@pytest.fixture
def num_rung(redis_url: str) -> Callable[[], int]:
    """How many messages wait for an unpacking worker."""
    app = messages.celery_app(redis_url)
    return lambda: messages.num_waiting(app, messages.UNPACK)


def test_an_upload_is_safe_in_the_store_and_rung_for_when_202_is_answered(
    http: httpx.Client, opened: Opened, num_rung: Callable[[], int], until: Callable[..., None]
):
    """The job names what was sent; its bytes are in the store; a worker is told."""
    answer = http.post("/ingest", params={"bucket": "b", "name": "some.zip"}, content=b"PK" * 1000)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (job["state"], job["kind"], job["bucket"]) == ("queued", "ingest", "b")
    (upload,) = job["params"]["uploads"]
    assert opened[1].get(upload["key"]) == b"PK" * 1000
    assert upload["name"] == "some.zip"
    until(lambda: num_rung() == 1)
    assert http.get(answer.headers["location"]).json()["id"] == job["id"]
    assert [b["name"] for b in http.get("/buckets").json()["items"]] == ["b"]


def test_several_files_are_one_job(http: httpx.Client, opened: Opened):
    """Multipart: each file keeps its name, whatever is in it."""
    files = [("file", (f"../{i}.png", picture(i, 3))) for i in range(3)]
    job = http.post("/ingest", params={"bucket": "b"}, files=files).json()
    uploads = job["params"]["uploads"]
    assert [u["name"] for u in uploads] == ["../0.png", "../1.png", "../2.png"]
    assert [opened[1].get(u["key"]) for u in uploads] == [picture(i, 3) for i in range(3)]
    assert all(u["key"].startswith(f"uploads/{job['id']}/") for u in uploads)


def test_an_upload_cut_off_half_way_leaves_nothing_but_a_failed_job(
    url: str, http: httpx.Client, opened: Opened, until: Callable[..., None]
):
    """The client dies in the middle: no bytes stay, and the job says why."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(
            b"POST /ingest?bucket=b HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 3_000_000
        )
        until(lambda: len(http.get("/jobs").json()["items"]) == 1)
    until(lambda: http.get("/jobs").json()["items"][0]["state"] == "failed")
    job = http.get("/jobs").json()["items"][0]
    assert job["problem"]["code"] == "upload_broken"
    assert opened[1].list("uploads") == []
    assert http.get("/jobs/" + job["id"] + "/receipt").status_code == 404


def test_an_empty_upload_is_refused(http: httpx.Client, opened: Opened):
    """No bytes: 422, and the job that was opened for it has failed."""
    answer = http.post("/ingest", params={"bucket": "b"})
    assert (answer.status_code, answer.json()["code"]) == (422, "empty_upload")
    assert http.get("/jobs").json()["items"][0]["state"] == "failed"
    assert opened[1].list("uploads") == []


@pytest.mark.parametrize("bucket", ["", "Upper", "../up", "a/b", "-dash", "x" * 64, "a b"])
def test_a_bucket_name_that_could_be_a_path_is_refused(http: httpx.Client, bucket: str):
    """Names are lower case, short, and never a path."""
    answer = http.post("/ingest", params={"bucket": bucket}, content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert http.get("/buckets").json()["items"] == []


def test_a_body_over_the_limit_is_refused_and_forgotten(
    service_settings: ServiceSettings, served: Callable[..., object], opened: Opened
):
    """413; nothing stays in the store."""
    with (
        served(service_settings.model_copy(update={"max_upload_bytes": 1000})) as url,  # type: ignore[attr-defined]
        httpx.Client(base_url=url) as http,
    ):
        assert http.post("/ingest", params={"bucket": "b"}, content=b"x" * 2000).status_code == 413
        assert http.post("/ingest", params={"bucket": "b"}, content=iter([b"x" * 2000])).status_code == 413
    assert opened[1].list("uploads") == []


def test_a_safetensors_file_is_stored_by_its_content_and_anything_else_refused(http: httpx.Client, opened: Opened):
    """No pickle is taken."""
    file = (2).to_bytes(8, "little") + b"{}" + b"\0" * 100
    answer = http.post("/weights", content=file)
    assert answer.status_code == 201
    assert opened[1].get(f"weights/{answer.json()['sha256']}.safetensors") == file
    for bad in (b"\x80\x04pickle" * 10, b"short"):
        refused = http.post("/weights", content=bad)
        assert (refused.status_code, refused.json()["code"]) == (422, "not_safetensors")
    assert opened[1].list("uploads") == []


def test_recipe_fields_come_as_json_and_anything_else_is_refused(http: httpx.Client):
    """What was asked of generation 0 is in the job, for the worker that opens it."""
    job = http.post("/labeled", params={"overrides": '{"size": 24}', "recipe": "tiny"}, content=b"PK").json()
    assert job["params"]["request"]["overrides"] == {"size": 24}
    assert http.post("/labeled", params={"overrides": "size=24"}, content=b"PK").status_code == 422


@pytest.mark.parametrize("request_", UNTENABLE, ids=str)
def test_what_no_trainer_could_do_is_refused_with_the_request(
    http: httpx.Client, opened: Opened, request_: dict[str, Any]
):
    """422 at once, for the labeled set and for a generation, and no job that fails later."""
    query = request_ | {"overrides": json.dumps(request_.get("overrides", {}))}
    for answer in (http.post("/generations", json=request_), http.post("/labeled", params=query, content=b"PK")):
        assert (answer.status_code, answer.json()["code"]) == (422, "recipe_refused"), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert http.get("/jobs").json()["items"] == []
    assert opened[1].list("uploads") == []


def test_weights_that_were_never_uploaded_are_a_conflict(http: httpx.Client, opened: Opened):
    """The request is well formed; what it names is missing."""
    named = {"weights": "0" * 64}
    for answer in (http.post("/generations", json=named), http.post("/labeled", params=named, content=b"PK")):
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict"), answer.text
        assert "upload them first" in answer.json()["detail"]
    assert http.get("/jobs").json()["items"] == []
    assert opened[1].list("uploads") == []


def test_a_generation_without_a_labeled_set_says_what_is_missing(http: httpx.Client):
    """503 with the command that brings one."""
    answer = http.post("/generations", json={})
    assert answer.status_code == 503
    assert "understudy init" in answer.json()["detail"]


def test_the_same_request_with_the_same_key_is_one_job(http: httpx.Client, opened: Opened):
    """Raw or as a form, whose boundary is another each time; what came second is not kept."""
    headers = {"Idempotency-Key": "one"}
    first, again = (http.post("/ingest?bucket=b", content=b"PK" * 99, headers=headers) for _ in range(2))
    assert first.status_code == again.status_code == 202
    assert first.json()["id"] == again.json()["id"]
    headers = {"Idempotency-Key": "two"}
    files = [("file", (f"{i}.png", picture(i, 3))) for i in range(2)]
    first, again = (http.post("/ingest?bucket=b", files=files, headers=headers) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    assert len(http.get("/jobs").json()["items"]) == 2
    assert len(opened[1].list("uploads/")) == 3


@pytest.mark.parametrize(
    ("query", "body"), [("bucket=b", b"other"), ("bucket=c", b"PK" * 99), ("bucket=b&name=x", b"PK" * 99)]
)
def test_another_request_with_the_same_key_is_refused(http: httpx.Client, query: str, body: bytes):
    """Other bytes, another bucket, another name: 409, and the first job stays what it was."""
    headers = {"Idempotency-Key": "one"}
    http.post("/ingest?bucket=b", content=b"PK" * 99, headers=headers)
    answer = http.post(f"/ingest?{query}", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_mismatch")
    assert len(http.get("/jobs").json()["items"]) == 1


def test_an_upload_that_broke_off_does_not_use_up_its_key(http: httpx.Client):
    """The empty one is refused; the whole one that follows is taken."""
    headers = {"Idempotency-Key": "one"}
    assert http.post("/ingest?bucket=b", content=b"", headers=headers).status_code == 422
    assert http.post("/ingest?bucket=b", content=b"PK", headers=headers).status_code == 202


def test_twins_that_arrive_at_once_are_one_job(http: httpx.Client, opened: Opened):
    """Neither has found the other before its own end."""
    catalog, _ = opened
    ids = [jobs.open_upload(catalog, JobKind.INGEST, bucket="b", params={}).id for _ in range(2)]
    key = Key.of("anonymous", "ingest", "k")
    settled = [jobs.received(catalog, each, [], key=key, fingerprint="f").id for each in ids]
    assert settled == [ids[0], ids[0]]
    assert [job.id for job in jobs.recent(catalog, limit=9)] == [ids[0]]
