"""What a client sends, as bytes that can be read again from any place: a file, a folder as a tar, several files as one.

A tar is made while it is read, in a fixed order and without times or owners, so the same files give the same bytes
and no copy lies on disk. A file that changed meanwhile is refused, never padded.
"""

import bisect
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from understudy.errors import UploadRefused

#: Read files in pieces of this size.
CHUNK_BYTES = 2**20
#: What is sent as an image and not as an archive, by its name alone; the service looks at the bytes.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
#: Two blocks of zeros end a tar.
END_BYTES = 2 * tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Packed:
    """One upload: its name, its length, and its bytes from any place on."""

    name: str
    num_bytes: int
    identity: str  #: of names, sizes and times of change: the same while nothing has changed
    read: Callable[[int], Iterator[bytes]]

    def part(self, offset: int, num_bytes: int) -> bytes:
        """Some bytes from ``offset``. Raises UploadRefused if a file changed since it was listed."""
        part = bytearray()
        for chunk in self.read(offset):
            part += chunk
            if len(part) >= num_bytes:
                break
        return bytes(part[:num_bytes])


@dataclass(frozen=True)
class _Member:
    """A file or folder of a tar, and where its header begins there."""

    path: Path
    header: bytes
    num_bytes: int  #: of its content
    offset: int

    @property
    def end(self) -> int:
        return self.offset + len(self.header) + _padded(self.num_bytes)


def file(path: Path) -> Packed:
    """A file as it is."""
    num_bytes = path.stat().st_size
    return Packed(
        path.name, num_bytes, _identity([_state(path.name, path)]), lambda offset: _read(path, offset, num_bytes)
    )


def folder(path: Path) -> Packed:
    """A folder as a tar: its files and folders by their paths within it; a link is what it points to, or nothing."""
    found = sorted(each for each in path.rglob("*") if each.is_dir() or each.is_file())
    return tar(f"{path.resolve().name}.tar", [(each.relative_to(path).as_posix(), each) for each in found])


def files(paths: Sequence[Path]) -> Packed:
    """Several files as one tar, each under its number and its own name."""
    return tar("files.tar", [(f"{index:06d}/{path.name}", path) for index, path in enumerate(paths)])


def every(paths: Sequence[Path]) -> list[Packed]:
    """One upload for each folder and each archive, and one for all the loose images together."""
    loose = [path for path in paths if not path.is_dir() and path.suffix.lower() in IMAGE_SUFFIXES]
    packed = [folder(path) if path.is_dir() else file(path) for path in paths if path not in loose]
    if len(loose) == 1:
        return [*packed, file(loose[0])]
    return [*packed, files(loose)] if loose else packed


def opened(packed: Packed) -> IO[bytes]:
    """An upload as a file that is open for reading: for what wants to be handed one."""
    return io.BufferedReader(_Opened(packed), CHUNK_BYTES)


def tar(name: str, named: Sequence[tuple[str, Path]]) -> Packed:
    """Files and folders as a tar, each under a name of one's own."""
    members: list[_Member] = []
    for inside, path in named:
        info = tarfile.TarInfo(inside)
        if path.is_dir():
            info.type = tarfile.DIRTYPE
        else:
            info.size = path.stat().st_size
        header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        members.append(_Member(path, header, info.size, members[-1].end if members else 0))
    end = members[-1].end if members else 0
    identity = _identity([_state(inside, path) for inside, path in named])
    return Packed(name, end + END_BYTES, identity, lambda offset: _read_tar(members, offset))


class _Opened(io.RawIOBase):
    """The bytes of an upload at a place that moves on with reading."""

    def __init__(self, packed: Packed) -> None:
        self._packed, self._place = packed, 0
        self._coming: Iterator[bytes] | None = None  #: what follows the rest; None: nothing was read from here
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._packed.num_bytes}[whence]
        self._place, self._coming, self._rest = begin + offset, None, memoryview(b"")
        return self._place

    def readinto(self, buffer: Any) -> int:
        if self._place >= self._packed.num_bytes:
            return 0
        if self._coming is None:
            self._coming = self._packed.read(self._place)
        while not self._rest:  # some pieces are empty: padding of nothing
            self._rest = memoryview(next(self._coming))
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest, self._place = self._rest[taken:], self._place + taken
        return taken


def _read_tar(members: Sequence[_Member], offset: int) -> Iterator[bytes]:
    first = bisect.bisect_right(members, offset, key=lambda member: member.end)
    for member in members[first:]:
        skipped = max(0, offset - member.offset)
        yield member.header[skipped:]
        skipped = max(0, skipped - len(member.header))
        if skipped < member.num_bytes:
            yield from _read(member.path, skipped, member.num_bytes)
        skipped = max(0, skipped - member.num_bytes)
        yield bytes(_padded(member.num_bytes) - member.num_bytes - skipped)
    end = members[-1].end if members else 0
    yield bytes(END_BYTES - max(0, offset - end))


def _read(path: Path, offset: int, num_bytes: int) -> Iterator[bytes]:
    """The rest of a file that has so many bytes."""
    with path.open("rb") as opened:
        opened.seek(offset)
        while offset < num_bytes:
            chunk = opened.read(min(CHUNK_BYTES, num_bytes - offset))
            if not chunk:
                detail = f"{path} had {num_bytes} bytes when it was listed and has fewer now; send it again"
                raise UploadRefused(detail, code="file_changed")
            offset += len(chunk)
            yield chunk


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _state(name: str, path: Path) -> str:
    """What rsync looks at, too, to see whether a file has changed."""
    if path.is_dir():
        return f"{name}/"
    status = path.stat()
    return f"{name}\0{status.st_size}\0{status.st_mtime_ns}"


def _identity(states: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(states).encode("utf-8", "surrogateescape")).hexdigest()
