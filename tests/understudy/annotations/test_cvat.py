"""CVAT's XML: an export as its documentation shows it, and documents that no CVAT has written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from understudy.annotations import reading
from understudy.annotations.reading import LabeledFiles
from understudy.errors import LabeledSetRefused

Read = Callable[..., LabeledFiles]

#: As https://docs.cvat.ai/docs/other/xml_format/ has it, "Annotation": a task of three images, the last without a tag.
EXPORT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>4</id>
      <name>animals</name>
      <size>4</size>
      <mode>annotation</mode>
      <overlap>0</overlap>
      <bugtracker></bugtracker>
      <flipped>False</flipped>
      <created>2026-09-25 11:34:24.617558+00:00</created>
      <updated>2026-09-25 11:38:27.301183+00:00</updated>
      <labels>
        <label><name>cat</name><color>#c06060</color><type>tag</type><attributes></attributes></label>
        <label><name>dog &amp; puppy</name><color>#fa3253</color><type>tag</type><attributes></attributes></label>
      </labels>
      <segments><segment><id>4</id><start>0</start><stop>3</stop><url>http://cvat.example.com/?id=4</url></segment></segments>
      <owner><username>admin</username><email></email></owner>
      <assignee></assignee>
    </task>
    <dumped>2026-09-25 11:38:28.799808+00:00</dumped>
  </meta>
  <image id="0" name="filename000.jpg" width="1600" height="1200">
    <tag label="cat" source="manual">
      <attribute name="indoors">false</attribute>
    </tag>
    <box label="dog &amp; puppy" source="manual" occluded="0" xtl="1.0" ytl="1.0" xbr="2.0" ybr="2.0" z_order="0"></box>
  </image>
  <image id="1" name="more/filename001.jpg" subset="Train" width="1600" height="1067">
    <tag label="dog &amp; puppy" source="file"></tag>
  </image>
  <image id="2" name="filename002.jpg" width="1600" height="1067">
    <box label="cat" source="manual" occluded="0" xtl="1.0" ytl="1.0" xbr="2.0" ybr="2.0" z_order="0"></box>
  </image>
  <image id="3" name="filename003.jpg" width="1600" height="1067">
    <tag label="cat" source="auto"></tag>
  </image>
</annotations>
"""


def test_tags_are_classes_and_shapes_are_none(
    read: Read, images: Callable[..., Path], pairs: Callable[..., object], reasons: Callable[..., object]
):
    """A task's export: images/ beside the XML, with the folder of a subset. A model's tag is no person's word."""
    images("filename000.jpg", "Train/more/filename001.jpg", "filename002.jpg", "filename003.jpg", folder="images")
    found = read("annotations.xml", EXPORT)
    assert pairs(found) == [
        ("images/filename000.jpg", "cat"),
        ("images/Train/more/filename001.jpg", "dog & puppy"),
    ]
    assert reasons(found) == [("filename002.jpg", "unlabeled"), ("filename003.jpg", "unlabeled")]
    assert [one.detail for one in found.report.left_out] == ["it has only shapes", "it has only a model's tag"]
    assert found.report.left_out[0].place == "line 36"


def test_a_folder_with_such_a_file_is_read_as_its_export(
    read: Read, images: Callable[..., Path], pairs: Callable[..., object], tmp_path: Path
):
    """As CVAT's zip unpacks; or the images lie elsewhere."""
    images("filename000.jpg", "more/filename001.jpg", folder="elsewhere")
    (tmp_path / "annotations.xml").write_text(EXPORT)
    found = reading.read(tmp_path, images=tmp_path / "elsewhere")
    assert pairs(found) == [("elsewhere/filename000.jpg", "cat"), ("elsewhere/more/filename001.jpg", "dog & puppy")]


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        ("", "bad_xml", "no element found"),
        (EXPORT[:-30], "bad_xml", "no whole XML"),
        ("<Annotation><filename>a.jpg</filename></Annotation>", "bad_xml", "begins with <Annotation>"),
        ('<annotations><track id="0" label="cat"></track></annotations>', "is_video", "is of a video"),
        (
            '<!DOCTYPE a [<!ENTITY x "lol"><!ENTITY y "&x;&x;">]><annotations><image name="&y;"/></annotations>',
            "bad_xml",
            "declares a document type",
        ),
        (
            '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations></annotations>',
            "bad_xml",
            "declares a document type",
        ),
        ("<annotations></annotations>", "no_labels", "no labeled image is left of 0"),
    ],
    ids=["empty", "cut off", "Pascal VOC", "a video", "entities", "a file as entity", "no image"],
)
def test_what_is_no_such_export_is_refused(read: Read, content: str, code: str, says: str):
    """Before anything is expanded or opened that the document names."""
    with pytest.raises(LabeledSetRefused, match=says) as refused:
        read("annotations.xml", content)
    assert refused.value.code == code


def test_two_tags_of_one_image_are_a_contradiction(read: Read, images: Callable[..., Path]):
    """A classifier gives one; who sends decides what becomes of the image."""
    images("a.jpg", "b.jpg")
    twice = (
        '<annotations><image name="a.jpg"><tag label="cat"/><tag label="dog"/></image>'
        '<image name="b.jpg"><tag label="cat"/></image></annotations>'
    )
    with pytest.raises(LabeledSetRefused, match=r"'a\.jpg' is 'cat' and 'dog' \(1\) at line 1"):
        read("annotations.xml", twice)
    assert read("annotations.xml", twice, disagreement="leave-out").report.classes == {"cat": 1}
