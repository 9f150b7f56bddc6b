"""Shards: the same bytes from the same images, in WebDataset's layout, read by the manifest's offsets."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy import images
from understudy.shards import ShardWriter, read_images, read_manifest
from understudy.store import manifest_key, sha256_of
from understudy.testing import picture

#: The sha-256 of the shard of ``PICTURES``; if it changes, the same ingest makes another object than before.
GOLDEN_SHA256 = "ae252788f70b92860e1fd6037f1d0496ecf4017d9235b8a2a8d5076ccad18d13"

FACTS = images.Facts(width=4, height=4, format="PNG")
PICTURES = [bytes([n]) * size for n, size in enumerate((1, 511, 512, 513, 5000))]


def write(path: Path, pictures: list[bytes], *, classes: list[str | None] | None = None) -> ShardWriter:
    writer = ShardWriter(path, split="unlabeled", bucket="shop")
    for number, data in enumerate(pictures):
        sha256 = hashlib.sha256(data).hexdigest()
        class_name = classes[number] if classes else None
        writer.add(data, sha256=sha256, name=f"photos/{number}.png", facts=FACTS, class_name=class_name)
    writer.close()
    return writer


def test_the_same_images_make_the_same_bytes(tmp_path):
    """A shard is a function of its images and their order: no clock, no user, no path is in it."""
    write(tmp_path / "one.tar", PICTURES)
    write(tmp_path / "two.tar", PICTURES)
    write(tmp_path / "other.tar", PICTURES[::-1])

    assert sha256_of(tmp_path / "one.tar") == sha256_of(tmp_path / "two.tar") == GOLDEN_SHA256
    assert sha256_of(tmp_path / "other.tar") != GOLDEN_SHA256


def test_every_offset_points_at_its_image(tmp_path):
    """The bytes at a member's offset are the image, labels between them or not."""
    path = tmp_path / "shard.tar"
    writer = write(path, PICTURES, classes=["shoe", None, "hat", "a class with spaces", None])

    tar = path.read_bytes()
    assert [tar[m.offset : m.offset + m.num_bytes] for m in writer.members] == PICTURES
    assert (writer.num_images, writer.num_bytes) == (len(PICTURES), sum(map(len, PICTURES)))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pictures=st.lists(st.binary(min_size=1, max_size=2000), min_size=1, max_size=8, unique=True))
def test_any_images_come_back_in_order(tmp_path, local_store, pictures):
    """Whatever the sizes, tarfile and the manifest find the same images in the same order."""
    path = tmp_path / "shard.tar"
    manifest = write(path, pictures).seal(local_store)

    assert [data for _, data in read_images(local_store, manifest)] == pictures
    with tarfile.open(path) as tar:
        assert [tar.extractfile(info).read() for info in tar] == pictures


def test_the_layout_is_webdatasets(tmp_path):
    """Samples are adjacent files that share their name up to the first dot; classes are JSON beside the image."""
    path = tmp_path / "shard.tar"
    writer = write(path, PICTURES[:2], classes=["shoe", "größe/../x"])

    with tarfile.open(path) as tar:
        names = [info.name for info in tar]
        classes = [json.load(tar.extractfile(n)) for n in names if n.endswith(".cls.json")]
        assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in tar} == {(0, 0, 0, "", "", 0o644)}
    first, second = (m.sha256 for m in writer.members)
    assert names == [f"{first}.png", f"{first}.cls.json", f"{second}.png", f"{second}.cls.json"]
    assert classes == ["shoe", "größe/../x"]


@pytest.mark.parametrize("image_format", images.FORMATS)
def test_every_format_that_is_taken_has_its_suffix(tmp_path, image_format):
    """Each format that can be decoded can be sealed."""
    data = picture(0, 2, image_format=image_format)
    writer = ShardWriter(tmp_path / "shard.tar", split="unlabeled", bucket="shop")
    writer.add(data, sha256="0" * 64, name="x", facts=images.inspect(data))
    writer.close()

    with tarfile.open(tmp_path / "shard.tar") as tar:
        assert images.inspect(tar.extractfile(tar.next()).read()).format == image_format


def test_a_sealed_shard_is_in_the_store_with_its_manifest(tmp_path, store):
    """The manifest describes the tar beside it, and reading goes through it."""
    manifest = write(tmp_path / "shard.tar", PICTURES).seal(store)

    assert read_manifest(store, manifest.key) == manifest
    assert hashlib.sha256(store.get(manifest.key)).hexdigest() == manifest.sha256
    assert manifest.num_bytes == len(store.get(manifest.key))
    assert [data for _, data in read_images(store, manifest)] == PICTURES
    assert [member.name for member, _ in read_images(store, manifest)] == [f"photos/{n}.png" for n in range(5)]


def test_sealing_twice_is_sealing_once(tmp_path, local_store):
    """Two workers that seal the same images write the same objects."""
    first = write(tmp_path / "one.tar", PICTURES).seal(local_store)
    second = write(tmp_path / "two.tar", PICTURES).seal(local_store)

    assert first == second
    assert local_store.list("") == sorted([first.key, manifest_key(first.key)])


def test_a_shard_without_its_manifest_is_not_whole(tmp_path, local_store):
    """While the manifest is missing, the shard is not there."""
    manifest = write(tmp_path / "shard.tar", PICTURES).seal(local_store)
    local_store.delete(manifest_key(manifest.key))

    with pytest.raises(FileNotFoundError):
        read_manifest(local_store, manifest.key)


def test_a_stored_shard_is_a_plain_tar(tmp_path, local_store):
    """Anybody can unpack what we keep, without our code."""
    manifest = write(tmp_path / "shard.tar", [picture(0, 2), picture(1, 2)]).seal(local_store)

    with tarfile.open(fileobj=io.BytesIO(local_store.get(manifest.key))) as tar:
        for info in tar:
            assert images.decode(tar.extractfile(info).read()).shape == (32, 32, 3)
