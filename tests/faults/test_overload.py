"""Overload over real HTTP: a slow model and too many clients. Who is accepted is answered in time, and the others at once."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from understudy.settings import ServiceSettings
from understudy.testing import picture

RED = picture(0, 3)
#: About 20 ms an image on one core of 2025.
WORK = 80
#: Noise of a busy machine that no assertion here may depend on.
SLACK_S = 5.0

Serving = Callable[..., str]
Metric = Callable[..., float]
OpenLine = Callable[[str], Any]
Until = Callable[..., None]


@dataclass(frozen=True)
class Seen:
    """One answer to one client."""

    status: int
    seconds: float
    retry_after: str | None


Serve = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def slow(
    served: Callable[..., AbstractContextManager[str]],
    service_settings: ServiceSettings,
    promote: Serving,
    until: Until,
) -> Serve:
    """A service with a slow model and other settings; gives a client of it."""

    @contextmanager
    def run(work: int = WORK, **changed: object) -> Iterator[httpx.Client]:
        promote(work=work)
        with (
            served(service_settings.model_copy(update=changed)) as url,
            httpx.Client(base_url=url, timeout=60) as client,
        ):
            until(lambda: client.get("/readyz").status_code == 200)
            yield client

    return run


def load(url: str, *, num_clients: int, num_each: int, timeout_ms: int) -> list[Seen]:
    """As many clients as said, each with one request after the other, whatever the answers are."""
    start = threading.Barrier(num_clients)

    def ask(number: int) -> list[Seen]:
        seen = []
        with httpx.Client(base_url=url, timeout=60) as client:
            start.wait()
            for _ in range(num_each):
                began = time.perf_counter()
                answer = client.post("/classify", content=RED, headers={"X-Request-Timeout-Ms": str(timeout_ms)})
                seconds = time.perf_counter() - began
                seen.append(Seen(answer.status_code, seconds, answer.headers.get("retry-after")))
        return seen

    with ThreadPoolExecutor(num_clients) as pool:
        return [one for seen in pool.map(ask, range(num_clients)) for one in seen]


def test_past_capacity_the_accepted_are_answered_in_time_and_the_others_refused_at_once(slow: Serve, metric: Metric):
    """Nothing but 200 and 503 (and a 504 where the machine stumbles); when the load ends, all is as before."""
    timeout_s, num_clients = 0.5, 48
    with slow(max_queue=num_clients // 3) as client:  # so that a machine of many cores is past capacity too
        seen = load(str(client.base_url), num_clients=num_clients, num_each=5, timeout_ms=int(1000 * timeout_s))
        answered = [one.seconds for one in seen if one.status == 200]
        refused = [one for one in seen if one.status == 503]
        late = [one for one in seen if one.status == 504]
        assert len(answered) + len(refused) + len(late) == len(seen)
        assert answered
        assert refused
        assert len(late) <= len(seen) / 4
        assert max(answered) < timeout_s + SLACK_S
        assert statistics.median(answered) < timeout_s
        assert all(one.retry_after is not None and int(one.retry_after) >= 1 for one in refused)
        assert statistics.median(one.seconds for one in refused) < statistics.median(answered)
        assert metric(client, "understudy_accepted_images") == 0
        assert client.post("/classify", content=RED).json()["predictions"][0]["label"] == "red"


def test_no_more_images_wait_than_the_queue_may_hold(slow: Serve, metric: Metric, until: Until):
    """However long clients would wait: a request of two images too many is a 503 that names the limit."""
    with slow(max_batch=1, max_queue=32) as client, ThreadPoolExecutor(1) as pool:
        files = [("file", ("a.png", RED))] * 31
        running = pool.submit(client.post, "/classify", files=files)
        until(lambda: metric(client, "understudy_accepted_images") == 31 or running.done())
        refused = client.post("/classify", files=files[:2])
        assert running.result().status_code == 200
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert "at most 32 may" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) >= 1


def test_a_time_that_is_none_is_refused(http: httpx.Client, serving: Serving):
    """422, and it names the header."""
    serving()
    for value in ("0", "-1", "3600001", "1.5", "soon", "", "9" * 5000):
        answer = http.post("/classify", content=RED, headers={"X-Request-Timeout-Ms": value})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), value
        assert "X-Request-Timeout-Ms" in answer.json()["detail"]


def test_images_whose_time_passes_while_they_wait_are_dropped(slow: Serve, metric: Metric):
    """504, and most of them never reached the engine; an idle machine takes anything, so it was accepted."""
    images = 60
    with slow(max_batch=1) as client:
        files = [("file", ("a.png", RED))] * images
        answer = client.post("/classify", files=files, headers={"X-Request-Timeout-Ms": "100"})
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        assert client.post("/classify", content=RED).status_code == 200
        assert metric(client, "understudy_batch_images_sum") < images
        assert metric(client, "understudy_dropped_requests_total", reason="deadline") == 1
        assert metric(client, "understudy_accepted_images") == 0


def test_a_client_that_leaves_while_its_image_waits_is_dropped_and_the_others_are_answered(
    slow: Serve, line: OpenLine, metric: Metric, until: Until
):
    """Its image never reaches the engine; the images of those who stay do."""
    with slow(max_batch=1, request_timeout_ms=60_000) as client, ThreadPoolExecutor(1) as pool:
        version = client.get("/readyz").json()["model"]
        images = 40
        running = pool.submit(client.post, "/classify", files=[("file", ("a.png", RED))] * images)
        until(lambda: metric(client, "understudy_accepted_images") == images)
        leavers = [line(str(client.base_url)).post(body=RED) for _ in range(5)]
        until(lambda: metric(client, "understudy_accepted_images") == images + len(leavers))
        for leaver in leavers:
            leaver.close()
        until(lambda: metric(client, "understudy_dropped_requests_total", reason="client_gone") == len(leavers))
        assert metric(client, "understudy_accepted_images") <= images
        assert running.result().status_code == 200
        assert client.post("/classify", content=RED).status_code == 200
        assert metric(client, "understudy_classified_images_total", model=version) == images + 1
        assert metric(client, "understudy_batch_images_sum") <= images + 1 + 2  # two lanes may have had one in hand


def test_a_client_that_leaves_in_the_middle_of_its_body_holds_nothing(
    url: str, http: httpx.Client, serving: Serving, line: OpenLine, metric: Metric, until: Until
):
    """No image is accepted for it, and it counts as gone."""
    serving()
    with line(url).post(body=RED[:100], length=len(RED)):
        pass
    until(lambda: metric(http, "understudy_http_requests_total", route="/classify", status="400") == 1)
    assert metric(http, "understudy_batch_images_count") == 0
    assert http.post("/classify", content=RED).status_code == 200


def test_bodies_that_together_would_take_too_much_memory_are_refused(
    served: Callable[..., AbstractContextManager[str]],
    service_settings: ServiceSettings,
    promote: Serving,
    line: OpenLine,
    until: Until,
):
    """503 while others hold it, and room again when they have gone."""
    promote()
    with (
        served(service_settings.model_copy(update={"max_buffered_bytes": len(RED) + 100})) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        until(lambda: client.post("/classify", content=RED).status_code == 200)
        answers: list[httpx.Response] = []

        def is_refused_beside_a_stalled_one() -> bool:
            with line(url).post(body=RED[:200], length=len(RED)):  # it is refused itself if its body comes second
                answers.append(client.post("/classify", content=RED))
            return answers[-1].status_code == 503

        until(is_refused_beside_a_stalled_one)
        assert answers[-1].json()["code"] == "overloaded"
        assert "bytes of requests are held" in answers[-1].json()["detail"]
        assert int(answers[-1].headers["retry-after"]) >= 1
        until(lambda: client.post("/classify", content=RED).status_code == 200)


@pytest.mark.parametrize("kind", ["image/png", "application/json", "multipart/form-data; boundary=B"])
def test_a_body_that_stalls_is_given_up_and_its_connection_closed(
    served: Callable[..., AbstractContextManager[str]],
    service_settings: ServiceSettings,
    promote: Serving,
    line: OpenLine,
    until: Until,
    kind: str,
):
    """408 after ``body_timeout_s``, whatever kind of body it was to be."""
    promote()
    with (
        served(service_settings.model_copy(update={"body_timeout_s": 0.2})) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        until(lambda: client.get("/readyz").status_code == 200)
        stalled = line(url).post(f"Content-Type: {kind}", body=b"--B\r\n", length=1000)
        answer = stalled.answer()
        assert (answer.status, answer.code) == (408, "body_timeout")
        assert answer.headers["connection"] == "close"
        assert stalled.is_closed()
        assert client.post("/classify", content=RED).status_code == 200
