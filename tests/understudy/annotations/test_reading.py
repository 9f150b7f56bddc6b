"""Which file and which class is meant, what is left out, what is refused, and that all of it arrives as it was sent."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.annotations import reading
from understudy.annotations.reading import Format, LabeledFiles
from understudy.errors import LabeledSetRefused, UploadRefused
from worker import entries

Read = Callable[..., LabeledFiles]


def test_what_is_sent_is_a_tar_of_a_folder_a_class(read: Read, images: Callable[..., Path], tmp_path: Path):
    """Two files of one name both arrive, and the service's reader sees each class as it was written."""
    images("1/x.jpg", "2/x.jpg", "3/back\\slash.jpg", "4/._x.jpg")
    names = ["C: drive", "  spaced out ", "%2e", "...", "- ü 猫"]
    lines = "".join(f'{i + 1}/x.jpg,"{name}"\n' for i, name in enumerate(names[:2]))
    found = read("a.csv", f"path,label\n{lines}3/back\\slash.jpg,{names[2]}\n4/._x.jpg,...\n")
    packed = found.packed()
    with tarfile.open(fileobj=io.BytesIO(b"".join(packed.read(0)))) as tar:
        sent = {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar.getmembers()}
    assert [entries.folder_of(name) for name in sent] == ["C: drive", "spaced out", "%2e", "..."]
    assert all(entries.refuse_name(name) is None for name in sent)
    assert list(sent.values()) == [(file).read_bytes() for file, _ in found.files]


