"""The object store: a local folder or an S3-compatible bucket behind one small interface.

Objects are written whole or not at all, and never changed. The layout of keys is spelled here and
nowhere else. The only door to obstore; it says FileNotFoundError, not the vendor's words.
"""

import asyncio
import contextlib
import errno
import hashlib
import io
import os
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from understudy.errors import SettingsRefused, SourceAway, SourceRefused

#: Part size of streamed uploads. S3 takes no part under 5 MiB.
PART_BYTES = 8 * 2**20
#: A file up to here is sent to a bucket in one piece, on the condition that its key is free.
MAX_WHOLE_BYTES = 32 * 2**20
#: What a file system says that has no second names for this file.
NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES})
#: Where half-written files lie in a local folder: obstore names them so, and weights await their name there.
UNFINISHED = ("uploads/*/*#*", "weights/*#*", "weights/arriving-*")


# -- the layout -----------------------------------------------------------------------------------


def upload_key(job: str, index: int) -> str:
    """One file of an upload; deleted when its job has ended."""
    return f"uploads/{job}/{index:06d}"


def fetched_key(job: str, attempt: int, index: int) -> str:
    """One object of a remote source as an attempt fetched it; deleted as an upload is."""
    return f"uploads/{job}/{attempt}-{index:06d}"


def part_key(upload: str, number: int) -> str:
    """One part of an upload that comes in parts."""
    return f"{upload}-{number:06d}"


def weights_key(sha256: str) -> str:
    """Pretrained weights that a client sent."""
    return f"weights/{sha256}.safetensors"


def receipt_key(job: str, attempt: int) -> str:
    """What became of every entry of an upload."""
    return f"receipts/{job}/{attempt}.parquet"


def quarantine_key(job: str, index: int) -> str:
    """The bytes of a quarantined entry."""
    return f"quarantine/{job}/{index:09d}"


def bucket_folder(bucket: str, token: str) -> str:
    """Where a bucket's shards and label sets lie: no other bucket's, not even of one of its name after its deletion."""
    return f"{bucket}@{token}" if token else bucket


def shard_key(split: str, folder: str | None, sha256: str) -> str:
    """A shard's tar, named by its content: two programs that seal the same images write the same object."""
    place = f"shards/{folder}" if folder is not None else split
    return f"{place}/{sha256[:32]}.tar"


def shards_prefix(folder: str) -> str:
    """Of the keys of all of a bucket's shards and manifests."""
    return f"shards/{folder}/"


def labels_prefix(version: str, folder: str) -> str:
    """Of the keys of all label sets of a bucket by one teacher."""
    return f"labels/{version}/{folder}/"


def manifest_key(shard: str) -> str:
    """The manifest beside a shard's tar."""
    return shard.removesuffix(".tar") + ".json"


def labels_key(version: str, shard: str, attempt: int) -> str:
    """One attempt at a shard's label set; the catalog says which attempt was published."""
    return f"labels/{version}/{shard.removeprefix('shards/').removesuffix('.tar')}.{attempt}.parquet"


def generation_key(number: int, name: str) -> str:
    """A step's file of a generation."""
    return f"generations/{number:04d}/{name}"


def selection_key(number: int, rows_sha256: str) -> str:
    """The pseudo-labels that a generation selected: the rows of its ``selection.json``."""
    return generation_key(number, f"selection-{rows_sha256[:12]}.parquet")


def reviewed_key(number: int, file_sha256: str) -> str:
    """The list of reviewed images that a generation's plan names."""
    return generation_key(number, f"reviewed-{file_sha256[:12]}.parquet")


def model_key(version: str, name: str) -> str:
    """``model.onnx``, ``weights.safetensors`` or ``card.json`` of a version."""
    return f"models/{version}/{name}"


def export_key(job: str, name: str) -> str:
    """What an export keeps for itself: its plan, its parts' records, and at last its manifest."""
    return f"exports/{job}/{name}"


def export_file_key(job: str, name: str) -> str:
    """A file of an export that is for others."""
    return f"exports/{job}/files/{name}"


