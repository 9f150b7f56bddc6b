import io

import pytest

from worker import archives, samples
from worker.entries import Entry, Folder

PNG = b"\x89PNG\r\n\x1a\n not decoded here"


def told(data: bytes) -> list[tuple[str, str | None]]:
    return [(e.name, e.attached_to) for e in archives.read(io.BytesIO(data), "x").contents if isinstance(e, Entry)]


def test_a_webdataset_shard_is_taken_as_it_is(pack_tar):
    """What lies beside an image belongs to it, whether it comes before or after; it gives no bytes."""
    data = pack_tar(
        {"s/1.cls": b"3", "s/1.jpg": PNG, "s/1.json": b"{}", "s/2.txt": b"", "s/2.left.png": PNG, "s/2.right.png": PNG}
    )
    assert told(data) == [
        ("s/1.cls", "s/1.jpg"), ("s/1.jpg", None), ("s/1.json", "s/1.jpg"),
        ("s/2.txt", "s/2.left.png"), ("s/2.left.png", None), ("s/2.right.png", None),
    ]  # fmt: skip
    assert [e.data for e in archives.read(io.BytesIO(data), "x").contents if e.attached_to] == [b""] * 3


@pytest.mark.parametrize(
    "files",
    [
        {"1.txt": b"no image beside it", "2.png": PNG},
        {"1.png": PNG, "2.txt": b"of another sample"},
        {"a/1.png": PNG, "b/1.txt": b"in another folder"},
        {"1.png": PNG, "1.exe": b"nothing that belongs to an image"},
        {"1.png": PNG, "1.txt": PNG},  # what it is, its bytes say
    ],
)
def test_what_belongs_to_no_image_is_told_as_it_is(files, pack_tar):
    """In its place among the others, and with bytes enough to be judged."""
    assert told(pack_tar(files)) == [(name, None) for name in files]
    assert all(entry.data for entry in archives.read(io.BytesIO(pack_tar(files)), "x").contents)


def test_a_sample_without_end_is_not_held_back_without_end():
    """A hundred thousand captions of one name hold back few."""
    given = 0

    def contents():
        nonlocal given
        for given in range(100_000):  # noqa: B007
            yield Entry("1.txt", b"x" * 1000)

    attached = samples.attached(contents(), archives.is_image)
    assert next(attached) == Entry("1.txt", b"x" * 16)
    assert given <= samples.MAX_HELD


def test_folders_pass_in_their_place():
    """And end a sample."""
    contents = [Entry("a/1.txt", b"x"), Folder("b"), Entry("a/1.png", PNG)]
    assert list(samples.attached(iter(contents), archives.is_image)) == contents
