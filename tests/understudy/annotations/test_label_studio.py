"""Label Studio's JSON and JSON-MIN: exports as its documentation shows them, and what is not clear in others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.annotations import label_studio
from understudy.annotations.reading import Disagreement, LabeledFiles
from understudy.errors import LabeledSetRefused

Read = Callable[..., LabeledFiles]


def chosen(*classes: str, control: str = "choice") -> list[dict[str, Any]]:
    """The ``result`` of an annotation."""
    return [
        {"id": "Dx_aB91ISN", "type": "choices", "from_name": control, "to_name": "image", "origin": "manual"}
        | {"value": {"choices": list(classes)}}
    ]


def annotation(number: int, result: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """As https://labelstud.io/guide/task_format has it."""
    return {
        "id": number,
        "completed_by": 10,
        "result": result,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-03-09T22:16:08.728353Z",
        "updated_at": "2026-03-09T22:16:08.728378Z",
        "lead_time": 4.288,
        "result_count": 1,
        "task": number,
    } | more


def task(number: int, image: str, *annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    """As the export JSON has it: a prediction is in it, too."""
    return {
        "id": number,
        "created_at": "2026-03-09T21:52:49.513742Z",
        "updated_at": "2026-03-09T22:16:08.746926Z",
        "project": 83,
        "data": {"image": image} | data,
        "annotations": list(annotations),
        "predictions": [{"model_version": "m", "score": 0.9, "result": chosen("from a model")}],
        "drafts": [],
        "meta": {},
    }


def test_the_annotations_of_people_are_read_and_nothing_else(
    read: Read, images: Callable[..., Path], pairs: Callable[..., object], reasons: Callable[..., object]
):
    """Not predictions, not what was skipped, not a task that nobody opened."""
    images("upload/83/0a1b2c3d-a.jpg", "b.jpg", "photos/c d.jpg", "e.jpg", "f.jpg", folder="media")
    tasks = [
        task(1, "/data/upload/83/0a1b2c3d-a.jpg", annotation(1, chosen("cat"))),
        task(2, "/data/upload/83/1a1b2c3d-b.jpg", annotation(2, chosen("dog"))),
        task(3, "/data/local-files/?d=root/photos/c%20d.jpg", annotation(3, chosen("cat"))),
        task(4, "/data/upload/83/2a1b2c3d-e.jpg", annotation(4, [], was_cancelled=True)),
        task(5, "s3://bucket/f.jpg"),
        task(6, "https://example.com/g.jpg", annotation(6, chosen("dog"))),
    ]
    found = read("export.json", json.dumps(tasks), images=images(folder="media"))
    assert pairs(found) == [
        ("media/upload/83/0a1b2c3d-a.jpg", "cat"),
        ("media/b.jpg", "dog"),
        ("media/photos/c d.jpg", "cat"),
    ]
    assert reasons(found) == [
        ("/data/upload/83/2a1b2c3d-e.jpg", "cancelled"),
        ("s3://bucket/f.jpg", "unlabeled"),
        ("https://example.com/g.jpg", "remote"),
    ]


def test_where_annotators_disagree_the_sender_decides(
    read: Read, images: Callable[..., Path], reasons: Callable[..., object]
):
    """Refused, or the majority, or left out; what somebody skipped does not count."""
    images("a.jpg", "b.jpg", "c.jpg")
    cat, dog = chosen("cat"), chosen("dog")
    tasks = [
        task(1, "a.jpg", annotation(1, cat), annotation(2, dog), annotation(3, cat), annotation(4, dog, was_cancelled=True)),
        task(2, "b.jpg", annotation(5, cat), annotation(6, dog)),
        task(3, "c.jpg", annotation(7, dog), annotation(8, dog)),
    ]  # fmt: skip
    with pytest.raises(LabeledSetRefused, match=r"2 images .* 'a\.jpg' is 'cat' \(2\), 'dog' \(1\).*--disagreement"):
        read("export.json", json.dumps(tasks))
    majority = read("export.json", json.dumps(tasks), disagreement=Disagreement.MAJORITY)
    assert (majority.report.classes, reasons(majority)) == ({"cat": 1, "dog": 1}, [("b.jpg", "several_classes")])
    assert majority.report.num_repeated == 4
    fewer = read("export.json", json.dumps(tasks), disagreement=Disagreement.LEAVE_OUT)
    assert fewer.report.classes == {"dog": 1}


def test_a_minimal_export_says_the_same(
    read: Read, images: Callable[..., Path], pairs: Callable[..., object], reasons: Callable[..., object]
):
    """JSON_MIN: an item an annotation, a single choice as text, several as a list."""
    images("a.jpg", "b.jpg", "c.jpg", folder="upload/1")
    item = {"annotator": 1, "annotation_id": 3, "created_at": "", "updated_at": "", "lead_time": 3.1, "source": "web"}
    items = [
        {"image": "/data/upload/1/a.jpg", "id": 1, "choice": "cat"} | item,
        {"image": "/data/upload/1/a.jpg", "id": 1, "choice": "cat"} | item,
        {"image": "/data/upload/1/b.jpg", "id": 2, "choice": {"choices": ["cat", "dog"]}} | item,
        {"image": "/data/upload/1/c.jpg", "id": 3} | item,
    ]
    found = read("min.json", json.dumps(items), disagreement=Disagreement.LEAVE_OUT)
    assert pairs(found) == [("upload/1/a.jpg", "cat")]
    assert reasons(found) == [("/data/upload/1/b.jpg", "several_classes"), ("/data/upload/1/c.jpg", "unlabeled")]
    assert found.report.num_repeated == 1


def test_of_several_controls_one_must_be_named(read: Read, images: Callable[..., Path], pairs: Callable[..., object]):
    """In both exports; nobody guesses which question the class is the answer to."""
    images("a.jpg")
    both = json.dumps([task(1, "a.jpg", annotation(1, chosen("cat", control="kind") + chosen("good", control="q")))])
    minimal = json.dumps([{"image": "a.jpg", "id": 1, "kind": "cat", "q": "good"}])
    for content in (both, minimal):
        with pytest.raises(LabeledSetRefused, match="there is kind, q; name one with --control"):
            read("x.json", content)
        assert pairs(read("x.json", content, control="kind")) == [("a.jpg", "cat")]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "bad_json"),
        ("[" * 100_000, "bad_json"),
        ("{}", "bad_json"),
        ("[]", "bad_json"),
        ('[{"data": {"image": "a.jpg"}}]', "no_choices"),
        ('[{"data": 5, "annotations": [{"result": 5}]}]', "bad_json"),
        (json.dumps([task(1, "a.jpg", annotation(1, [{"type": "rectanglelabels", "from_name": "x"}]))]), "no_choices"),
        (json.dumps([{"data": {"a": "x.jpg", "b": "y.jpg"}, "annotations": [{"result": chosen("cat")}]}]), "unclear_image"),
    ],
)  # fmt: skip
def test_what_is_no_such_export_is_refused(read: Read, content: str, code: str):
    """With a sentence, never a traceback."""
    with pytest.raises(LabeledSetRefused) as refused:
        read("x.json", content)
    assert refused.value.code == code