# -- the store ------------------------------------------------------------------------------------


class Store:
    """One store by its URL: ``file:///folder`` or ``s3://bucket/prefix`` (credentials from the environment)."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self._root: Path | None = None
        if parts.scheme == "file":
            self._root = Path(unquote(parts.path))
            self._root.mkdir(parents=True, exist_ok=True)
            self._store: ObjectStore = LocalStore(self._root)
        elif parts.scheme == "s3":
            self._store = from_url(url)
        else:
            raise SettingsRefused(f"UNDERSTUDY_STORE_URL={url!r}: expected file:///folder or s3://bucket/prefix")

    @property
    def folder(self) -> Path | None:
        """The local folder in which every key is a path. None: the store is a bucket."""
        return self._root

    def get(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        return bytes(obstore.get(self._store, key).bytes())

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``, fewer where the object ends before. Raises FileNotFoundError."""
        try:
            return bytes(obstore.get_range(self._store, key, start=offset, length=length))
        except obstore.exceptions.GenericError:
            if obstore.head(self._store, key)["size"] <= offset:
                return b""
            raise

    def chunks(self, key: str) -> Iterator[bytes]:
        """The object in pieces, for what is too large to hold. Raises FileNotFoundError."""
        for chunk in obstore.get(self._store, key).stream():
            yield bytes(chunk)

    def open(self, key: str) -> IO[bytes]:
        """A seekable reader over ranged reads. Raises FileNotFoundError."""
        if self._root is not None:
            return (self._root / key).open("rb")
        return _Reader(obstore.open_reader(self._store, key))  # type: ignore[return-value]

    def open_parts(self, keys: Sequence[str], part_bytes: int) -> IO[bytes]:
        """A seekable reader over objects as if they were one; each but the last has ``part_bytes`` bytes.

        Raises FileNotFoundError for an empty list, and when it comes to an object that is not there.
        """
        if not keys:
            raise FileNotFoundError("no parts")
        return io.BufferedReader(_Parts(self, keys, part_bytes), PART_BYTES // 8)

    def exists(self, key: str) -> bool:
        """Whether the object is there, and therefore whole."""
        try:
            obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        return True

    def put(self, key: str, data: bytes | Path) -> bool:
        """Write an object unless it is there; False if it was. Readers see all of it or nothing.

        A file may be large: it is not held in memory. In a local folder it becomes the object itself, where both are
        on one disk, so its writer must have done with it. Into a bucket a file over ``MAX_WHOLE_BYTES`` goes in parts,
        which no bucket does conditionally: of two that write at one moment the later stays.
        """
        if isinstance(data, Path):
            if self._root is not None and (is_new := self._adopt(key, data)) is not None:
                return is_new
            if self._root is None and data.stat().st_size > MAX_WHOLE_BYTES:
                return not self.exists(key) and self._send(key, data)
        source: Any = data
        try:
            with full_disk_said():
                obstore.put(self._store, key, source, mode="create")
        except FileExistsError:
            return False
        except obstore.exceptions.AlreadyExistsError:
            return False
        self._make_durable(key)
        return True

    def replace(self, key: str, data: bytes | Path) -> None:
        """Write an object over what may be there: for progress and checkpoints, never for facts."""
        self._send(key, data)

    def _send(self, key: str, data: bytes | Path) -> bool:
        source: Any = data
        with full_disk_said():
            obstore.put(self._store, key, source, chunk_size=PART_BYTES, max_concurrency=2)
        self._make_durable(key)
        return True

    def _adopt(self, key: str, path: Path) -> bool | None:
        """Give a local file its key as a second name; None: it cannot have one, as on another disk."""
        assert self._root is not None
        target = self._root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        _sync(path)
        try:
            os.link(path, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in NO_LINKS:
                return None
            raise
        _sync(target.parent)
        return True

    async def receive(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Write an object as it arrives, with bounded memory; if ``chunks`` raises, nothing is left behind."""
        await obstore.put_async(self._store, key, chunks, chunk_size=PART_BYTES, max_concurrency=2)
        await asyncio.to_thread(self._make_durable, key)

    def pour(self, key: str, chunks: Iterable[bytes]) -> None:
        """The same of what is read here rather than received; if ``chunks`` raises, nothing is left behind."""
        # Not ``put`` with an iterator: what reads from another store inside of it would end the process.
        writer = obstore.open_writer(self._store, key, buffer_size=PART_BYTES, max_concurrency=2)
        try:
            for chunk in chunks:
                writer.write(chunk)
        except Exception:
            writer.close()
            self.delete(key)
            raise
        writer.close()
        self._make_durable(key)

    def move(self, source: str, target: str) -> None:
        """Give an object its final key, over what may be there (the same content, by its name)."""
        obstore.copy(self._store, source, target)
        self._make_durable(target)
        self.delete(source)

    def list(self, prefix: str) -> list[str]:
        """The keys under a prefix, sorted."""
        return sorted(str(o["path"]) for page in obstore.list(self._store, prefix) for o in page)

    def sizes(self, prefix: str) -> dict[str, int]:
        """The keys under a prefix, sorted, with their bytes."""
        return dict(
            sorted((str(o["path"]), int(o["size"])) for page in obstore.list(self._store, prefix) for o in page)
        )

    def sweep_unfinished(self, *, older_than_s: float) -> None:
        """Delete what writers that were killed left half-written in a local folder; S3 expires its own uploads."""
        if self._root is None:
            return
        for pattern in UNFINISHED:
            for path in self._root.glob(pattern):
                with contextlib.suppress(FileNotFoundError):  # its writer has finished it
                    if time.time() - path.stat().st_mtime > older_than_s:
                        path.unlink()

    def delete(self, key: str) -> None:
        """Delete an object; nothing happens if it is not there."""
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return

    def _make_durable(self, key: str) -> None:
        """A local file counts as written when it and its folder are on the disk, not in a cache."""
        if self._root is None:
            return
        for path in (self._root / key, (self._root / key).parent):
            _sync(path)


@contextlib.contextmanager
def full_disk_said() -> Iterator[None]:
    """Say of a full disk what Python says of it: an OSError with its number."""
    try:
        yield
    except obstore.exceptions.GenericError as error:
        if (number := _FULL_DISK.search(str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


#: What obstore has no error of its own for: no room on the disk, or none left to this user.
_FULL_DISK = re.compile(rf"os error ({errno.ENOSPC}|{errno.EDQUOT})\b")


def _sync(path: Path) -> None:
    """Have a file or a folder on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Parts(io.RawIOBase):
    """One object after the other, one open at a time."""

    def __init__(self, store: Store, keys: Sequence[str], part_bytes: int) -> None:
        self._store, self._keys, self._part_bytes = store, keys, part_bytes
        self._at, self._end, self._number = 0, 0, -1
        self._part: IO[bytes] | None = None
        self._turn_to(len(keys) - 1)
        assert self._part is not None
        self._end = (len(keys) - 1) * part_bytes + self._part.seek(0, io.SEEK_END)

    def readinto(self, buffer: Any) -> int:
        number, inside = divmod(self._at, self._part_bytes)
        if self._at >= self._end:
            return 0
        self._turn_to(number)
        assert self._part is not None
        self._part.seek(inside)
        data = self._part.read(min(len(buffer), self._part_bytes - inside))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if self._part is not None:
            self._part.close()
        super().close()

    def _turn_to(self, number: int) -> None:
        if number == self._number:
            return
        if self._part is not None:
            self._part.close()
        self._part, self._number = self._store.open(self._keys[number]), number


class _Reader:
    """Gives obstore's reader the ``bytes`` that zipfile, tarfile and pyarrow expect of a file."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.seek, self.tell, self.close = reader.seek, reader.tell, reader.close
        self.mode, self.closed = "rb", False

    def read(self, size: int | None = None) -> bytes:
        """Up to ``size`` bytes; all that is left if None or negative."""
        return bytes(self._reader.readall() if size is None or size < 0 else self._reader.read(size))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def sha256_of(path: Path) -> str:
    """The sha-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- others' stores -------------------------------------------------------------------------------

#: A store that does not answer is asked again by the next attempt at the job; here only for a moment.
_BRIEFLY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}


@dataclass(frozen=True)
class Listed:
    """An object elsewhere, and what tells whether it has changed. None: its server does not say."""

    key: str
    num_bytes: int | None
    etag: str | None
    modified_at: float | None


class ForeignStore:
    """Somebody's bucket, only read: ``s3`` or ``gs``, with credentials from the environment.

    Raises SourceRefused for what asking again will not mend, and SourceAway for the rest, without the
    vendor's words: they may name what is nobody's business.
    """

    def __init__(self, scheme: str, bucket: str) -> None:
        self._url = f"{scheme}://{bucket}"
        try:
            self._store = from_url(self._url, retry_config=_BRIEFLY)
        except obstore.exceptions.BaseError as error:
            raise SourceRefused(
                f"{self._url} cannot be opened ({type(error).__name__}): look at the credentials in the workers' environment",
                code="source_forbidden",
            ) from error

    def find(self, key: str) -> Listed | None:
        """One object. None: there is none of that key."""
        with self._said():
            try:
                return _listed(obstore.head(self._store, key))
            except (FileNotFoundError, obstore.exceptions.NotFoundError):
                return None

    def pages(self, prefix: str, *, after: str | None) -> Iterator[list[Listed]]:
        """The objects under a prefix in the order of their keys, from behind ``after``, a thousand at a time."""
        with self._said():
            pages = iter(obstore.list(self._store, prefix or None, offset=after, chunk_size=1000))
        while True:
            with self._said():
                page = next(pages, None)
            if page is None:
                return
            yield [_listed(each) for each in page]

    def chunks(self, key: str) -> Iterator[bytes]:
        """The object in pieces."""
        with self._said():
            pieces = iter(obstore.get(self._store, key).stream())
        while True:
            with self._said():
                piece = next(pieces, None)
            if piece is None:
                return
            yield bytes(piece)

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, obstore.exceptions.NotFoundError) as error:
            raise SourceRefused(f"there is nothing of that name in {self._url}", code="source_missing") from error
        except obstore.exceptions.InvalidPathError as error:
            raise SourceRefused(
                f"{self._url} has a key there with an empty part, '.' or '..' in it, which cannot be read "
                f"({_in_words(error)}); rename it, or name a prefix beside it",
                code="unreadable_key",
            ) from error
        except (PermissionError, *_REFUSALS) as error:
            raise SourceRefused(
                f"{self._url} may not be read ({type(error).__name__}); give the workers credentials that may",
                code="source_forbidden",
            ) from error
        except (obstore.exceptions.BaseError, OSError) as error:
            if (status := _STATUS.search(str(error))) and status[1] in _FINAL:
                raise SourceRefused(
                    f"{self._url} is not there, or may not be listed (status {status[1]})", code=_FINAL[status[1]]
                ) from error
            raise SourceAway(f"{self._url} does not answer as it should ({type(error).__name__})") from error


#: What obstore has no error of its own for, and asking again does not mend.
_STATUS = re.compile(r"status code: (\d{3})")
_FINAL = {"400": "source_refused", "401": "source_forbidden", "403": "source_forbidden", "404": "source_missing"}
_REFUSALS = (
    obstore.exceptions.PermissionDeniedError,
    obstore.exceptions.UnauthenticatedError,
    obstore.exceptions.UnknownConfigurationKeyError,
)


def _in_words(error: Exception) -> str:
    """The first line of what obstore says, without the marker that it is obstore who says it."""
    return str(error).splitlines()[0].removeprefix("Encountered object with invalid path: ")[:300]


def _listed(meta: Any) -> Listed:
    return Listed(str(meta["path"]), int(meta["size"]), meta["e_tag"], meta["last_modified"].timestamp())
