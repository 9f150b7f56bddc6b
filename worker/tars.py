"""Tar archives, plain or compressed with gzip or zstd, read from front to back in blocks of 512 bytes.

Not by ``tarfile``: that believes what a header says, so a claim of 8 TiB is waited for, a negative size
is gone back by, and a name record of 50 MB is read into memory. Nothing is ever written to disk.
"""

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Protocol

import zstandard

from understudy.errors import ArchiveRefused
from understudy.records import Problem
from worker import entries
from worker.entries import Entry, Folder

BLOCK_BYTES = 512
#: A long name or a pax header. Linux knows no path above 4 KiB; attributes and times take a little more.
MAX_HEADER_BYTES = 2**20
#: Read this much at a time of what is passed over.
SKIP_BYTES = 2**20
#: zstd keeps so much of what came out in memory. 128 MiB is what the ``zstd`` program takes by itself (``--long=27``).
MAX_WINDOW_BYTES = 128 * 2**20

_FILE, _OLD_FILE, _CONTIGUOUS = b"0", b"\0", b"7"
_HARD_LINK, _SYMBOLIC_LINK, _FOLDER = b"1", b"2", b"5"
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK, _GNU_SPARSE = b"x", b"g", b"L", b"K", b"S"
#: Entries of these kinds have no bytes of their own, whatever size they say.
_WITHOUT_BYTES = {_HARD_LINK, _SYMBOLIC_LINK, _FOLDER, b"3", b"4", b"6"}

_OCTAL = re.compile(rb"[0-7]{1,12}")
_DECIMAL = re.compile(rb"[0-9]{1,18}")


class _Ended(Exception):
    """Nothing can be read after this point of the archive."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = Problem(code=code, detail=detail)


class _Source(Protocol):
    """The bytes of the tar itself, in order."""

    def read(self, num_bytes: int) -> bytes:
        """Up to so many bytes; fewer only at the end."""

    def skip(self, num_bytes: int) -> bool:
        """Pass over so many bytes; False if there are fewer."""


class _Plain:
    """A tar as it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._num_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)

    def read(self, num_bytes: int) -> bytes:
        """The file's own words: a local file and the store's reader give all that is there."""
        return self._file.read(num_bytes)

    def skip(self, num_bytes: int) -> bool:
        target = self._file.tell() + num_bytes
        self._file.seek(min(target, self._num_bytes))
        return target <= self._num_bytes


class _Reads(Protocol):
    """What the compressions' own readers have in common."""

    def read(self, size: int, /) -> bytes: ...


#: Begins to expand a file from its first byte.
Expand = Callable[[IO[bytes]], _Reads]


def gunzipped(file: IO[bytes]) -> _Reads:
    """The bytes inside gzip."""
    return gzip.GzipFile(fileobj=file, mode="rb")


def unzstd(file: IO[bytes]) -> _Reads:
    """The bytes inside zstd: of all its frames, since ``pzstd`` and appending make several."""
    expander = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    return expander.stream_reader(file, read_across_frames=True, closefd=False)


class _Compressed:
    """A tar inside a compression: counts what comes out, because what goes in says nothing about it."""

    def __init__(self, file: IO[bytes], expand: Expand) -> None:
        archive_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        self._left = self._limit = entries.expansion_limit(archive_bytes)
        self._file = expand(file)

    def read(self, num_bytes: int) -> bytes:
        try:
            data = self._file.read(num_bytes)
        except EOFError as error:
            raise _Ended("truncated_archive", "the compressed data breaks off") from error
        except zstandard.ZstdError as error:
            raise _zstd_ended(error) from error
        except (OSError, zlib.error) as error:
            raise _Ended("damaged", f"the compressed data is damaged: {error}") from error
        self._left -= len(data)
        if self._left < 0:
            raise _Ended(
                "archive_bomb",
                f"the archive expands to more than {self._limit:,} bytes, which is {entries.MAX_RATIO} times its size",
            )
        return data

    def skip(self, num_bytes: int) -> bool:
        while num_bytes > 0:
            num_read = len(self.read(min(num_bytes, SKIP_BYTES)))
            if not num_read:
                return False
            num_bytes -= num_read
        return True


