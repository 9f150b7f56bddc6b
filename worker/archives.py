"""What an uploaded file is, by its first bytes and never by its name: zip, tar, tar.gz, tar.zst, or one image.

It gives the entries one at a time. What an image is, it leaves to those who decode.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from understudy.errors import ArchiveRefused
from worker import entries, samples, tars, zips
from worker.entries import Entry, Folder

#: How the images that we take begin (``images.FORMATS``); the decoder has the last word.
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")


_EXPAND: dict[str | None, tars.Expand] = {"gzip": tars.gunzipped, "zstd": tars.unzstd}


@dataclass(frozen=True)
class Archive:
    """An uploaded file that can be read: its entries, and their number where that is known beforehand."""

    contents: Iterator[Entry | Folder]
    num_entries: int | None = None


def read(file: IO[bytes], name: str) -> Archive:
    """The entries of an uploaded file, which must be seekable and stay open while they are read.

    Raises ArchiveRefused, before the first entry, with the code empty, not_an_archive, damaged,
    truncated_archive, too_many_entries or archive_bomb. A fault met later is an entry that is refused.
    """
    head = file.read(tars.BLOCK_BYTES)
    if not head:
        raise ArchiveRefused("the upload is empty: 0 bytes", code="empty")
    if tars.is_tar(head):  # first, by its checksum: a tar begins with a name, and that may be BMW.jpg
        return Archive(_of_tar(tars.read_plain(file)))
    if is_image(head):
        return Archive(_one_image(file, name), 1)
    kind = entries.kind_of_archive(head)
    if kind == "zip":
        num_entries, contents = zips.read(file)
        return Archive(_without_nested(contents), num_entries)
    if kind in _EXPAND:
        return Archive(_of_tar(tars.read_compressed(file, _EXPAND[kind])))
    what = "neither an archive nor an image" if kind is None else f"a {kind} archive"
    raise ArchiveRefused(f"the upload is {what}; send zip, tar, tar.gz, tar.zst or a single image")


def is_image(head: bytes) -> bool:
    """Whether a file that begins like this looks like an image."""
    return head.startswith(IMAGE_MAGIC)


def is_archive(head: bytes) -> bool:
    """Whether a file that begins like this is an archive that is taken."""
    return tars.is_tar(head[: tars.BLOCK_BYTES]) or entries.kind_of_archive(head) in ("zip", *_EXPAND)


def _of_tar(contents: Iterator[Entry | Folder]) -> Iterator[Entry | Folder]:
    return _without_nested(samples.attached(contents, is_image))


def _one_image(file: IO[bytes], name: str) -> Iterator[Entry | Folder]:
    refusal = entries.refuse_size(file.seek(0, io.SEEK_END))
    file.seek(0)
    yield Entry(name, file.read()) if refusal is None else Entry(name, refusal=refusal)


def _without_nested(contents: Iterator[Entry | Folder]) -> Iterator[Entry | Folder]:
    for entry in contents:
        if isinstance(entry, Entry) and (kind := _kind_of_nested(entry.data)):
            yield entries.refused(entry.name, "nested_archive", f"a {kind} archive inside the archive; unpack it first")
        else:
            yield entry


def _kind_of_nested(data: bytes) -> str | None:
    head = data[: tars.BLOCK_BYTES]
    return "tar" if any(head) and tars.is_tar(head) else entries.kind_of_archive(head)