def test_a_name_that_two_uploads_share_is_nobodys(
    read: Read, images: Callable[..., Path], reasons: Callable[..., object]
):
    """Without Label Studio's digits two images may be meant by one file; then neither is taken."""
    images("x.jpg", "y.jpg")
    tasks = [
        task(n, f"/data/upload/1/{n}a1b2c3d-{name}.jpg", annotation(n, chosen("cat"))) for n, name in enumerate("xxy")
    ]
    found = read("x.json", json.dumps(tasks))
    assert (found.report.num_images, [reason for _, reason in reasons(found)]) == (1, ["unclear_file"] * 2)


def test_where_an_image_may_lie_is_told_from_its_address():
    """The folder of uploads, the document root, or the tail of another address; an image inside of the JSON nowhere."""
    assert label_studio.paths_of("http://x:8080/ls/data/upload/1/0a1b2c3d-a%20b.jpg") == (
        "upload/1/0a1b2c3d-a%20b.jpg",
        "upload/1/0a1b2c3d-a b.jpg",
        "1/0a1b2c3d-a%20b.jpg",
        "1/0a1b2c3d-a b.jpg",
        "0a1b2c3d-a%20b.jpg",
        "0a1b2c3d-a b.jpg",
        "a%20b.jpg",
        "a b.jpg",
    )
    assert label_studio.paths_of("/data/local-files/?d=a/b.jpg") == ("a/b.jpg", "b.jpg")
    assert label_studio.paths_of("gs://bucket/a/b.jpg") == ("a/b.jpg", "b.jpg")
    assert label_studio.paths_of("data:image/png;base64,AAAA") == ()
