"""The export task: pseudo-labels, with their images or without, as files with checksums.

One file for each label set that has any row, so that an export which is killed goes on at the next file. What is
exported is frozen in a plan first; the same plan gives the same bytes. No name that a stranger chose becomes a path.
"""

import csv
import functools
import hashlib
import io
import json
import logging
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy import labels, registry
from understudy.catalog import generations, jobs, reviews, shards, versions
from understudy.catalog.claims import Claim
from understudy.catalog.tables import JobRow
from understudy.errors import NotFound, Refused
from understudy.records import (
    ExportFile,
    ExportFormat,
    ExportRequest,
    Job,
    JobKind,
    Problem,
    Record,
    ShardManifest,
    ShardMember,
)
from understudy.shards import read_manifest
from understudy.store import Store, export_file_key, export_key, generation_key, selection_key, sha256_of
from worker import attempts
from worker.resources import Resources

log = logging.getLogger(__name__)

#: A class name that is a folder's name on every system, too.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,63}")
#: Windows' own names for devices.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)
_SUFFIX = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}

_ROWS = """
SELECT sha256, ($names::VARCHAR[])[label + 1] AS class, label, confidence, top_classes, top_probabilities, tail_mass
FROM labels
WHERE confidence >= $min_confidence AND (len($wanted::INTEGER[]) = 0 OR list_contains($wanted::INTEGER[], label))
"""
_ORDER = " ORDER BY sha256"
_SELECTED = " AND sha256 IN (SELECT sha256 FROM selection)"
_UNREVIEWED = " AND sha256 NOT IN (SELECT sha256 FROM reviewed)"


class ExportPlan(Record):
    """Everything that decides an export's bytes."""

    request: ExportRequest
    teacher: str
    classes: tuple[str, ...]  #: the teacher's, which labels index
    label_sets: tuple[str, ...]  #: keys
    shards: tuple[str, ...]  #: the key of the shard that each label set is of
    selection: str | None  #: key of a generation's selection; None: all rows that fit the request
    reviewed: str | None = None  #: key of the images that people had reviewed, whose pseudo-labels are left out


def export(resources: Resources, job_id: str) -> None:
    """Make one attempt at an export, and write down how it ended. Nothing is raised but a stop."""
    try:
        job = jobs.get(resources.catalog, job_id)
    except NotFound as missing:
        log.warning("%s", missing)
        return
    if job.kind == JobKind.EXPORT:
        attempts.attempt(resources, JobRow, job_id, functools.partial(_run, resources, job))


def _run(resources: Resources, job: Job, claim: Claim) -> None:
    try:
        _export(resources, job, claim)
    except (Refused, NotFound) as refused:
        jobs.fail(resources.catalog, claim, Problem(code=refused.code, detail=str(refused)))


def _export(resources: Resources, job: Job, claim: Claim) -> None:
    # 1. What is exported, frozen.
    store = resources.store
    request = ExportRequest(**job.params["request"])
    plan = _frozen(store, export_key(job.id, "plan.json"), lambda: _plan(resources, job.id, request))

    # 2. A file for each label set. One that has its record is done.
    files: list[ExportFile] = []
    left = {"selection": plan.selection, "reviewed": plan.reviewed}
    tables = {
        name: labels.table_from_parquet(store.get(key)).select(["sha256"])
        for name, key in left.items()
        if key is not None
    }
    for number in range(len(plan.label_sets)):
        claim.check()
        record = export_key(job.id, f"parts/{number:06d}.json")
        if not store.exists(record):
            store.put(record, _part(resources, job.id, plan, number, tables).to_json())
        part = ExportFile.model_validate_json(store.get(record))
        if part.num_rows:
            files.append(part)
        jobs.progress(resources.catalog, claim, "export", number + 1, len(plan.label_sets))
    if not files:
        raise Refused("no pseudo-label fits; lower min_confidence or name other classes", code="nothing_to_export")

    # 3. What it is, its checksums, and at last its manifest.
    files.append(_document(store, job.id, "export.json", _described(plan, files)))
    sums = "".join(f"{file.sha256}  {file.name}\n" for file in files).encode()
    files.append(_document(store, job.id, "SHA256SUMS", sums))
    manifest = json.dumps([file.model_dump() for file in files]).encode()
    store.put(export_key(job.id, "manifest.json"), manifest)
    result = {
        "num_files": len(files),
        "num_rows": sum(file.num_rows for file in files),
        "num_bytes": sum(file.num_bytes for file in files),
    }
    with resources.catalog.write() as session:
        jobs.succeed(session, claim, result)


def _frozen(store: Store, key: str, make: Any) -> ExportPlan:
    if not store.exists(key):
        store.put(key, make().to_json())
    return ExportPlan.model_validate_json(store.get(key))


def _plan(resources: Resources, job_id: str, request: ExportRequest) -> ExportPlan:
    catalog, store = resources.catalog, resources.store
    teacher, selection = request.teacher, None
    if request.generation is not None:
        chosen = generations.get(catalog, request.generation)
        teacher, selection = chosen.teacher, _selection_of(store, request.generation)
    teacher = teacher or registry.champion(catalog)
    if teacher is None:
        raise Refused("there is no champion yet, so nothing is labeled; send labeled images first", code="no_champion")
    classes = versions.get(catalog, teacher).card.classes
    if unknown := [name for name in request.classes if name not in classes]:
        raise Refused(f"teacher {teacher} has no class {unknown[0]!r}; GET /models lists its classes", code="no_class")
    published = [
        task
        for task in shards.published_labels(catalog, teacher)
        if task.key is not None and request.bucket in (None, task.shard.bucket)
    ]
    return ExportPlan(
        request=request,
        teacher=teacher,
        classes=tuple(classes),
        label_sets=tuple(task.key for task in published if task.key is not None),
        shards=tuple(task.shard.key for task in published),
        selection=selection,
        reviewed=_reviewed(resources, job_id),
    )