def test_what_is_not_taken_is_told_with_its_reason(
    read: Read, images: Callable[..., Path], reasons: Callable[..., Any], tmp_path: Path
):
    """No file, a folder, a path that leads out, an address, a name that no file can have, no class."""
    inside = images("a.jpg", "b.jpg", folder="in")
    images("outside.jpg")
    (inside / "folder.jpg").mkdir()
    (inside / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    lines = ["a.jpg,cat", f"{inside}/b.jpg,dog", "link.jpg,dog", "../outside.jpg,cat", "/etc/passwd,cat"]
    lines += ["folder.jpg,cat", "missing.jpg,cat", "https://x/y.jpg,cat", "b\0.jpg,cat", f"{'x' * 5000}.jpg,cat"]
    lines += [",cat", "c.jpg, "]
    found = read("a.csv", "path,label\n" + "\n".join(lines), images=inside)
    assert found.report.classes == {"cat": 1, "dog": 2}
    assert [(image[:15], reason) for image, reason in reasons(found)] == [
        ("../outside.jpg", "outside"),
        ("/etc/passwd", "outside"),
        ("folder.jpg", "missing_file"),
        ("missing.jpg", "missing_file"),
        ("https://x/y.jpg", "remote"),
        ("b\0.jpg", "missing_file"),
        ("x" * 15, "missing_file"),
        ("", "missing_file"),
        ("c.jpg", "unlabeled"),
    ]


def test_an_image_that_was_labeled_twice_is_one(read: Read, images: Callable[..., Path]):
    """Of one class, whichever way its path is written; of two, it is refused by name, or left out."""
    images("a.jpg", "b.jpg")
    again = read("a.csv", "path,label\na.jpg,cat\n./a.jpg,cat\na.jpg, cat\nb.jpg,dog\n")
    assert (again.report.classes, again.report.num_repeated) == ({"cat": 1, "dog": 1}, 2)
    both = "path,label\na.jpg,cat\n./a.jpg,dog\nb.jpg,dog\n"
    with pytest.raises(
        LabeledSetRefused, match=r"1 images have more .* 'a\.jpg' is 'cat' \(1\), 'dog' \(1\) at line 2"
    ):
        read("a.csv", both)
    assert read("a.csv", both, disagreement="majority").report.classes == {"dog": 1}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a/b", "bad_class_name"),
        ("a\\b", "bad_class_name"),
        ("..", "bad_class_name"),
        (".", "bad_class_name"),
        ("__MACOSX", "bad_class_name"),
        ("a\tb", "bad_class_name"),
        ("x" * 256, "bad_class_name"),
        ("DOG", "class_twins"),
        ("Straße", "class_twins"),
        ("e\u0301te", "class_twins"),
    ],
)
def test_a_class_that_would_not_arrive_as_it_is_is_refused_until_it_is_renamed(
    read: Read, images: Callable[..., Path], name: str, code: str
):
    """What cannot be a folder, and twins that differ by case or by encoding; another name is the answer to both."""
    images("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    content = f"path,label\na.jpg,{name}\nb.jpg,dog\nc.jpg,strasse\nd.jpg,\u00e9te\n"
    with pytest.raises(LabeledSetRefused, match="--rename") as refused:
        read("a.csv", content)
    assert refused.value.code == code
    assert read("a.csv", content, renamed={name: "other"}).report.classes["other"] == 1


def test_renaming_makes_two_classes_one_before_anybody_contradicts(read: Read, images: Callable[..., Path]):
    """Who wrote Cat and who wrote cat agree; a class that is not there is a slip."""
    images("a.jpg", "b.jpg")
    content = "path,label\na.jpg,Cat\na.jpg,cat\nb.jpg,dog\n"
    assert read("a.csv", content, renamed={"Cat": "cat"}).report.classes == {"cat": 1, "dog": 1}
    with pytest.raises(LabeledSetRefused, match="there is no class 'Cta' to rename; there is Cat, cat, dog"):
        read("a.csv", content, renamed={"Cta": "cat"})


def test_nothing_left_is_refused_with_where_it_was_looked_for(read: Read, images: Callable[..., Path], tmp_path: Path):
    """The usual slip is the wrong folder."""
    elsewhere = images("other.jpg", folder="elsewhere")
    with pytest.raises(LabeledSetRefused, match=r"left of 2 \(2 missing_file\).*'a\.jpg'.*elsewhere.*--images"):
        read("a.csv", "path,label\na.jpg,cat\nb.jpg,dog\n", images=elsewhere)


def test_the_format_is_told_by_the_name(images: Callable[..., Path], tmp_path: Path):
    """An archive, whatever it is called, is as a folder; annotations are looked at as what they are said to be."""
    found = {name: reading.format_of(tmp_path / name).value for name in ("a.CSV", "a.tsv", "a.json", "a.xml", "a.zip")}
    assert found == {"a.CSV": "csv", "a.tsv": "csv", "a.json": "label-studio", "a.xml": "cvat", "a.zip": "folder"}
    assert reading.format_of(tmp_path) == Format.FOLDER
    images("a.zip")
    with pytest.raises(LabeledSetRefused, match="is an archive"):
        reading.read(tmp_path / "a.zip")
    with pytest.raises(LabeledSetRefused, match="is a folder, and csv annotations are a file in one"):
        reading.read(tmp_path, Format.CSV)


def test_folders_are_read_as_the_service_does(
    images: Callable[..., Path], tmp_path: Path, pairs: Callable[..., object], reasons: Callable[..., object]
):
    """The nearest folder is the class; what is no image by its name is not counted."""
    root = images("train/cat/1.jpg", "dog/2.PNG", "dog/notes.txt", "3.jpg", folder="set")
    found = reading.read(root)
    assert sorted(found.report.classes) == ["cat", "dog"]
    assert reasons(found) == [("3.jpg", "unlabeled")]


def test_a_file_that_changed_since_is_refused_while_it_is_sent(read: Read, images: Callable[..., Path]):
    """Nothing is copied, so nothing is padded either."""
    root = images("a.jpg", "b.jpg")
    packed = read("a.csv", "path,label\na.jpg,cat\nb.jpg,dog\n").packed()
    os.truncate(root / "b.jpg", 1)
    with pytest.raises(UploadRefused, match="has fewer now"):
        b"".join(packed.read(0))
