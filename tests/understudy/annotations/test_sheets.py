"""CSV as people and spreadsheets write it, and what is no CSV."""

from collections.abc import Callable

import pytest

from understudy.annotations.reading import LabeledFiles
from understudy.errors import LabeledSetRefused

Read = Callable[..., LabeledFiles]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "path,label\r\na.jpg,cat\r\nb/c.png,dog\r\n"),
        ("a.csv", "\ufefflabel;id;file_name\ncat;1;a.jpg\ndog;2;b/c.png"),
        ("a.tsv", "filename\tclass\na.jpg\tcat\n\nb\\c.png\tdog\n"),
        ("a.csv", "Path , Label\n./a.jpg,cat\nb/../b/c.png, dog \n"),
    ],
    ids=["ours", "a spreadsheet's", "tabs, and Windows' paths", "spaces"],
)
def test_the_columns_are_found_by_their_names(
    read: Read, images: Callable[..., object], pairs: Callable[..., object], name: str, content: str
):
    """In any order, with any of three delimiters, beside other columns."""
    images("a.jpg", "b/c.png")
    assert pairs(read(name, content)) == [("a.jpg", "cat"), ("b/c.png", "dog")]


def test_a_label_may_contain_anything_that_a_folder_can_be_called(
    read: Read, images: Callable[..., object], pairs: Callable[..., object]
):
    """Delimiters, quotes, spaces, other scripts, markup, and what begins like a drive of Windows."""
    names = ['a, "b"; c', "C: drive", "[bold]", "grün 猫 🐈", "..."]
    images(*(f"{i}.jpg" for i in range(len(names))))
    lines = "".join('{}.jpg,"{}"\n'.format(i, name.replace('"', '""')) for i, name in enumerate(names))
    assert pairs(read("a.csv", f"path,label\n{lines}")) == [(f"{i}.jpg", name) for i, name in enumerate(names)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "the first line of .* has 0 columns"),
        ("a.jpg,cat\n", "begin the file with the line path,label"),
        ("path,label,class\na.jpg,cat,dog\n", "has 2 columns of the name label or class"),
        ("path,label\na.jpg,cat,dog\n", "line 2, has 3 cells and the first line 2"),
        ('path,label\na.jpg,"cat\n', "line 2: unexpected end of data"),
        (b"path,label\na.jpg,gr\xfcn\n", "is not UTF-8"),
        (f"path,label\na.jpg,{'x' * 200_000}\n", "line 2: field larger than field limit"),
    ],
)
def test_what_is_no_such_file_is_refused_with_its_line(read: Read, content: str | bytes, says: str):
    """Nobody guesses which column is meant, or where a broken line ends."""
    with pytest.raises(LabeledSetRefused, match=says) as refused:
        read("a.csv", content)
    assert refused.value.code == "bad_csv"
