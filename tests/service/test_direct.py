"""The short way: which requests take it, and that it answers as the long way does."""

from collections.abc import Callable

import httpx
import pytest

from service.direct import is_usual
from understudy.testing import picture

RED = picture(0, 3)
USUAL = {b"content-type": b"image/jpeg", b"content-length": b"100"}


def test_one_image_as_the_raw_body_is_usual():
    """Of any type of image, or of none in particular; with a time of its own, too."""
    assert is_usual(USUAL, max_bytes=100)
    assert is_usual(USUAL | {b"content-type": b"application/octet-stream"}, max_bytes=100)
    assert is_usual({b"content-length": b"100"}, max_bytes=100)
    assert is_usual(USUAL | {b"x-request-timeout-ms": b"250"}, max_bytes=100)


@pytest.mark.parametrize(
    "other",
    [
        {b"content-type": b"multipart/form-data; boundary=x"},
        {b"content-type": b"application/json"},
        {b"content-length": b"101"},  # over the limit: the long way says so
        {b"content-length": b""},  # chunked
        {b"content-length": b"-1"},
        {b"content-encoding": b"gzip"},
        {b"x-request-timeout-ms": b"0"},
        {b"x-request-timeout-ms": b"soon"},
        {b"x-request-timeout-ms": b"3600001"},
    ],
)
def test_whatever_needs_a_second_look_goes_the_long_way(other: dict[bytes, bytes]):
    """Limits, other forms and mistakes are the framework's business."""
    assert not is_usual(USUAL | other, max_bytes=100)


@pytest.mark.parametrize("body", [RED, RED[:60], b"", b"no picture", picture(1, 3, image_format="JPEG")])
def test_both_ways_give_the_same_answer(http: httpx.Client, serving: Callable[..., str], body: bytes):
    """The query makes the difference of the way, and none of the answer: status, type, body, and a request id."""
    serving()
    headers = {"content-type": "image/png"}

    short = http.post("/classify", content=body, headers=headers)
    long = http.post("/classify", content=body, headers=headers, params={"top_k": 5})

    assert short.json() == long.json()
    for answer in (short, long):
        assert answer.status_code == long.status_code
        assert answer.headers["content-type"] == long.headers["content-type"]
        assert answer.headers["x-request-id"]


def test_before_there_is_a_model_both_ways_say_so(http: httpx.Client):
    """An error of ours is the same problem."""
    headers = {"content-type": "image/png"}
    short, long = (http.post("/classify", content=RED, headers=headers, params=p) for p in ({}, {"top_k": 1}))
    assert short.json() == long.json()
    assert (short.status_code, short.headers["retry-after"]) == (long.status_code, long.headers["retry-after"])


def test_both_ways_are_counted_as_the_same_route(http: httpx.Client, serving: Callable[..., str]):
    """/metrics knows nothing of ways."""
    serving()
    for params in ({}, {"top_k": 2}):
        http.post("/classify", content=RED, headers={"content-type": "image/png"}, params=params)
    wanted = 'understudy_http_requests_total{method="POST",route="/classify",status="200"} 2.0'
    assert wanted in http.get("/metrics").text
