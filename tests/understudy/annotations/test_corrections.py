"""What is written for other tools: read again it is the same, and it is what their documentation asks for."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from understudy.annotations import corrections, reading
from understudy.annotations.corrections import Correction, Opinion, Tool
from understudy.errors import Refused

#: Names of files of text, by format.
LABELS = {
    Tool.CSV: "labels.csv",
    Tool.LABEL_STUDIO: "tasks.json",
    Tool.CVAT: "annotations.xml",
}
ODD = "a, \"b\" & <c> 'd'; [e] = 猫"


def correction(number: int, class_name: str | None, verdict: str | None, label: str = "cat") -> Correction:
    """Of an image whose sha-256 is a number."""
    said = Opinion(
        sha256=f"{number:064x}",
        class_name=class_name,
        verdict=verdict,
        teacher="g0001-abcdef",
        label=label,
        confidence=0.875,
    )
    return Correction(said, f"{said.sha256}.jpg", 640, 480)


SAID = [
    correction(1, "cat", "accept"),
    correction(2, ODD, "correct"),
    correction(3, None, "reject"),
    correction(4, None, None, label=ODD),
]


def write(folder: Path, tool: Tool, said: Sequence[Correction]) -> Path:
    """As the command does; gives what is read again."""
    corrections.refuse_classes(tool, [one.said for one in said])
    for one in said:
        if place := corrections.place(tool, one):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(one.file.encode())
    for name, pieces in corrections.texts(tool, said, folder=folder.name).items():
        (folder / name).write_text("".join(pieces), "utf-8", newline="")
    return folder / LABELS[tool] if tool in LABELS else folder


@pytest.mark.parametrize("tool", list(Tool))
def test_what_is_written_is_read_again_as_the_same(tmp_path: Path, tool: Tool):
    """The same file with the same class; what a person rejected, or nobody saw, has none."""
    folder = tmp_path / "my export [1] %"
    folder.mkdir()
    found = reading.read(write(folder, tool, SAID))
    assert {(file.name, name) for file, name in found.files} == {(SAID[0].file, "cat"), (SAID[1].file, ODD)}
    expected = {
        Tool.CSV: ["unlabeled", "unlabeled"],
        Tool.LABEL_STUDIO: ["cancelled", "unlabeled"],
        Tool.CVAT: ["unlabeled", "unlabeled"],
        Tool.FOLDER: [],
    }[tool]
    assert [one.reason for one in found.report.left_out] == expected


def test_label_studio_gets_tasks_with_the_teachers_word_as_prediction(tmp_path: Path):
    """And a labeling interface whose names are those of the results, with every class to choose from."""
    tasks = json.loads(write(tmp_path, Tool.LABEL_STUDIO, SAID).read_text("utf-8"))
    prediction = tasks[3]["predictions"][0]
    assert (prediction["model_version"], prediction["score"]) == ("g0001-abcdef", 0.875)
    assert prediction["result"][0]["value"] == {"choices": [ODD]}
    assert "annotations" not in tasks[3]
    assert tasks[0]["data"]["image"] == f"/data/local-files/?d={tmp_path.name}/images/{SAID[0].file}"
    view = ElementTree.parse(tmp_path / "label-config.xml").getroot()
    choices = view.find("Choices")
    assert choices is not None
    assert [each.get("value") for each in choices] == sorted(["cat", ODD])
    assert {each["from_name"] for task in tasks for each in task["predictions"][0]["result"]} == {choices.get("name")}


def test_cvat_gets_tags_of_people_and_of_models_apart(tmp_path: Path):
    """Images by name and size, labels of the kind tag; a person's word is no model's, and a rejected image has no tag."""
    document = ElementTree.parse(write(tmp_path, Tool.CVAT, SAID)).getroot()
    images = document.findall("image")
    assert [(i.get("name"), i.get("width"), i.get("height")) for i in images[:1]] == [(SAID[0].file, "640", "480")]
    tags = [[(tag.get("label"), tag.get("source")) for tag in image] for image in images]
    assert tags == [[("cat", "manual")], [(ODD, "manual")], [], [(ODD, "auto")]]
    assert [each.text for each in document.iter("name")] == sorted(["cat", ODD])


def test_a_sheet_has_the_teachers_word_beside_the_persons(tmp_path: Path):
    """In columns of other names, which are nobody's label when it is read again."""
    with write(tmp_path, Tool.CSV, SAID).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["verdict"], row["teacher_label"]) for row in rows] == [
        ("cat", "accept", "cat"),
        (ODD, "correct", "cat"),
        ("", "reject", "cat"),
        ("", "", ODD),
    ]
    assert rows[0]["confidence"] == "0.875000"


@pytest.mark.parametrize(
    ("tool", "names", "says"),
    [
        (Tool.FOLDER, ["a/b"], "contains / or"),
        (Tool.FOLDER, [".."], "not looked into"),
        (Tool.FOLDER, ["Cat", "cat"], "the same as 'Cat'"),
        (Tool.CVAT, ["a\x01b"], "which XML cannot have"),
        (Tool.LABEL_STUDIO, ["a\x01b"], "which XML cannot have"),
    ],
)
def test_a_class_that_a_format_cannot_have_is_refused_before_anything_is_written(
    tool: Tool, names: list[str], says: str
):
    """No name that a person chose becomes a path out of the folder, or a broken document; CSV has them all."""
    said = [correction(number, name, "correct").said for number, name in enumerate(names)]
    with pytest.raises(Refused, match=says):
        corrections.refuse_classes(tool, said)
    corrections.refuse_classes(Tool.CSV, said)


def test_nothing_to_say_is_still_a_whole_document(tmp_path: Path):
    """An empty list, an empty element, a header."""
    assert json.loads(write(tmp_path, Tool.LABEL_STUDIO, []).read_text()) == []
    assert ElementTree.parse(write(tmp_path, Tool.CVAT, [])).getroot().findall("image") == []
    assert write(tmp_path, Tool.CSV, []).read_text().splitlines() == [",".join(corrections.COLUMNS)]
