"""Reviews over real HTTP, as a client of the API and as ours."""

import hashlib
from typing import Any

import httpx
import pytest

from understudy.client import Client, RequestFailed
from understudy.review_records import Audit, Decision, Review, ReviewQueue
from understudy.testing import picture


@pytest.fixture
def names(opened: Any, teaching: Any) -> list[str]:
    """Six images in a bucket, labeled by two teachers; the last is seen otherwise by the second."""
    world = teaching(*opened)
    found = [picture(i % 3, 3, seed=i, size=16) for i in range(6)]
    world.teacher()
    shard = world.shard("photos", found)
    world.label(shard, [[0.9, 0.05, 0.05]] * 6)
    world.teacher()
    world.label(shard, [[0.5 + i / 20, 0.4 - i / 20, 0.1] for i in range(5)] + [[0.0, 0.4, 0.6]])
    return [hashlib.sha256(data).hexdigest() for data in found]


def test_a_review_from_the_queue_to_the_log(http: httpx.Client, names: list[str]):
    """Asked for, decided twice by a double click, listed, undone, and asked for again."""
    queue = ReviewQueue(**http.get("/reviews/queue", params={"limit": 2}).json())
    first = queue.items[0]
    assert (first.label, queue.by, queue.next is not None) == ("red", "uncertain", True)
    body = {"reviews": [{"sha256": first.sha256, "verdict": "correct", "class_name": "blue"}]}

    made = [http.post("/reviews", json=body) for _ in range(2)]

    assert [answer.status_code for answer in made] == [200, 200]
    assert made[0].json() == made[1].json()
    (review,) = [Review(**item) for item in made[0].json()["items"]]
    assert (review.label, review.class_name, review.actor) == ("red", "blue", "anonymous")
    assert [Review(**item) for item in http.get("/reviews").json()["items"]] == [review]
    left = http.get("/reviews/queue").json()["items"]
    assert first.sha256 not in {item["sha256"] for item in left}
    assert http.get(f"/images/{first.sha256}/labels").json()["items"][0]["review"]["class_name"] == "blue"
    shown = http.get("/pseudo-labels", params={"sha256": first.sha256}).json()["items"][0]
    assert (shown["label"], shown["review"]["id"]) == ("red", review.id)
    preview = {"threshold": 0.3, "per_class": 9, "max_copies": 1}
    assert http.post("/selections/preview", json=preview).json()["num_candidates"] == 5

    undone = http.post("/reviews/undo", json={"ids": [review.id]}).json()["items"]
    assert undone[0]["undone_at"] is not None
    assert http.get("/reviews", params={"counting": True}).json()["items"] == []
    assert len(http.get("/reviews/queue").json()["items"]) == 6


def test_the_client_reviews(url: str, names: list[str]):
    """Each method gives records, and a page leads to the next."""
    with Client(url) as client:
        (disagreed,) = client.review_queue("disagreement", bucket="photos", class_name="blue").items
        assert (disagreed.sha256, disagreed.previous_label) == (names[5], "red")
        made = client.review([Decision(sha256=name, verdict="accept") for name in names])
        assert [one.sha256 for one in made] == names
        assert [one.id for one in client.reviews(limit=2)] == [made[5].id, made[4].id]
        assert len(list(client.reviews(counting=True, verdict="accept"))) == 6
        client.undo_reviews([one.id for one in made])
        told = client.review_queue("audit", threshold=0.6)
        assert {item.label for item in told.items} == {None}
        client.review(
            [
                Decision(sha256=item.sha256, verdict="correct", class_name="red", is_audit=True, audit_threshold=0.6)
                for item in told.items
            ]
        )
        audit = client.audit(threshold=0.6)
        assert (audit.num_audited, audit.num_right) == (len(told.items), len(told.items) - 1)
        assert client.audit(threshold=0.5).num_audited == 0


def test_the_log_is_paged(http: httpx.Client, url: str, names: list[str]):
    """The newest first, until there are no more."""
    with Client(url) as client:
        client.review([Decision(sha256=name, verdict="reject") for name in names])
    first = http.get("/reviews", params={"limit": 4}).json()
    rest = http.get("/reviews", params={"limit": 4, "cursor": first["next"]}).json()

    assert [item["sha256"] for item in first["items"] + rest["items"]] == names[::-1]
    assert rest["next"] is None


def test_what_is_asked_wrongly_is_a_problem(http: httpx.Client, names: list[str]):
    """With a code for programs, and nothing is written."""
    one = {"sha256": names[0], "verdict": "accept"}
    for body, status, code in [
        ({"reviews": []}, 422, "invalid_request"),
        ({"reviews": [one] * 1001}, 422, "invalid_request"),
        ({"reviews": [one, one]}, 422, "image_repeated"),
        ({"reviews": [one | {"verdict": "correct"}]}, 422, "invalid_request"),
        ({"reviews": [one | {"verdict": "correct", "class_name": "a\0"}]}, 422, "invalid_request"),
        ({"reviews": [one | {"verdict": "correct", "class_name": " "}]}, 422, "invalid_request"),
        ({"reviews": [one | {"verdict": "correct", "class_name": "mauve"}]}, 422, "unknown_class"),
        ({"reviews": [one | {"is_audit": True}]}, 422, "invalid_request"),
        ({"reviews": [one | {"split": "holdout"}]}, 409, "may_have_trained"),
        ({"reviews": [one | {"class_name": "blue"}]}, 409, "label_changed"),
        ({"reviews": [one, one | {"sha256": "0" * 64}]}, 404, "not_found"),
        ({"reviews": [one | {"teacher": "nobody"}]}, 404, "not_found"),
    ]:
        answer = http.post("/reviews", json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), body
    for path, params, status, code in [
        ("/reviews/queue", {"class": "mauve"}, 422, "unknown_class"),
        ("/reviews/queue", {"cursor": "x"}, 422, "bad_cursor"),
        ("/reviews/queue", {"by": "chance"}, 422, "invalid_request"),
        ("/reviews/queue", {"by": "audit", "class": "red"}, 422, "audit_is_blind"),
        ("/reviews/queue", {"bucket": "none"}, 404, "not_found"),
        ("/reviews/audit", {"threshold": 2}, 422, "invalid_request"),
        ("/reviews/audit", {"teacher": "nobody"}, 404, "not_found"),
        ("/reviews", {"cursor": "0"}, 422, "invalid_request"),
    ]:
        answer = http.get(path, params=params)
        assert (answer.status_code, answer.json()["code"]) == (status, code), (path, params)
    answer = http.post("/reviews/undo", json={"ids": [1]})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert http.get("/reviews").json()["items"] == []


def test_before_the_first_model_there_is_nothing_to_review(http: httpx.Client, url: str):
    """503 where a teacher is needed; the log is empty; the client says what the service said."""
    for path in ("/reviews/queue", "/reviews/audit"):
        answer = http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "no_champion")
    assert http.get("/reviews").json() == {"items": [], "next": None}
    with Client(url, patience_s=0) as client, pytest.raises(RequestFailed) as failed:
        client.review([Decision(sha256="0" * 64, verdict="reject")])
    assert failed.value.status == 404


def test_an_audit_fits_its_record(http: httpx.Client, names: list[str]):
    """Before anything is audited there is no precision, and every class is named."""
    told = Audit(**http.get("/reviews/audit").json())

    assert (told.precision, told.interval, set(told.per_class)) == (None, None, {"red", "green", "blue"})
