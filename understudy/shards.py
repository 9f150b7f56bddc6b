"""Shards: immutable tars of images in WebDataset's layout, each with a manifest of where every image lies.

The same images in the same order give the same bytes. Reading goes by the manifest's offsets, so
nothing in a tar is ever interpreted but the images themselves (WebDataset's own reader unpickles).
"""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from understudy import images
from understudy.records import ShardManifest, ShardMember
from understudy.store import Store, manifest_key, sha256_of, shard_key

#: Written at a time: an image is one write, not one for each 16 kB.
BUFFER_BYTES = 1 * 2**20

_SUFFIX = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


class ShardWriter:
    """Collects images into one tar on local disk. ``seal`` moves it into the store, manifest last."""

    def __init__(self, path: Path, *, split: str, bucket: str | None = None, folder: str | None = None) -> None:
        self._path = path
        self._split, self._bucket, self._folder = split, bucket, bucket if folder is None else folder
        self._members: list[ShardMember] = []
        self._num_bytes = 0
        self._file = path.open("wb", BUFFER_BYTES)
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT, copybufsize=BUFFER_BYTES)

    @property
    def num_images(self) -> int:
        return len(self._members)

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def members(self) -> tuple[ShardMember, ...]:
        return tuple(self._members)

    def add(self, data: bytes, *, sha256: str, name: str, facts: images.Facts, class_name: str | None = None) -> None:
        """Append one image. Its WebDataset key is its sha-256, so no stranger's name is ever a path."""
        suffix = _SUFFIX[facts.format]
        self._append(f"{sha256}.{suffix}", data)
        offset = self._tar.offset - _padded(len(data))
        if class_name is not None:
            self._append(f"{sha256}.cls.json", json.dumps(class_name).encode())
        self._num_bytes += len(data)
        self._members.append(
            ShardMember(
                sha256=sha256, name=name, offset=offset, num_bytes=len(data),
                width=facts.width, height=facts.height, format=facts.format, class_name=class_name,
            )
        )  # fmt: skip

    def _append(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644  # time, owner and group stay 0: the bytes are a function of the images
        self._tar.addfile(info, io.BytesIO(data))

    def seal(self, store: Store) -> ShardManifest:
        """Write the tar, then the manifest. Sealing the same images again changes nothing."""
        self.close()
        sha256 = sha256_of(self._path)
        key = shard_key(self._split, self._folder, sha256)
        manifest = ShardManifest(
            key=key, sha256=sha256, num_bytes=self._path.stat().st_size,
            split=self._split, bucket=self._bucket, members=self.members,
        )  # fmt: skip
        store.put(key, self._path)
        store.put(manifest_key(key), manifest.to_json())
        return manifest

    def close(self) -> None:
        """Finish the local file; sealed or not, its maker deletes it."""
        if not self._file.closed:
            self._tar.close()
            self._file.close()


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def read_manifest(store: Store, key: str) -> ShardManifest:
    """The manifest of the shard at ``key``. Raises FileNotFoundError while the shard is not whole."""
    return ShardManifest.model_validate_json(store.get(manifest_key(key)))


def read_images(store: Store, manifest: ShardManifest) -> Iterator[tuple[ShardMember, bytes]]:
    """Every image of a shard with its encoded bytes, in order, one in memory at a time."""
    with store.open(manifest.key) as file:
        for member in manifest.members:
            file.seek(member.offset)
            yield member, file.read(member.num_bytes)
