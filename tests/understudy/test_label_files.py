"""Label sets as local files: fetched once, and room made for new ones."""

import os

import pytest

from understudy import label_files


def test_a_key_is_a_path(store, tmp_path):
    """Whether the store is a folder or a bucket, its objects can be read as files."""
    store.put("labels/v/1.parquet", b"one")

    folder = label_files.folder_with(store, ["labels/v/1.parquet"], tmp_path / "cache")

    assert (folder / "labels/v/1.parquet").read_bytes() == b"one"


def test_nothing_is_copied_that_is_a_file_here_already(local_store, tmp_path):
    """A folder's objects are read where they lie."""
    assert label_files.folder_with(local_store, [], tmp_path / "cache") == local_store.folder
    assert not (tmp_path / "cache").exists()


def test_what_was_fetched_is_not_fetched_again(bucket_store, tmp_path):
    """Label sets never change, so a copy is as good when the bucket is away."""
    bucket_store.put("a", b"a")
    label_files.folder_with(bucket_store, ["a"], tmp_path)
    bucket_store.delete("a")

    assert (label_files.folder_with(bucket_store, ["a"], tmp_path) / "a").read_bytes() == b"a"
    with pytest.raises(FileNotFoundError):
        label_files.folder_with(bucket_store, ["b"], tmp_path)


def test_what_was_used_longest_ago_makes_room(bucket_store, tmp_path):
    """The cache keeps to its limit, but has all that is needed now."""
    for key in "abc":
        bucket_store.put(key, b"x" * 10)
    label_files.folder_with(bucket_store, ["a", "b"], tmp_path)
    os.utime(tmp_path / "a", (1, 1))

    label_files.folder_with(bucket_store, ["b", "c"], tmp_path, max_bytes=20)
    assert {path.name for path in tmp_path.iterdir()} == {"b", "c"}

    label_files.folder_with(bucket_store, ["a", "b", "c"], tmp_path, max_bytes=20)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}