def _zstd_ended(error: zstandard.ZstdError) -> _Ended:
    if "too much memory" in str(error):
        detail = (
            f"to expand it takes a window of more than {MAX_WINDOW_BYTES:,} bytes; compress it with --long=27 or less"
        )
        return _Ended("too_large", detail)
    return _Ended("damaged", f"the compressed data is damaged: {error}")


@dataclass(frozen=True)
class _Header:
    name: str
    kind: bytes
    num_bytes: int
    is_sparse: bool  #: a GNU sparse file whose map goes on in more blocks

    @property
    def is_file(self) -> bool:
        return self.kind in (_FILE, _OLD_FILE, _CONTIGUOUS)

    @property
    def num_stored_bytes(self) -> int:
        return 0 if self.kind in _WITHOUT_BYTES else self.num_bytes

    @property
    def is_folder(self) -> bool:
        return self.kind == _FOLDER or (self.kind == _OLD_FILE and self.name.endswith("/"))


def is_tar(block: bytes) -> bool:
    """Whether an archive that begins with this block is a tar; a block of zeros is an empty one's end mark."""
    return len(block) == BLOCK_BYTES and (not any(block) or _has_checksum(block))


def read_plain(file: IO[bytes]) -> Iterator[Entry | Folder]:
    """The entries of a tar, one in memory at a time; its end before its time is one more, refused."""
    return _entries(_Plain(file))


def read_compressed(file: IO[bytes], expand: Expand) -> Iterator[Entry | Folder]:
    """The same of a compressed tar. Raises ArchiveRefused at once if there is no tar inside."""
    try:
        head = _Compressed(file, expand).read(BLOCK_BYTES)
    except _Ended as ended:
        raise ArchiveRefused(str(ended), code=ended.problem.code) from ended
    if not is_tar(head):
        if len(head) < BLOCK_BYTES and expand is unzstd:  # its reader ends quietly where the data breaks off
            raise ArchiveRefused("the compressed data breaks off", code="truncated_archive")
        raise ArchiveRefused("there is no tar inside the compression; send zip, tar, tar.gz or tar.zst")
    return _entries(_Compressed(file, expand))


def _entries(source: _Source) -> Iterator[Entry | Folder]:
    num_entries = 0
    try:
        while (header := _next_header(source)) is not None:
            num_entries += 1
            if num_entries > entries.MAX_ENTRIES:
                raise _Ended("too_many_entries", f"an archive may have {entries.MAX_ENTRIES:,} entries; this has more")
            refusal = _refuse(header)
            if header.is_folder:
                yield Folder(header.name)
            elif refusal is not None:
                yield Entry(header.name, refusal=refusal)
            else:
                yield Entry(header.name, _read_exactly(source, header))
                continue
            _pass_over(source, header.num_stored_bytes)
    except _Ended as ended:
        yield Entry(entries.REST_OF_ARCHIVE, refusal=ended.problem)


def _refuse(header: _Header) -> Problem | None:
    if header.kind in (_HARD_LINK, _SYMBOLIC_LINK):
        return Problem(code="link", detail="links are not followed; put the image itself into the archive")
    if not header.is_file or header.is_sparse:
        what = "a sparse file" if header.is_sparse else f"of tar's type {header.kind!r}"
        return Problem(code="not_a_file", detail=f"the entry is no plain file but {what}")
    return entries.refuse_name(header.name) or entries.refuse_size(header.num_bytes)


