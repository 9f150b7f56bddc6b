"""Label sets as local files: fetched once, and room made for new ones."""

import os

import pytest

from understudy import label_files


def test_a_key_is_a_path(store, tmp_path):
    """Whether the store is a folder or a bucket, its objects can be read as files."""
    store.put("labels/v/1.parquet", b"one")

    folder = label_files.folder_with(store, ["labels/v/1.parquet"], tmp_path / "cache")

    assert (folder / "labels/v/1.parquet").read_bytes() == b"one"


def test_what_was_fetched_is_not_fetched_again(store, tmp_path):
    """Label sets never change, so a copy is as good when the bucket is away."""
    if store.folder is not None:
        pytest.skip("nothing is fetched from a folder")
    store.put("a", b"a")
    label_files.folder_with(store, ["a"], tmp_path)
    store.delete("a")

    assert (label_files.folder_with(store, ["a"], tmp_path) / "a").read_bytes() == b"a"
    with pytest.raises(FileNotFoundError):
        label_files.folder_with(store, ["b"], tmp_path)


def test_what_was_used_longest_ago_makes_room(store, tmp_path):
    """The cache keeps to its limit, but has all that is needed now."""
    if store.folder is not None:
        pytest.skip("nothing is fetched from a folder")
    for key in "abc":
        store.put(key, b"x" * 10)
    label_files.folder_with(store, ["a", "b"], tmp_path)
    os.utime(tmp_path / "a", (1, 1))

    label_files.folder_with(store, ["b", "c"], tmp_path, max_bytes=20)
    assert {path.name for path in tmp_path.iterdir()} == {"b", "c"}

    label_files.folder_with(store, ["a", "b", "c"], tmp_path, max_bytes=20)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}
