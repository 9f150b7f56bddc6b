"""``/exports`` over real HTTP and the command that downloads: ranges, checksums, and going on after a death."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from understudy import settings
from understudy.catalog import Catalog, claims, jobs
from understudy.catalog.tables import LabelSetRow
from understudy.cli import commands
from understudy.client import Client, RequestFailed
from understudy.records import ExportFile, ExportRequest, JobKind, Upload
from understudy.settings import WorkerSettings
from understudy.store import Store, export_file_key, upload_key
from understudy.testing import picture
from worker.export import export
from worker.label import label
from worker.resources import Resources
from worker.unpack import unpack

Opened = tuple[Catalog, Store]


@pytest.fixture
def resources(opened: Opened, tmp_path: Path, promote: Callable[..., str]) -> Resources:
    """A worker's, of the running service, with one labeled image in a bucket."""
    chosen = settings.read(WorkerSettings, data=tmp_path / "data", provider="cpu")
    held = Resources(*opened, chosen, lambda task, work_id: None)
    promote()
    job = jobs.open_upload(opened[0], JobKind.INGEST, bucket="b", params={})
    data = picture(0, 3, size=8)
    opened[1].put(upload_key(job.id, 0), data)
    jobs.received(opened[0], job.id, [Upload(key=upload_key(job.id, 0), name="a.png", num_bytes=len(data))])
    unpack(held, job.id)
    for label_set in claims.overdue(opened[0], LabelSetRow, limit=9):
        label(held, label_set)
    return held


@pytest.fixture
def exported(http: httpx.Client, resources: Resources) -> Callable[..., str]:
    """Ask for an export and run it; gives its id."""

    def run(**request: Any) -> str:
        answer = http.post("/exports", json=request)
        assert answer.status_code == 202
        export(resources, answer.json()["id"])
        return str(answer.json()["id"])

    return run


def test_a_file_is_downloaded_whole_or_by_a_range_of_its_bytes(
    http: httpx.Client, exported: Callable[..., str], opened: Opened
):
    """The first, the last, the middle; a range that is none asks for all, one past the end is refused."""
    export_id = exported(format="webdataset")
    name = http.get(f"/exports/{export_id}/files", params={"limit": 1}).json()["items"][0]["name"]
    path, data = f"/exports/{export_id}/files/{name}", opened[1].get(export_file_key(export_id, name))
    end = len(data)
    for asked, status, expected in (
        ("", 200, data),
        ("bytes=0-0", 206, data[:1]),
        ("bytes=100-", 206, data[100:]),
        ("bytes=-5", 206, data[-5:]),
        (f"bytes=5-{end + 9}", 206, data[5:]),
        ("bytes=9-3", 200, data),
        ("lines=1-2", 200, data),
    ):
        answer = http.get(path, headers={"Range": asked} if asked else {})
        assert (answer.status_code, answer.content) == (status, expected), asked
    assert http.get(path, headers={"Range": "bytes=-5"}).headers["content-range"] == f"bytes {end - 5}-{end - 1}/{end}"
    refused = http.get(path, headers={"Range": f"bytes={end}-"})
    assert (refused.status_code, refused.json()["code"]) == (416, "range_not_satisfiable")


def test_what_is_no_export_has_no_files(http: httpx.Client, resources: Resources):
    """An ingest job, an export that has not ended, a name that is in no list."""
    (ingest,) = http.get("/jobs").json()["items"]
    waiting = http.post("/exports", json={}, headers={"Idempotency-Key": "k"}).json()["id"]
    assert http.post("/exports", json={}, headers={"Idempotency-Key": "k"}).json()["id"] == waiting
    paths = (f"/exports/{ingest['id']}", f"/exports/{waiting}/files", f"/exports/{waiting}/files/SHA256SUMS")
    assert [http.get(path).json()["code"] for path in paths] == ["not_found"] * 3


def test_a_download_goes_on_and_is_checked(url: str, exported: Callable[..., str], tmp_path: Path):
    """What is there is not sent again; what is damaged is not kept."""
    export_id = exported(format="webdataset")
    with Client(url) as client:
        file = next(iter(client.export_files(export_id)))
        client.download(export_id, file, tmp_path / "whole")
        data = (tmp_path / "whole").read_bytes()
        (tmp_path / ".rest.part").write_bytes(data[:1000])
        client.download(export_id, file, tmp_path / "rest")
        assert (tmp_path / "rest").read_bytes() == data
        (tmp_path / ".bad.part").write_bytes(b"x" * 1000)
        with pytest.raises(RequestFailed, match="damaged"):
            client.download(export_id, file, tmp_path / "bad")
        client.download(export_id, file, tmp_path / "bad")
        assert (tmp_path / "bad").read_bytes() == data
        other = ExportFile(**file.model_dump() | {"name": "other"})
        with pytest.raises(RequestFailed, match="no file"):
            client.download(export_id, other, tmp_path / "other")


def test_the_command_makes_a_folder_and_goes_on_with_it(url: str, resources: Resources, tmp_path: Path):
    """A note says which export a folder is of, until it is whole; then nothing but the export is in it."""
    to = tmp_path / "out"
    to.mkdir()
    request = ExportRequest(format="imagefolder")  # type: ignore[arg-type]
    with Client(url) as client:
        job = client.export(request)
    export(resources, job.id)
    (to / ".understudy-export.json").write_text(json.dumps({"id": job.id, "request": request.model_dump(mode="json")}))
    words = ["export", "--format", "imagefolder", "--to", str(to), "--url", url]
    other = CliRunner().invoke(commands.app, [*words, "--bucket", "b"])
    assert "another export" in str(other.exception)
    done = CliRunner().invoke(commands.app, words)
    assert done.exception is None, done.exception
    assert done.stdout.startswith("1 pseudo-labels in")
    found = sorted(p.relative_to(to).as_posix() for p in to.rglob("*") if p.is_file())
    assert found[:2] == ["SHA256SUMS", "export.json"]
    assert [Path(name).suffix for name in found[2:]] == [".png"]
    assert "not empty" in str(CliRunner().invoke(commands.app, words).exception)
