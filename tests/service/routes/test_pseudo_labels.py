"""Pseudo-labels, previews and images over real HTTP."""

import hashlib
from typing import Any

import httpx
import pytest

from understudy import images
from understudy.client import Client
from understudy.label_records import LabelFacets, PreviewRequest, PseudoLabel
from understudy.testing import picture


@pytest.fixture
def pictures(opened: Any, teaching: Any) -> list[bytes]:
    """Five images in a bucket, labeled by two teachers."""
    world = teaching(*opened)
    found = [picture(i % 3, 3, seed=i, size=40, image_format="JPEG") for i in range(5)]
    world.teacher()
    shard = world.shard("photos", found)
    world.label(shard, [[0.9, 0.05, 0.05]] * 5)
    world.teacher()
    world.label(shard, [[0.5 + i / 10, 0.4 - i / 10, 0.1] for i in range(4)] + [[0.0, 0.4, 0.6]])
    return found


def test_a_list_is_asked_for_page_by_page(http: httpx.Client, pictures: list[bytes]):
    """As a client does, with filters; each item is the record that the document promises."""
    first = http.get("/pseudo-labels", params={"limit": 2, "class": "red", "min_confidence": 0.55}).json()
    rest = http.get(
        "/pseudo-labels", params={"limit": 2, "class": "red", "min_confidence": 0.55, "cursor": first["next"]}
    ).json()

    told = [PseudoLabel(**item) for item in first["items"] + rest["items"]]
    assert [round(item.confidence, 3) for item in told] == [0.8, 0.7, 0.6]
    assert rest["next"] is None
    assert {item.is_changed for item in told} == {False}
    changed = http.get("/pseudo-labels", params={"changed": True}).json()["items"]
    assert [(item["label"], item["previous_label"]) for item in changed] == [("blue", "red")]


def test_facets_and_preview(http: httpx.Client, url: str, pictures: list[bytes]):
    """Counts of all, and what a selection would keep."""
    told = LabelFacets(**http.get("/pseudo-labels/facets", params={"with_changed": True}).json())
    assert (told.num_images, told.by_bucket, told.num_changed) == (5, {"photos": 5}, 1)
    with Client(url) as client:
        preview = client.preview(PreviewRequest(threshold=0.55, per_class=2))
        assert (preview.num_candidates, preview.num_kept, preview.empty) == (4, 3, ("green",))
        assert len(list(client.pseudo_labels())) == 5
        assert [one.label for one in client.pseudo_labels(limit=1, class_name="blue")] == ["blue"]
        assert client.label_facets(bucket="photos").num_images == 5
        sha256 = hashlib.sha256(pictures[4]).hexdigest()
        assert [one.label for one in client.labels_of(sha256)] in (["red", "blue"], ["blue", "red"])


def test_what_is_asked_wrongly_is_a_problem(http: httpx.Client, pictures: list[bytes]):
    """With a code for programs."""
    wrong: list[tuple[dict[str, Any], int, str]] = [
        ({"class": "mauve"}, 422, "unknown_class"),
        ({"cursor": "x"}, 422, "bad_cursor"),
        ({"limit": 0}, 422, "invalid_request"),
        ({"min_confidence": "nan"}, 422, "invalid_request"),
        ({"bucket": "none"}, 404, "not_found"),
        ({"teacher": "nobody"}, 404, "not_found"),
    ]
    for params, status, code in wrong:
        answer = http.get("/pseudo-labels", params=params)
        assert (answer.status_code, answer.json()["code"]) == (status, code), params


def test_before_the_first_model_there_is_nothing_to_be_told(http: httpx.Client):
    """503 with what to do, as everywhere; an image that is not there is 404, and what is no name 422."""
    answer = http.get("/pseudo-labels")

    assert (answer.status_code, answer.json()["code"]) == (503, "no_champion")
    for path in ("", "/labels"):
        assert http.get(f"/images/{'0' * 64}{path}").status_code == 404
        assert http.get(f"/images/zero{path}").status_code == 422


def test_an_image_is_given_as_it_was_sent_or_small(http: httpx.Client, pictures: list[bytes]):
    """Its bytes, its type, and headers that make it nothing but a picture; once, if the client keeps it."""
    sha256 = hashlib.sha256(pictures[0]).hexdigest()

    answer = http.get(f"/images/{sha256}")

    assert answer.content == pictures[0]
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "immutable" in answer.headers["cache-control"]
    again = http.get(f"/images/{sha256}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")

    small = http.get(f"/images/{sha256}", params={"size": 16})
    assert images.inspect(small.content) == images.Facts(16, 16, "JPEG")
    assert small.headers["etag"] != answer.headers["etag"]
