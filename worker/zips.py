"""Zip archives: the directory at their end is judged as a whole before the first entry is read.

By ``zipfile``, which gives no more bytes of an entry than the directory says; so what the directory says
bounds what can come out. Nothing is ever written to disk.
"""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from understudy.errors import ArchiveRefused
from understudy.records import Problem
from worker import entries
from worker.entries import Entry, Folder

#: The end record, the longest comment behind it, and zip64's record and locator before it.
_END_BYTES = 56 + 20 + 22 + 0xFFFF
_END_MAGIC, _END_FORMAT = b"PK\x05\x06", "<4s4H2LH"
#: Zip64 puts what does not fit into the end record into another, right before it, and fills the old with ones.
_END64_MAGIC, _END64_BYTES, _END64_SIZE_AT, _IN_END64 = b"PK\x06\x06", 56, 40, 0xFFFFFFFF
#: One directory record without its name. More of them than this are not read into memory.
_RECORD_BYTES = 46
_UNIX = 3
_ENCRYPTED_FLAG = 0x1
#: Others can be expanded only without a bound on memory, and nobody packs photos with them.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: What zipfile raises on damaged input, beside its own error.
_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, NotImplementedError)


def read(file: IO[bytes]) -> tuple[int, Iterator[Entry | Folder]]:
    """How many entries a zip has, and the entries, one in memory at a time.

    Raises ArchiveRefused before the first if the directory cannot be read, lists too many entries, or
    says that they expand to far more than the archive's own size.
    """
    archive_bytes = file.seek(0, io.SEEK_END)
    _refuse_long_directory(file, archive_bytes)
    try:
        archive = zipfile.ZipFile(file)
    except _FAULTS as error:
        raise ArchiveRefused(f"the zip's directory cannot be read: {error}", code="damaged") from error
    _refuse_bomb(archive, archive_bytes)
    num_entries = sum(not info.is_dir() for info in archive.infolist())
    return num_entries, _entries(archive)


def _refuse_long_directory(file: IO[bytes], archive_bytes: int) -> None:
    """zipfile reads all of the directory at once, so its length is looked at first."""
    file.seek(max(0, archive_bytes - _END_BYTES))
    tail = file.read(_END_BYTES)
    at = tail.rfind(_END_MAGIC)
    if at < 0 or at + struct.calcsize(_END_FORMAT) > len(tail):
        raise ArchiveRefused("the zip breaks off: its directory is missing", code="truncated_archive")
    directory_bytes = struct.unpack_from(_END_FORMAT, tail, at)[5]
    if (end64 := tail.rfind(_END64_MAGIC, 0, at)) >= 0 and end64 + _END64_BYTES <= len(tail):
        directory_bytes = max(directory_bytes % _IN_END64, struct.unpack_from("<Q", tail, end64 + _END64_SIZE_AT)[0])
    longest = entries.MAX_ENTRIES * (_RECORD_BYTES + entries.MAX_NAME_CHARACTERS // 4)
    if directory_bytes > longest:
        raise ArchiveRefused(
            f"the zip's directory has {directory_bytes:,} bytes; at most {longest:,} are read", code="too_many_entries"
        )


def _refuse_bomb(archive: zipfile.ZipFile, archive_bytes: int) -> None:
    infos = archive.infolist()
    if len(infos) > entries.MAX_ENTRIES:
        raise ArchiveRefused(
            f"the zip has {len(infos):,} entries; at most {entries.MAX_ENTRIES:,} are taken: send it in parts",
            code="too_many_entries",
        )
    expanded, limit = sum(info.file_size for info in infos), entries.expansion_limit(archive_bytes)
    if expanded > limit:
        raise ArchiveRefused(
            f"the zip says that it expands from {archive_bytes:,} bytes to {expanded:,}; at most {limit:,} are taken",
            code="archive_bomb",
        )


def _entries(archive: zipfile.ZipFile) -> Iterator[Entry | Folder]:
    for info in archive.infolist():
        if info.is_dir():
            yield Folder(info.filename)
            continue
        refusal = _refuse(info)
        yield _read(archive, info) if refusal is None else Entry(info.filename, refusal=refusal)


def _refuse(info: zipfile.ZipInfo) -> Problem | None:
    mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
    if stat.S_ISLNK(mode):
        return Problem(code="link", detail="links are not followed; put the image itself into the archive")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return Problem(code="not_a_file", detail="the entry is a device, a pipe or a socket")
    if info.flag_bits & _ENCRYPTED_FLAG:
        return Problem(code="encrypted", detail="the entry has a password; pack it without one")
    if info.compress_type not in _METHODS:
        detail = f"compression method {info.compress_type} is not taken; pack it with deflate or not at all"
        return Problem(code="damaged", detail=detail)
    return entries.refuse_name(info.filename) or entries.refuse_size(info.file_size)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    try:
        with archive.open(info) as member:
            data = member.read(info.file_size + 1)  # one more, so that the checksum is looked at
    except (*_FAULTS, RuntimeError) as error:
        return entries.refused(info.filename, "damaged", f"the entry cannot be read: {error}")
    if len(data) < info.file_size:
        return entries.refused(info.filename, "damaged", f"{len(data):,} bytes are left of {info.file_size:,}")
    return Entry(info.filename, data)
