"""Every request's id, line, count and span, around small applications and around the real one."""

import json
import logging
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from service.metrics import Metrics
from service.observed import Observed
from understudy import telemetry
from understudy.testing import picture

SANE = re.compile(r"[0-9a-f]{32}")

log = logging.getLogger("program")


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of this test's own."""
    return Metrics()


@pytest.fixture
def small(metrics: Metrics) -> Callable[..., httpx.AsyncClient]:
    """A small application under observation: one route works, one has a bug, one finds it late."""
    app = FastAPI()

    @app.get("/works/{what}")
    async def works(what: str) -> str:
        log.warning("in the loop")
        await run_in_threadpool(log.warning, "in a thread")
        return str(telemetry.request_id.get())

    @app.get("/bug")
    async def bug() -> None:
        raise ZeroDivisionError("a bug")

    def observed(*, access_log: bool = False) -> httpx.AsyncClient:
        app.add_middleware(Observed, metrics=metrics, access_log=access_log)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")

    return observed


@pytest.mark.parametrize("chosen", ["a", "A-b.c_9", "x" * 128])
async def test_a_sane_id_is_taken_over(small: Callable[..., httpx.AsyncClient], chosen: str):
    """The answer carries it, and so the route sees it."""
    answer = await small().get("/works/x", headers={"X-Request-Id": chosen})

    assert answer.headers["x-request-id"] == answer.json() == chosen


@pytest.mark.parametrize("chosen", ["", "x" * 129, "two words", 'quo"te', "a\tb", "ü"])
async def test_any_other_id_is_replaced(small: Callable[..., httpx.AsyncClient], chosen: str):
    """What would be unsafe in a log or a header is not repeated."""
    answer = await small().get("/works/x", headers={"X-Request-Id": chosen.encode()})

    assert SANE.fullmatch(answer.headers["x-request-id"])


async def test_each_request_has_an_id_of_its_own(small: Callable[..., httpx.AsyncClient]):
    """No two are the same."""
    client = small()

    assert len({(await client.get("/works/x")).headers["x-request-id"] for _ in range(50)}) == 50


async def test_log_lines_of_a_request_carry_its_id(small: Callable[..., httpx.AsyncClient], caplog):
    """In the event loop and in a thread of the pool."""
    caplog.handler.addFilter(telemetry.with_context)
    try:
        await small().get("/works/x", headers={"X-Request-Id": "mine"})
    finally:
        caplog.handler.removeFilter(telemetry.with_context)

    assert {(r.getMessage(), r.request_id) for r in caplog.records if r.name == "program"} == {
        ("in the loop", "mine"),
        ("in a thread", "mine"),
    }


async def test_a_bug_is_a_problem_with_the_id_under_which_the_log_has_it(
    small: Callable[..., httpx.AsyncClient], caplog
):
    """The answer tells nothing of the bug; the log does, once."""
    answer = await small().get("/bug", headers={"X-Request-Id": "mine"})

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "mine"
    assert answer.json()["code"] == "internal"
    assert "ZeroDivision" not in answer.text
    (logged,) = [record for record in caplog.records if record.name == "service.observed"]
    assert logged.getMessage() == "GET /bug failed"
    assert logged.exc_info[0] is ZeroDivisionError


async def test_an_error_after_the_answer_began_closes_the_connection(metrics: Metrics):
    """Two answers in one would be worse: the server is told by the exception."""

    async def late(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError("late")

    client = httpx.AsyncClient(transport=httpx.ASGITransport(Observed(late, metrics, access_log=False)))

    with pytest.raises(ZeroDivisionError):
        await client.get("http://service/")


async def test_an_access_log_has_a_line_a_request(small: Callable[..., httpx.AsyncClient], caplog):
    """Route, status and time as fields; the path as it was sent, so that it cannot write lines of its own."""
    caplog.set_level(logging.INFO, "service.requests")
    await small(access_log=True).get("/works/a%0Ab?secret=1")

    (line,) = [record for record in caplog.records if record.name == "service.requests"]
    assert line.getMessage().startswith("GET /works/a%0Ab 200 in 0.")
    assert (line.route, line.status, line.method) == ("/works/{what}", 200, "GET")
    assert 0 < line.duration_s < 10
    assert "secret" not in json.dumps(vars(line), default=str)


async def test_without_an_access_log_only_faults_have_a_line(small: Callable[..., httpx.AsyncClient], caplog):
    """A 500 is told, a 200 and a 404 are not."""
    caplog.set_level(logging.INFO, "service.requests")
    client = small()
    for path in ("/works/x", "/nothing", "/bug"):
        await client.get(path)

    assert [r.status for r in caplog.records if r.name == "service.requests"] == [500]


async def test_requests_are_counted_by_what_is_bounded(small: Callable[..., httpx.AsyncClient], metrics: Metrics):
    """Methods, routes and statuses that a client can make up share one label."""
    client = small()
    await client.get("/works/1")
    await client.get("/works/2")
    await client.request("BREW", "/works/1")
    await client.get("/a/b/c")
    text = metrics.render().decode()

    assert 'understudy_http_requests_total{method="GET",route="/works/{what}",status="200"} 2.0' in text
    assert 'method="OTHER",route="/works/{what}",status="405"' in text
    assert 'route="unknown",status="404"' in text
    assert "understudy_http_requests_in_flight 0.0" in text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/healthz", None),
        ("GET", "/nothing", None),
        ("DELETE", "/jobs", None),
        ("POST", "/classify", b"nonsense"),
        ("POST", "/classify", picture(0, 3)),
        ("GET", "/jobs?limit=x", None),
    ],
)
def test_every_answer_of_the_service_has_the_id(
    http: httpx.Client, serving: Callable[..., str], method: str, path: str, body: bytes | None
):
    """Errors too, whoever found them."""
    serving()

    answer = http.request(method, path, content=body, headers={"X-Request-Id": "mine"})

    assert answer.headers.get_list("x-request-id") == ["mine"]


def test_a_request_is_a_span_named_by_its_route(
    http: httpx.Client, serving: Callable[..., str], collector: tuple[str, list[Any]]
):
    """On the client's trace, with HTTP's attributes; probes have none."""
    serving()
    url, spans = collector
    stop = telemetry.start_tracing(url, "service")
    http.get(
        "/jobs/none",
        headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "X-Request-Id": "mine"},
    )
    http.get("/metrics")
    http.get("/healthz")
    stop()

    (span,) = spans
    attributes = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
    assert span.name == "GET /jobs/{job_id}"
    assert span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent_span_id.hex() == "b7ad6b7169203331"
    assert attributes["http.request.method"] == "GET"
    assert attributes["http.route"] == "/jobs/{job_id}"
    assert attributes["http.response.status_code"] == 404
    assert attributes["url.path"] == "/jobs/none"
    assert attributes["understudy.request_id"] == "mine"
    assert span.status.code == 0  # a 404 is the client's fault
