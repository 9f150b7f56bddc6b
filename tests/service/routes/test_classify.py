"""``POST /classify`` over real HTTP: every way to send an image, and every way to send a bad one."""

import base64
import concurrent.futures
import struct
import threading
import zlib
from collections.abc import Callable

import httpx
import pytest

from understudy.records import Classified
from understudy.testing import picture

RED = picture(0, 3)
Serving = Callable[..., str]


def huge_png(width: int, height: int) -> bytes:
    """A few bytes that claim to be an enormous picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_before_there_is_a_model_the_answer_is_503_and_says_what_to_do(http: httpx.Client):
    """Not ready is a state with a remedy."""
    answer = http.post("/classify", content=RED)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"]
    assert answer.json()["code"] == "no_champion"
    assert "understudy init" in answer.json()["detail"]


@pytest.mark.parametrize(
    "content_type", ["image/png", "application/octet-stream", "", "application/x-www-form-urlencoded"]
)
def test_a_raw_body_is_classified_and_the_model_named(http: httpx.Client, serving: Serving, content_type: str):
    """curl's habits included."""
    version = serving()
    answer = http.post("/classify", content=RED, headers={"content-type": content_type}, params={"top_k": 2}).json()
    assert answer["model"] == version
    (prediction,) = answer["predictions"]
    assert prediction["label"] == "red"
    assert len(prediction["classes"]) == 2
    assert prediction["probability"] == prediction["classes"][0]["probability"] > 0.5


def test_several_files_are_answered_in_their_order_with_their_names(http: httpx.Client, serving: Serving):
    """Multipart: one prediction a file."""
    serving()
    files = [("file", (f"{i}.png", picture(i, 3), "image/png")) for i in (2, 0, 1)]
    predictions = http.post("/classify", files=files).json()["predictions"]
    assert [(p["name"], p["label"]) for p in predictions] == [("2.png", "blue"), ("0.png", "red"), ("1.png", "green")]


def test_an_answer_is_the_record_that_the_openapi_document_promises(http: httpx.Client, serving: Serving):
    """Every field, with and without a problem; nothing more."""
    serving()
    files = [("file", ("a.png", RED)), ("file", ("b.png", b"nonsense"))]
    for answer in (http.post("/classify", files=files), http.post("/classify", content=RED)):
        assert Classified.model_validate_json(answer.content).model_dump(mode="json") == answer.json()


def test_base64_json_is_classified(http: httpx.Client, serving: Serving):
    """For clients that speak only JSON."""
    serving()
    body = {"images": [base64.b64encode(picture(i, 3)).decode() for i in (1, 2)], "top_k": 1}
    predictions = http.post("/classify", json=body).json()["predictions"]
    assert [p["label"] for p in predictions] == ["green", "blue"]
    assert all(len(p["classes"]) == 1 for p in predictions)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "empty"),
        (b"this is no picture", 415, "not_an_image"),
        (RED[: len(RED) // 2], 422, "truncated"),
        (huge_png(50_000, 50_000), 422, "too_many_pixels"),
    ],
)
def test_a_bad_image_is_refused_with_its_reason(
    http: httpx.Client, serving: Serving, body: bytes, status: int, code: str
):
    """The status, a stable code, and a sentence."""
    serving()
    answer = http.post("/classify", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["status"] == status
    assert answer.json()["detail"]


def test_one_bad_image_among_several_carries_its_problem_and_the_others_are_answered(
    http: httpx.Client, serving: Serving
):
    """Nobody else's image suffers."""
    serving()
    files = [("file", ("a.png", RED)), ("file", ("b.png", b"nonsense")), ("file", ("c.png", picture(2, 3)))]
    answer = http.post("/classify", files=files)
    assert answer.status_code == 200
    labels = [(p["label"], (p["problem"] or {}).get("code")) for p in answer.json()["predictions"]]
    assert labels == [("red", None), (None, "not_an_image"), ("blue", None)]


def test_bad_images_from_some_clients_leave_the_others_answered(http: httpx.Client, serving: Serving):
    """Good and bad at the same time, in the same batches: every good one is right."""
    serving()
    sent = [picture(i % 3, 3, seed=i) if i % 4 else RED[:200] for i in range(48)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda data: http.post("/classify", content=data), sent))
    for i, answer in enumerate(answers):
        if i % 4:
            assert answer.json()["predictions"][0]["label"] == ("red", "green", "blue")[i % 3]
        else:
            assert answer.status_code == 422


@pytest.mark.parametrize(
    ("kwargs", "status", "code"),
    [
        ({"content": b"x", "headers": {"content-type": "text/html"}}, 415, "unsupported_media_type"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "invalid_request"),
        ({"json": {"images": []}}, 422, "invalid_request"),
        ({"json": {"images": ["no base64!"]}}, 422, "invalid_base64"),
        ({"json": {"pictures": ["eA=="]}}, 422, "invalid_request"),
        ({"content": RED, "params": {"top_k": 0}}, 422, "invalid_request"),
    ],
)
def test_a_request_of_the_wrong_form_is_told_what_is_wrong(
    http: httpx.Client, serving: Serving, kwargs: dict[str, object], status: int, code: str
):
    """A problem, never a trace."""
    serving()
    answer = http.post("/classify", **kwargs)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_body_over_the_limit_is_refused_before_it_is_read_whole(http: httpx.Client, serving: Serving):
    """413, with and without a length."""
    serving()
    big = 65 * 2**20
    assert http.post("/classify", content=b"\0" * big).status_code == 413
    assert http.post("/classify", content=iter([b"\0" * big])).status_code == 413


def test_swaps_under_load_fail_no_request_and_every_answer_fits_its_model(
    http: httpx.Client, serving: Serving, url: str, until: Callable[..., None]
):
    """Two models that disagree take turns while clients ask: each answer is what the named model says."""
    right_for = {serving(): "red"}
    stop, faults = threading.Event(), []
    count = 0

    def ask() -> None:
        nonlocal count
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                answer = client.post("/classify", content=RED)
                if answer.status_code != 200:
                    faults.append(answer.text)
                    continue
                said = answer.json()
                # The rotated model calls red images by another name.
                expected = right_for.get(said["model"])
                if expected not in (None, said["predictions"][0]["label"]):
                    faults.append(f"{said['model']} answered {said['predictions'][0]['label']}")
                count += 1

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for swap in range(10):
        rotated = swap % 2 == 0
        version = serving(rotated_by=int(rotated), sharpness=5.0 + swap, generation=swap + 1)
        right_for[version] = http.post("/classify", content=RED).json()["predictions"][0]["label"]
        assert (right_for[version] == "red") is not rotated
        until(lambda swap=swap: count >= 10 * (swap + 1) or faults)
    stop.set()
    for asker in askers:
        asker.join()
    assert faults == []
    assert count >= 100