def _next_header(source: _Source) -> _Header | None:
    """The next entry's header with all that precedes it. None: the archive's end mark."""
    long_name: bytes | None = None
    pax: dict[bytes, bytes] = {}
    while True:
        block = source.read(BLOCK_BYTES)
        if len(block) < BLOCK_BYTES:
            raise _Ended("truncated_archive", "the archive breaks off: its end mark is missing")
        if not any(block):
            return None
        if not _has_checksum(block):
            raise _Ended("damaged", "a header is damaged, so that nothing after it can be found")
        kind, num_bytes = block[156:157], _number(block[124:136])
        if kind == _PAX:
            pax |= _pax_records(_read_extension(source, num_bytes))
        elif kind == _GNU_NAME:
            long_name = _read_extension(source, num_bytes).split(b"\0")[0]
        elif kind in (_PAX_GLOBAL, _GNU_LINK):
            _read_extension(source, num_bytes)
        else:
            return _header(source, block, kind, num_bytes, long_name, pax)


def _header(
    source: _Source, block: bytes, kind: bytes, num_bytes: int, long_name: bytes | None, pax: dict[bytes, bytes]
) -> _Header:
    name = pax.get(b"path") or long_name or _short_name(block)
    if b"size" in pax:
        num_bytes = _decimal(pax[b"size"])
    goes_on = kind == _GNU_SPARSE and block[482] != 0
    while goes_on:  # the map of a sparse file's holes, in blocks of its own
        block = source.read(BLOCK_BYTES)
        goes_on = len(block) == BLOCK_BYTES and block[504] != 0
    is_sparse = kind == _GNU_SPARSE or any(key.startswith(b"GNU.sparse") for key in pax)
    return _Header(name.decode("utf-8", "surrogateescape"), kind, num_bytes, is_sparse)


def _short_name(block: bytes) -> bytes:
    name = block[:100].split(b"\0")[0]
    prefix = block[345:500].split(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _has_checksum(block: bytes) -> bool:
    field = block[148:156].split(b"\0")[0].strip()
    return _OCTAL.fullmatch(field) is not None and int(field, 8) == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _number(field: bytes) -> int:
    """A size: octal digits, or (GNU, for what is too large for them) a binary number behind a set bit."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if digits and not _OCTAL.fullmatch(digits):
        raise _Ended("damaged", f"a header has the size {digits!r}, so that nothing after it can be found")
    return int(digits or b"0", 8)


def _decimal(value: bytes) -> int:
    if not _DECIMAL.fullmatch(value):
        raise _Ended("damaged", f"a header has the size {value[:30]!r}, so that nothing after it can be found")
    return int(value)


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Records of ``length key=value`` and a line's end, the length counting all of the record."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data) and data[at] != 0:
        space = data.find(b" ", at, at + 9)
        if space < 0 or not data[at:space].isdigit() or int(data[at:space]) <= space - at:
            raise _Ended("damaged", "a header's list of attributes is damaged")
        end = at + int(data[at:space])
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key] = value
        at = end
    return records


def _read_extension(source: _Source, num_bytes: int) -> bytes:
    if num_bytes > MAX_HEADER_BYTES:
        raise _Ended("too_large", f"a header has {num_bytes:,} bytes; at most {MAX_HEADER_BYTES:,} are taken")
    data = source.read(_padded(num_bytes))
    if len(data) < num_bytes:
        raise _Ended("truncated_archive", "the archive breaks off inside a header")
    return data[:num_bytes]


def _read_exactly(source: _Source, header: _Header) -> bytes:
    data = source.read(header.num_bytes)
    if len(data) < header.num_bytes:
        raise _Ended("truncated_archive", f"the archive breaks off inside {entries.shown(header.name)}")
    source.skip(_padded(header.num_bytes) - header.num_bytes)  # cut off padding is told of at the next header
    return data


def _pass_over(source: _Source, num_bytes: int) -> None:
    if not source.skip(_padded(num_bytes)):
        raise _Ended("truncated_archive", "the archive breaks off inside an entry that was not taken")


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES
