"""The store, in a folder and in a bucket: one test body runs over both."""

import asyncio
import errno
import tempfile
import threading
import zipfile
from io import BytesIO
from pathlib import Path

import obstore
import pytest

from understudy import store as layout
from understudy.errors import SettingsRefused
from understudy.store import MAX_WHOLE_BYTES, PART_BYTES, Store, full_disk_said, sha256_of


async def pieces(*chunks: bytes):
    for chunk in chunks:
        yield chunk


def test_what_is_put_is_read_back(store):
    """An object comes back whole, as a range, in pieces and as a seekable file."""
    data = bytes(range(256)) * 4096

    assert store.put("a/b/c", data)

    assert store.exists("a/b/c")
    assert store.get("a/b/c") == data
    assert store.get_range("a/b/c", 1000, 24) == data[1000:1024]
    assert b"".join(store.chunks("a/b/c")) == data
    with store.open("a/b/c") as file:
        file.seek(500_000)
        assert file.read(16) == data[500_000:500_016]
        assert file.tell() == 500_016
        assert file.read() == data[500_016:]


def test_a_second_put_changes_nothing(store):
    """Objects are written once: the second writer is told so, and the first one's bytes stay."""
    assert store.put("key", b"first") is True
    assert store.put("key", b"second") is False
    assert store.get("key") == b"first"


def test_of_racing_puts_exactly_one_wins(store):
    """Writers at the same moment: one is told that it wrote, and readers find what it wrote."""
    start = threading.Barrier(4)
    wrote: dict[int, bool] = {}

    def put(number: int) -> None:
        start.wait()
        wrote[number] = store.put("key", bytes([number]) * 1000)

    threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (winner,) = [number for number, is_mine in wrote.items() if is_mine]
    assert store.get("key") == bytes([winner]) * 1000


def test_replace_writes_over_what_is_there(store):
    """Progress and checkpoints may be replaced, whether they are there or not."""
    store.replace("key", b"first")
    store.replace("key", b"second")

    assert store.get("key") == b"second"


def test_a_reader_never_sees_half_an_object(store):
    """While an object is replaced again and again, every read is all of one version."""
    versions = [bytes([n]) * 300_000 for n in range(8)]
    store.replace("key", versions[0])
    is_done = threading.Event()

    def write() -> None:
        for version in versions * 3:
            store.replace("key", version)
        is_done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = [store.get("key")]
    while not is_done.is_set():
        seen.append(store.get("key"))
    writer.join()

    assert [data[:1] for data in seen if data not in versions] == []


def test_a_local_file_can_be_put(store, tmp_path):
    """A path is stored as the bytes of its file."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)

    assert store.put("key", path)
    assert not store.put("key", path)

    assert store.get("key") == path.read_bytes()


@pytest.mark.parametrize("num_bytes", [1000, MAX_WHOLE_BYTES + 1])
def test_a_file_is_put_once(store, tmp_path, num_bytes):
    """However large: the second is told so; and the object does not need the file any more."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"1" * num_bytes)
    second.write_bytes(b"2")

    assert store.put("key", first) is True
    assert store.put("key", second) is False
    first.unlink()

    assert store.get("key") == b"1" * num_bytes


def test_a_file_of_the_same_disk_is_not_copied(local_store, tmp_path):
    """A shard of 256 MB is on the disk once, and never in memory."""
    file = tmp_path / "file"
    file.write_bytes(b"data")

    local_store.put("folder/key", file)

    assert (local_store.folder / "folder/key").samefile(file)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no other file system to put a file on")
def test_a_file_of_another_disk_is_copied(local_store):
    """As where the spool has a disk of its own."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(b"data")
        file.flush()

        assert local_store.put("key", Path(file.name)) is True
        assert local_store.put("key", Path(file.name)) is False

    assert local_store.get("key") == b"data"


async def test_an_upload_is_stored_as_it_arrives(store):
    """Pieces of any size become one object, in their order."""
    chunks = [b"a", b"b" * (PART_BYTES + 1), b"", b"c" * 70_000]

    await store.receive("key", pieces(*chunks))

    assert store.get("key") == b"".join(chunks)


async def test_an_empty_upload_is_an_empty_object(store):
    """A client may send nothing; what to make of that is its job's business."""
    await store.receive("key", pieces())

    assert store.get("key") == b""


@pytest.mark.parametrize("sent", [10, PART_BYTES + 10, 3 * PART_BYTES])
async def test_an_upload_that_breaks_leaves_nothing_behind(store, tmp_path, sent):
    """If the client goes away, the error comes out and no object, nor any part of one, stays."""

    async def broken():
        yield b"x" * sent
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError, match="went away"):
        await store.receive("uploads/key", broken())

    assert not store.exists("uploads/key")
    assert store.list("") == []
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file()] == []


async def test_an_upload_that_is_cancelled_leaves_nothing_behind(store):
    """When the service stops in the middle of an upload, no object appears."""
    has_begun = asyncio.Event()

    async def endless():
        yield b"x" * (PART_BYTES + 10)
        has_begun.set()
        await asyncio.Event().wait()
        yield b"never"

    upload = asyncio.create_task(store.receive("uploads/key", endless()))
    await has_begun.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    assert not store.exists("uploads/key")


def test_keys_are_listed_in_order(store):
    """A prefix is a folder, not the beginning of a name."""
    for key in ("shards/shop/2.tar", "shards/shop/1.tar", "shards/shop-2/1.tar", "labels/x"):
        store.put(key, b"x")

    assert store.list("shards/shop") == ["shards/shop/1.tar", "shards/shop/2.tar"]
    assert store.list("nothing") == []
    assert len(store.list("")) == 4


def test_what_was_deleted_is_gone(store):
    """Deleting twice is deleting once, and the key is free again."""
    store.put("key", b"first")
    store.delete("key")
    store.delete("key")

    assert not store.exists("key")
    assert store.put("key", b"second")


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda store: store.get("nope"), id="get"),
        pytest.param(lambda store: store.get_range("nope", 0, 1), id="get_range"),
        pytest.param(lambda store: list(store.chunks("nope")), id="chunks"),
        pytest.param(lambda store: store.open("nope"), id="open"),
    ],
)
def test_a_missing_object_is_a_missing_file(store, read):
    """Every way to read says FileNotFoundError, not the vendor's words."""
    with pytest.raises(FileNotFoundError):
        read(store)


def test_an_open_object_serves_libraries_that_want_a_file(store):
    """zipfile reads its index from the end and members from anywhere."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", b"hello" * 10_000)
    store.put("a.zip", buffer.getvalue())

    with store.open("a.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("a.txt") == b"hello" * 10_000


def test_a_folder_with_odd_characters_is_a_store(tmp_path):
    """A data folder may have a space, an umlaut or a percent sign in its path."""
    folder = tmp_path / "größe 100% #1"
    store = Store(folder.as_uri())
    store.put("key", b"x")

    assert (folder / "key").read_bytes() == b"x"
    with store.open("key") as file:
        assert file.read() == b"x"


@pytest.mark.parametrize("url", ["", "/tmp/store", "http://example.com/", "memory://"])
def test_an_unknown_kind_of_store_is_refused(url):
    """The error names the setting, its value and what is expected."""
    with pytest.raises(SettingsRefused, match=r"UNDERSTUDY_STORE_URL=.*expected file:///"):
        Store(url)


def test_the_layout_of_keys():
    """Where everything lies in a store; changing this loses what is stored."""
    sha256 = "0123456789abcdef" * 4
    shard = layout.shard_key("unlabeled", "shop", sha256)

    assert layout.upload_key("j1", 3) == "uploads/j1/000003"
    assert layout.weights_key("abc") == "weights/abc.safetensors"
    assert layout.receipt_key("j1", 2) == "receipts/j1/2.parquet"
    assert shard == "shards/shop/0123456789abcdef0123456789abcdef.tar"
    assert layout.shard_key("holdout", None, sha256) == "holdout/0123456789abcdef0123456789abcdef.tar"
    assert layout.manifest_key(shard) == "shards/shop/0123456789abcdef0123456789abcdef.json"
    assert layout.labels_key("g0001-aaaaaa", shard, 2) == (
        "labels/g0001-aaaaaa/shop/0123456789abcdef0123456789abcdef.2.parquet"
    )
    assert layout.generation_key(3, "selection.parquet") == "generations/0003/selection.parquet"
    assert layout.model_key("g0001-aaaaaa", "card.json") == "models/g0001-aaaaaa/card.json"


def test_the_sha256_of_a_file(tmp_path):
    """A file's digest is that of its bytes."""
    (tmp_path / "file").write_bytes(b"abc")

    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_objects_are_read_as_one_from_any_place(store):
    """Parts of one length and a rest, over their borders, to the end and past it; an archive reader needs no more."""
    data = bytes(range(256)) * 10
    keys = [f"parts/{number}" for number in range(3)]
    for number, key in enumerate(keys):
        store.put(key, data[number * 1000 : (number + 1) * 1000])
    with store.open_parts(keys, 1000) as file:
        assert file.read() == data
        assert file.seek(-1560, 2) == 1000
        assert file.read(1) == data[1000:1001]
        file.seek(990)
        assert file.read(1020) == data[990:2010]
        file.seek(5000)
        assert file.read() == b""
    with pytest.raises(FileNotFoundError):
        store.open_parts([], 1000)


def test_a_full_disk_is_an_os_error():
    """What obstore says of it has no type of its own; everything else it says stays as it is."""
    said = "Generic LocalFileSystem error: Unable to copy data to file: No space left on device (os error 28)"
    with pytest.raises(OSError, match="No space left on device") as raised, full_disk_said():
        raise obstore.exceptions.GenericError(said)
    assert raised.value.errno == errno.ENOSPC

    with pytest.raises(obstore.exceptions.GenericError), full_disk_said():
        raise obstore.exceptions.GenericError("Input/output error (os error 5)")