def _reviewed(resources: Resources, job_id: str) -> str | None:
    """Freeze what people have reviewed; the file is named by its content, so that a second attempt leaves the first's."""
    found = labels.table({"sha256": sorted(reviews.reviewed(resources.catalog))}, sha256="string")
    if not found.num_rows:
        return None
    file = labels.table_to_parquet(found)
    key = export_key(job_id, f"reviewed-{hashlib.sha256(file).hexdigest()[:12]}.parquet")
    resources.store.put(key, file)
    return key


def _selection_of(store: Store, number: int) -> str:
    try:
        digest = json.loads(store.get(generation_key(number, "selection.json")))["rows_sha256"]
    except FileNotFoundError as missing:
        raise Refused(f"generation {number} has selected nothing (yet)", code="nothing_selected") from missing
    return selection_key(number, digest)


def _part(resources: Resources, job_id: str, plan: ExportPlan, number: int, tables: Mapping[str, Any]) -> ExportFile:
    """Write the file of one label set; without any row there is none."""
    request, store = plan.request, resources.store
    wanted = [i for i, name in enumerate(plan.classes) if name in request.classes]
    parameters = {"names": list(plan.classes), "min_confidence": request.min_confidence, "wanted": wanted}
    conditions = {"selection": _SELECTED, "reviewed": _UNREVIEWED}
    sql = _ROWS + "".join(conditions[name] for name in tables) + _ORDER
    try:
        table = labels.query(store, [plan.label_sets[number]], sql, parameters, **tables)
        if not table.num_rows:
            return ExportFile(name="", num_bytes=0, sha256="0" * 64, num_rows=0)
        if request.format == ExportFormat.PARQUET:
            name = f"labels-{number:06d}.parquet"
            return _document(store, job_id, name, labels.table_to_parquet(table), num_rows=table.num_rows)
        return _tar(resources, job_id, plan, number, {row["sha256"]: row for row in table.to_pylist()})
    except FileNotFoundError as gone:
        detail = f"{plan.shards[number]} is gone: its bucket was deleted; export again"
        raise Refused(detail, code="bucket_deleted") from gone


def _document(store: Store, job_id: str, name: str, data: bytes, *, num_rows: int = 0) -> ExportFile:
    store.put(export_file_key(job_id, name), data)
    return ExportFile(name=name, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), num_rows=num_rows)


def _tar(
    resources: Resources, job_id: str, plan: ExportPlan, number: int, rows: Mapping[str, dict[str, Any]]
) -> ExportFile:
    manifest = read_manifest(resources.store, plan.shards[number])
    name = f"{plan.request.format}-{number:06d}.tar"
    resources.settings.spool.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=resources.settings.spool, prefix=f"{job_id}-") as spool:
        path = Path(spool) / name
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for inside, data in _members(resources.store, plan, number, manifest, rows):
                info = tarfile.TarInfo(inside)  # time, owner and group stay 0
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
        resources.store.put(export_file_key(job_id, name), path)
        return ExportFile(name=name, num_bytes=path.stat().st_size, sha256=sha256_of(path), num_rows=len(rows))


def _members(
    store: Store, plan: ExportPlan, number: int, manifest: ShardManifest, rows: Mapping[str, dict[str, Any]]
) -> Iterator[tuple[str, bytes]]:
    """The names and bytes of one tar. Every name is made of a sha-256, a number and a folder that we named."""
    folders = class_folders(plan.classes)
    if plan.request.format == ExportFormat.HUGGINGFACE:
        yield f"train/{number:06d}/metadata.csv", _metadata(manifest.members, rows)
    with store.open(manifest.key) as file:
        for member in manifest.members:
            if (row := rows.get(member.sha256)) is None:
                continue
            file.seek(member.offset)
            image = f"{member.sha256}.{_SUFFIX[member.format]}"
            place = {
                ExportFormat.WEBDATASET: "",
                ExportFormat.IMAGEFOLDER: f"{folders[row['label']]}/",
                ExportFormat.HUGGINGFACE: f"train/{number:06d}/",
            }[plan.request.format]
            yield f"{place}{image}", file.read(member.num_bytes)
            if plan.request.format == ExportFormat.WEBDATASET:
                yield f"{member.sha256}.json", json.dumps(row, sort_keys=True).encode()


def _metadata(members: Sequence[ShardMember], rows: Mapping[str, dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file_name", "label", "confidence"))
    for member in members:
        if (row := rows.get(member.sha256)) is not None:
            writer.writerow((f"{member.sha256}.{_SUFFIX[member.format]}", row["class"], f"{row['confidence']:.6f}"))
    return text.getvalue().encode()


def class_folders(classes: Sequence[str]) -> list[str]:
    """A folder for each class: its name where that is a plain one and no other's on any system, else its number."""
    lowered = [name.lower() for name in classes]
    return [
        name
        if _PLAIN.fullmatch(name) and not _RESERVED.fullmatch(name) and name[-1] != " " and lowered.count(low) == 1
        else f"class.{number:05d}"  # no plain name has a dot
        for number, (name, low) in enumerate(zip(classes, lowered, strict=True))
    ]


def _described(plan: ExportPlan, files: Sequence[ExportFile]) -> bytes:
    folders = class_folders(plan.classes)
    return json.dumps(
        {
            "request": plan.request.model_dump(mode="json"),
            "teacher": plan.teacher,
            "classes": [
                {"label": number, "name": name, "folder": folders[number]} for number, name in enumerate(plan.classes)
            ],
            "num_rows": sum(file.num_rows for file in files),
        },
        indent=1,
    ).encode()
