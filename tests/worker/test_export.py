"""Exports: what is in the files, the same bytes each time, killed anywhere, and no stranger's name as a path."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from understudy import labels, registry
from understudy.catalog import buckets, claims, jobs, reviews
from understudy.catalog.reviews import Decided
from understudy.catalog.tables import LabelSetRow
from understudy.records import ExportRequest, Job, JobKind, JobState
from understudy.review_records import Verdict
from understudy.store import export_file_key, export_key
from understudy.testing import picture
from worker.export import class_folders, export
from worker.label import label
from worker.unpack import unpack

COLOURS = ("red", "green", "blue")
IMAGES = {hashlib.sha256(data).hexdigest(): data for data in (picture(n % 3, 3, seed=n, size=8) for n in range(5))}


@pytest.fixture
def labeled(resources, send, champion, pack_zip) -> None:
    """Two buckets with three label sets by the champion: four images, and one."""
    files = [(f"../{n}.png", data) for n, data in enumerate(IMAGES.values())]
    for bucket, some in (("b", files[:4]), ("c", files[4:])):
        unpack(resources, send(pack_zip({f"{n}.png": data for n, (_, data) in enumerate(some)}), bucket=bucket).id)
    for label_set in claims.overdue(resources.catalog, LabelSetRow, limit=9):
        label(resources, label_set)


@pytest.fixture
def exported(resources) -> Callable[..., Job]:
    """Run an export to its end."""

    def run(**request: Any) -> Job:
        params = {"request": ExportRequest(**request).model_dump(mode="json")}
        job = jobs.open_job(resources.catalog, JobKind.EXPORT, params=params)
        export(resources, job.id)
        return jobs.get(resources.catalog, job.id)

    return run


def files_of(resources, job: Job) -> dict[str, bytes]:
    """Every file of an export; what SHA256SUMS says of them is true."""
    assert job.state == JobState.SUCCEEDED, job.problem
    listed = json.loads(resources.store.get(export_key(job.id, "manifest.json")))
    found = {file["name"]: resources.store.get(export_file_key(job.id, file["name"])) for file in listed}
    for line in found["SHA256SUMS"].decode().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(found[name]).hexdigest() == digest
    assert all(len(found[file["name"]]) == file["num_bytes"] for file in listed)
    return found


def members_of(files: dict[str, bytes]) -> dict[str, bytes]:
    members = {}
    for name, data in files.items():
        if name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                members |= {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]
    return members


@pytest.mark.usefixtures("labeled")
def test_a_table_holds_what_fits_the_request(resources, exported):
    """Of a bucket, of a class, above a confidence: each filter is told by what is left."""

    def rows(**request: Any) -> list[dict[str, Any]]:
        files = files_of(resources, exported(**request))
        tables = [labels.table_from_parquet(data) for name, data in files.items() if name.endswith(".parquet")]
        return [row for table in tables for row in table.to_pylist()]

    every = rows()
    assert {row["sha256"] for row in every} == set(IMAGES)
    assert all(row["class"] == COLOURS[row["label"]] for row in every)
    assert len(rows(bucket="b")) == 4
    assert {row["class"] for row in rows(classes=("green",))} == {"green"}
    bar = sorted(row["confidence"] for row in every)[2]
    assert len(rows(min_confidence=bar)) == sum(row["confidence"] >= bar for row in every)


@pytest.mark.usefixtures("labeled")
def test_no_label_of_a_reviewed_image_is_exported(resources, exported, champion):
    """What a person says outranks it, whatever that is."""
    rejected, corrected = list(IMAGES)[:2]
    for sha256, class_name in ((rejected, None), (corrected, "red")):
        verdict = Verdict.REJECT if class_name is None else Verdict.CORRECT
        said = Decided(sha256, verdict, class_name, registry.champion(resources.catalog), "blue", 0.5)
        reviews.add(resources.catalog, [said], actor="me")

    after = members_of(files_of(resources, exported(format="imagefolder")))

    assert {name.split("/")[1][:-4] for name in after} == set(IMAGES) - {rejected, corrected}


@pytest.mark.usefixtures("labeled")
def test_the_three_layouts_with_images(resources, exported):
    """Each image once with its own bytes: by key, in its class' folder, and beside the metadata that names it."""
    web = members_of(files_of(resources, exported(format="webdataset")))
    assert {name[:-4]: data for name, data in web.items() if name.endswith(".png")} == IMAGES
    assert {json.loads(web[f"{sha256}.json"])["sha256"] for sha256 in IMAGES} == set(IMAGES)
    folders = members_of(files_of(resources, exported(format="imagefolder")))
    assert {name.split("/")[1][:-4]: data for name, data in folders.items()} == IMAGES
    assert {name.split("/")[0] for name in folders} <= set(COLOURS)
    hub = members_of(files_of(resources, exported(format="huggingface")))
    tables = {name: data.decode().splitlines() for name, data in hub.items() if name.endswith("metadata.csv")}
    assert {lines[0] for lines in tables.values()} == {"file_name,label,confidence"}
    named = {f"{name.rpartition('/')[0]}/{line.split(',')[0]}" for name, ls in tables.items() for line in ls[1:]}
    assert named == set(hub) - set(tables)


@pytest.mark.usefixtures("labeled")
def test_an_export_killed_at_any_write_ends_with_the_same_bytes(
    resources, exported, run_with_fuse, lapse_leases, champion
):
    """The parts that were written are not written again, and nothing differs."""
    expected = files_of(resources, exported(format="imagefolder"))
    params = {"request": ExportRequest(format="imagefolder").model_dump(mode="json")}
    num_deaths = 0
    for num_writes in range(1, 60, 7):
        job = jobs.open_job(resources.catalog, JobKind.EXPORT, params=params)
        has_died = run_with_fuse(num_writes, lambda mortal, job=job: export(mortal, job.id))
        num_deaths += has_died
        lapse_leases(resources.catalog)
        export(resources, job.id)
        assert files_of(resources, jobs.get(resources.catalog, job.id)) == expected
        if not has_died:
            break
    assert num_deaths > 2


@pytest.mark.usefixtures("labeled")
def test_what_cannot_be_exported_is_said(resources, exported):
    """No such class, nothing that fits, a version or a generation that is not there, a bucket deleted meanwhile."""
    for request, code in (
        ({"classes": ("grün",)}, "no_class"),
        ({"bucket": "none"}, "nothing_to_export"),
        ({"teacher": "none"}, "not_found"),
        ({"generation": 7}, "not_found"),
    ):
        ended = exported(**request)
        assert (ended.state, ended.problem and ended.problem.code) == (JobState.FAILED, code)
    job = jobs.open_job(resources.catalog, JobKind.EXPORT, params={"request": {"format": "imagefolder"}})
    for key in resources.store.list("shards/"):
        resources.store.delete(key)
    buckets.delete_bucket(resources.catalog, "c", actor="test")
    export(resources, job.id)
    problem = jobs.get(resources.catalog, job.id).problem
    assert problem is not None
    assert problem.code == "bucket_deleted"


def test_a_strangers_class_name_becomes_no_path():
    """Plain names stay; what escapes, hides, clashes or is a device is a number."""
    names = ["dog", "../../etc", "Cat", "cat", ".hidden", "con", "a/b", "größe", "", "x" * 200, "last ", "t-shirt"]
    folders = class_folders(names)
    assert [f for n, f in zip(names, folders, strict=True) if n == f] == ["dog", "t-shirt"]
    assert len({folder.lower() for folder in folders}) == len(names)
    assert all(set(folder) <= set("abcdefghijklmnopqrstuvwxyz-.0123456789") for folder in folders)
