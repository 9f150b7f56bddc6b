"""What is sent: the same files as the same bytes, from any place on, without a copy on disk."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from understudy import packing
from understudy.errors import UploadRefused
from understudy.packing import Packed


def whole(packed: Packed, offset: int = 0) -> bytes:
    return b"".join(packed.read(offset))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Names and sizes at the borders of what a tar's header and blocks hold."""
    root = tmp_path / "photos"
    (root / "empty").mkdir(parents=True)
    (root / ("long" * 30)).mkdir()
    for name, size in (("a.jpg", 0), ("b.jpg", 1), ("c.jpg", 512), (f"{'long' * 30}/grün.jpg", 3000)):
        (root / name).write_bytes(bytes([size % 251]) * size)
    return root


def test_a_folder_is_a_tar_that_anybody_reads(folder: Path):
    """Every file and folder is there with its bytes, and the length is what was said."""
    packed = packing.folder(folder)
    data = whole(packed)
    assert (packed.name, packed.num_bytes) == ("photos.tar", len(data))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar.getmembers() if m.isfile()}
        folders = {m.name for m in tar.getmembers() if m.isdir()}
    assert found == {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert folders == {"empty", "long" * 30}


def test_every_place_of_a_tar_can_be_read_from(folder: Path):
    """What follows any offset is what follows it in the whole: an upload may go on anywhere."""
    packed = packing.folder(folder)
    data = whole(packed)
    for offset in (*range(0, len(data), 7), len(data) - 1, len(data)):
        assert whole(packed, offset) == data[offset:], offset
    assert packed.part(100, 1000) == data[100:1100]
    assert packed.part(len(data) - 5, 1000) == data[-5:]


def test_an_upload_reads_as_an_open_file(folder: Path):
    """From any place, in pieces of any size, to its end and no further; as what measures a file expects."""
    packed = packing.folder(folder)
    data = whole(packed)
    with packing.opened(packed) as file:
        assert (file.seek(0, io.SEEK_END), file.tell(), file.read(1)) == (len(data), len(data), b"")
        for offset in (0, 511, 512, 513, 1025, len(data) - 1):
            file.seek(offset)
            assert file.read(700) + file.read(1) + file.read() == data[offset:], offset
            assert file.tell() == len(data)
        file.seek(100)
        file.seek(-50, io.SEEK_CUR)
        assert file.read(7) == data[50:57]
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            assert tar.getmember("c.jpg").size == 512


def test_the_identity_is_of_names_sizes_and_times(folder: Path):
    """The same files again are the same upload; one that was changed makes it another."""
    before = packing.folder(folder).identity
    assert packing.folder(folder).identity == before
    os.utime(folder / "c.jpg", (1, 1))
    assert packing.folder(folder).identity != before


def test_a_file_that_has_shrunk_is_refused_rather_than_padded(folder: Path):
    """What was listed can no longer be sent."""
    packed = packing.folder(folder)
    (folder / "c.jpg").write_bytes(b"short")
    with pytest.raises(UploadRefused, match="had 512 bytes"):
        whole(packed)


def test_loose_images_are_one_upload_and_each_archive_or_folder_is_one(folder: Path, tmp_path: Path):
    """Two images of one name both arrive."""
    (tmp_path / "x.zip").write_bytes(b"PK")
    (tmp_path / "b.jpg").write_bytes(b"other")
    sent = packing.every([folder, tmp_path / "x.zip", folder / "b.jpg", tmp_path / "b.jpg"])
    assert [packed.name for packed in sent] == ["photos.tar", "x.zip", "files.tar"]
    with tarfile.open(fileobj=io.BytesIO(whole(sent[2]))) as tar:
        assert tar.getnames() == ["000000/b.jpg", "000001/b.jpg"]
    assert [packed.name for packed in packing.every([tmp_path / "b.jpg"])] == ["b.jpg"]
