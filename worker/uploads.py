"""The uploads of one job as a single run of numbered entries, the same on every walk.

It knows where uploads lie and what an archive is; not what becomes of an entry.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Literal

from understudy.errors import ArchiveRefused
from understudy.records import Job, Upload
from understudy.store import Store, part_key
from worker import archives, entries
from worker.archives import Archive
from worker.entries import Entry, Folder


@dataclass(frozen=True)
class Numbered:
    """An entry and its place: ``index`` counts from 0 over all uploads of the job."""

    index: int
    entry: Entry
    split: Literal["unlabeled", "labeled", "holdout"]  #: what its upload was sent as


def of_job(job: Job) -> list[Upload]:
    """The files that were sent for a job, in order."""
    return [Upload(**upload) for upload in job.params["uploads"]]


def count(store: Store, uploads: list[Upload]) -> int | None:
    """How many entries there are in all. None: not known before the end.

    Opens each upload, so one that makes the whole job be refused raises its ArchiveRefused here.
    """
    num_entries: int | None = 0
    for upload in uploads:
        with _opened(store, upload, is_alone=len(uploads) == 1) as archive:
            is_known = num_entries is not None and archive.num_entries is not None
            num_entries = num_entries + archive.num_entries if is_known else None  # type: ignore[operator]
    return num_entries


def walk(store: Store, uploads: list[Upload]) -> Iterator[Numbered | Folder]:
    """Every entry of every upload, one in memory at a time. Raises ArchiveRefused as ``count`` does."""
    index = 0
    for upload in uploads:
        with _opened(store, upload, is_alone=len(uploads) == 1) as archive:
            for entry in archive.contents:
                if isinstance(entry, Folder):
                    yield Folder(entries.shown(entry.name))
                    continue
                yield Numbered(index, _shown(entry), upload.split)
                index += 1


def _shown(entry: Entry) -> Entry:
    attached_to = None if entry.attached_to is None else entries.shown(entry.attached_to)
    return replace(entry, name=entries.shown(entry.name), attached_to=attached_to)


@contextmanager
def _opened(store: Store, upload: Upload, *, is_alone: bool) -> Iterator[Archive]:
    """One upload. What cannot be opened fails the job if it is all there is; among others it is one bad entry."""
    if upload.problem is not None:  # there is nothing in the store
        yield Archive(iter([Entry(upload.name, refusal=upload.problem)]), 1)
        return
    with _bytes_of(store, upload) as file:
        try:
            archive = archives.read(file, upload.name)
        except ArchiveRefused as refused:
            if (
                is_alone and not upload.is_fetched
            ) or upload.split != "unlabeled":  # a labeled set is taken whole or not
                raise
            archive = Archive(iter([entries.refused(upload.name, refused.code, str(refused))]), 1)
        yield archive


def _bytes_of(store: Store, upload: Upload) -> IO[bytes]:
    if upload.part_bytes is None:
        return store.open(upload.key)
    return store.open_parts([part_key(upload.key, number) for number in range(upload.num_parts)], upload.part_bytes)
