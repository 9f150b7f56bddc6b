"""Requests that are wrong in every way, over a raw socket: a stable answer, never a 5xx, and no memory kept.

Faults of HTTP itself are answered by the server below the application, whose words are not ours to promise.
"""

import base64
import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from understudy import registry, settings
from understudy.catalog import Catalog, versions
from understudy.settings import ServiceSettings
from understudy.store import Store
from understudy.testing import picture, tiny_artifact

RED = picture(0, 3)
RED_TEXT = base64.b64encode(RED)
FORM = "Content-Type: multipart/form-data; boundary=B"
GIGABYTE = 2**30
#: What the process may keep of all that a test sent it.
MAX_GROWTH_BYTES = 64 * 2**20

OpenLine = Callable[[str], Any]


def part(data: bytes, disposition: bytes = b'form-data; name="file"; filename="a"') -> bytes:
    """One part of a multipart form."""
    return b"--B\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + data + b"\r\n"


FIELD = b'form-data; name="field"'
END = b"--B--\r\n"


@pytest.fixture(scope="module")
def ready(
    served: Callable[..., AbstractContextManager[str]], redis_socket: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of one service for all these tests, with a model, that has answered and has the memory it needs."""
    data = tmp_path_factory.mktemp("data")
    chosen = settings.read(
        ServiceSettings, data=data, broker_url=f"redis+socket://{redis_socket}", champion_poll_s=0.02
    )
    catalog = Catalog(chosen.catalog_url)
    catalog.migrate()
    artifact, card = tiny_artifact(("red", "green", "blue"))
    registry.publish(Store(chosen.store_url), catalog, card, artifact, b"")
    with catalog.write() as session:
        versions.promote(session, card.version, instead_of=None, reason="test", actor="test")
    catalog.close()
    with served(chosen) as url:
        pause = threading.Event()
        while httpx.post(f"{url}/classify", content=RED, timeout=60).status_code != 200:
            pause.wait(0.05)
        httpx.post(f"{url}/classify", content=b"\0" * 2**22, timeout=60)
        yield url


@pytest.fixture
def http(ready: str) -> Iterator[httpx.Client]:
    """A client of that service."""
    with httpx.Client(base_url=ready, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def _keep_no_memory(ready: str, http: httpx.Client) -> Iterator[None]:
    """After each test the process is as large as before, give or take, and still answers."""
    process = psutil.Process()
    before = process.memory_info().rss
    yield
    assert process.memory_info().rss - before < MAX_GROWTH_BYTES
    assert http.post("/classify", content=RED).json()["predictions"][0]["label"] == "red"


@pytest.mark.parametrize("path", ["/classify", "/generations"])
def test_a_gigabyte_that_is_announced_is_refused_unread(ready: str, line: OpenLine, path: str):
    """413 as soon as the head is there, as a problem, and the connection ends: nobody shall send it."""
    big = line(ready).post("Content-Type: application/json", path=path, body=b"[", length=GIGABYTE)
    answer = big.answer()
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert "limit is" in answer.json()["detail"]
    assert big.is_closed()


def test_a_gigabyte_that_a_client_waits_to_be_asked_for_is_never_asked_for(ready: str, line: OpenLine):
    """``Expect: 100-continue``: 413 and no "continue"."""
    answer = line(ready).post("Expect: 100-continue", length=GIGABYTE).answer()
    assert answer.status == 413


def test_a_gigabyte_in_chunks_is_refused_at_the_limit(ready: str, line: OpenLine):
    """No length: 413 once more has come than is taken; the rest is not read."""
    big = line(ready).send(b"POST /classify HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"100000\r\n" + b"\0" * 2**20 + b"\r\n"
    num_sent = 0
    big.socket.settimeout(20)
    try:
        while num_sent < 1024:
            big.socket.sendall(chunk)
            num_sent += 1
    except ConnectionError:
        pass  # it has hung up, as it should
    assert 64 <= num_sent < 1024
    answer = big.answer()
    assert (answer.status, answer.code) == (413, "body_too_large")


def test_bytes_after_the_length_are_no_part_of_the_image(ready: str, line: OpenLine):
    """A length that is too short: what is left over is no request, so the connection ends with a 400."""
    short = line(ready).post(body=RED, length=len(RED) - 12)
    while (answer := short.answer()).status != 400:
        assert answer.status in (200, 422)  # if it was answered before the rest came
    assert short.is_closed()


def test_a_body_that_ends_before_its_length_is_never_run(
    ready: str, line: OpenLine, http: httpx.Client, metric: Callable[..., float]
):
    """The client has closed its half: nobody waits, nothing is classified."""
    before = metric(http, "understudy_batch_images_count")
    long = line(ready).post(body=RED, length=len(RED) + 10)
    long.socket.shutdown(1)
    assert long.is_closed()
    assert metric(http, "understudy_batch_images_count") == before


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello!"),
        (b"Content-Length: -5\r\n", b"hello"),
        (b"Content-Length: five\r\n", b"hello"),
        (b"Content-Length: 99999999999999999999999999\r\n", b"hello"),
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\nhello"),
        (b"Transfer-Encoding: chunked\r\n", b"-1\r\nhello"),
        (b"Transfer-Encoding: chunked\r\n", b"fffffffffffffffffffff\r\nhello"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nhello\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: gzip\r\n", b"hello"),
        (b"Transfer-Encoding: gzip, chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        (b"Content-Length: 5\r\nX: a\0b\r\n", b"hello"),
        (b"Content-Length: 5\r\nHost: other\r\n", b"hello"),
    ],
)
def test_a_request_that_two_servers_could_read_in_two_ways_is_refused(
    ready: str, line: OpenLine, head: bytes, body: bytes
):
    """400, and the connection is closed: what follows on it could be anything."""
    asked = line(ready).send(b"POST /classify HTTP/1.1\r\nHost: test\r\n" + head + b"\r\n" + body)
    assert asked.answer().status == 400
    assert asked.is_closed()


@pytest.mark.parametrize("host", ["me@test", "test/path", "a b", "test:80:90", "test:port", "[::1", "<script>", 'a"b'])
def test_a_host_that_is_no_host_is_refused(ready: str, line: OpenLine, host: str):
    """No user, no path."""
    answer = line(ready).send(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()).answer()
    assert (answer.status, answer.code) == (400, "bad_request")


@pytest.mark.parametrize("host", ["test", "test:8000", "127.0.0.1:1", "[::1]:8000", "a-b.example.", "w_x.example"])
def test_a_host_that_is_one_is_taken(ready: str, line: OpenLine, host: str):
    """Names and addresses, with and without a port."""
    assert line(ready).send(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()).answer().status == 200


def test_a_request_without_a_host_is_refused_unless_it_is_of_http_1_0(ready: str, line: OpenLine):
    """RFC 9112, 3.2."""
    assert line(ready).send(b"GET /healthz HTTP/1.1\r\n\r\n").answer().status == 400
    assert line(ready).send(b"GET /healthz HTTP/1.0\r\n\r\n").answer().status == 200


@pytest.mark.parametrize("path", ["/classify", "/ingest?bucket=b", "/labeled", "/weights", "/generations"])
def test_a_body_in_a_content_coding_is_refused_as_that(ready: str, line: OpenLine, path: str):
    """415 and what would do; a bomb of gzip is never inflated, nor called a broken image."""
    bomb = gzip.compress(b"\0" * 2**24)
    answer = line(ready).post("Content-Encoding: gzip", path=path, body=bomb).answer()
    assert (answer.status, answer.code) == (415, "unsupported_media_type")
    assert answer.headers["accept-encoding"] == "identity"
    assert line(ready).post("Content-Encoding: identity", body=RED).answer().status == 200


@pytest.mark.parametrize(
    "kind", ["text/html", "text/plain", "application/xml", "video/mp4", "multipart/mixed; boundary=B", "nonsense", "/"]
)
def test_a_content_type_that_is_not_taken_is_refused(ready: str, line: OpenLine, kind: str):
    """415 before anything is looked at."""
    answer = line(ready).post(f"Content-Type: {kind}", body=RED).answer()
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("content_type", "body", "says"),
    [
        ("multipart/form-data", part(RED) + END, "boundary"),
        ("multipart/form-data; boundary=", part(RED) + END, "cannot be read"),
        ("multipart/form-data; boundary=" + "B" * 5000, part(RED) + END, "cannot be read"),
        ("multipart/form-data; boundary=C", part(RED) + END, "cannot be read"),
        ("multipart/form-data; boundary=B", part(RED), "last boundary"),
        ("multipart/form-data; boundary=B", part(RED) + part(RED)[:-20], "last boundary"),
        ("multipart/form-data; boundary=B", b"", "last boundary"),
        ("multipart/form-data; boundary=B", part(b"x") * 1001 + END, "Maximum number of files"),
        ("multipart/form-data; boundary=B", part(b"x", FIELD) * 1001 + END, "Maximum number of fields"),
        ("multipart/form-data; boundary=B", part(b"x" * 2**21, FIELD) + END, "maximum size"),
        ("multipart/form-data; boundary=B", b"x" * 10 * 2**20 + b"\r\n" + part(RED) + END, "cannot be read"),
        ("multipart/form-data; boundary=B", part(RED, b"form-data") + END, '"name"'),
        ("multipart/form-data; boundary=B", b"--B\r\n" + b"X: y\r\n" * 100_000 + part(RED)[5:] + END, "cannot be read"),
    ],
)
def test_a_form_that_is_none_is_refused(ready: str, line: OpenLine, content_type: str, body: bytes, says: str):
    """400 with the reason; its files are gone from the disk with it."""
    answer = line(ready).post(f"Content-Type: {content_type}", body=body).answer()
    assert (answer.status, answer.code) == (400, "bad_form")
    assert says in answer.json()["detail"]


def test_an_upload_whose_form_is_cut_off_leaves_no_bytes_and_says_why(ready: str, line: OpenLine, http: httpx.Client):
    """The files before the cut are not taken for all of it."""
    answer = line(ready).post(FORM, path="/ingest?bucket=b", body=part(RED) + part(RED)[:-20]).answer()
    assert (answer.status, answer.code) == (400, "bad_form")
    job = http.get("/jobs").json()["items"][0]
    assert (job["state"], job["problem"]["code"]) == ("failed", "bad_form")


def test_what_follows_the_last_boundary_is_read_and_ignored(ready: str, line: OpenLine):
    """An epilogue is allowed (RFC 2046)."""
    assert line(ready).post(FORM, body=part(RED) + END + b"x" * 2**20).answer().status == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "invalid_request"),
        (b"null", 422, "invalid_request"),
        (b"[" * 100_000, 422, "invalid_request"),
        (b'{"images":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422, "invalid_request"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 422, "invalid_request"),
        (b'{"images":["%s"],"top_k":%s}' % (RED_TEXT, b"9" * 5000), 422, "invalid_request"),
        (b'{"images":["%s"],"top_k":NaN}' % RED_TEXT, 422, "invalid_request"),
        (b'{"images":["%s"],"top_k":true}' % RED_TEXT, 422, "invalid_request"),
        (b'{"images":["%s"],"top_k":"2"}' % RED_TEXT, 422, "invalid_request"),
        (b'{"images":["%s"],"top_k":2}x' % RED_TEXT, 422, "invalid_request"),
        (b'\xef\xbb\xbf{"images":["%s"]}' % RED_TEXT, 422, "invalid_request"),
        (f'{{"images":["{RED_TEXT.decode()}"]}}'.encode("utf-16"), 422, "invalid_request"),
        (b'{"images":["\xff\xfe"]}', 422, "invalid_request"),
        (b'{"images":["\\ud800"]}', 422, "invalid_request"),
        (b'{"images":["\\u0000"]}', 422, "invalid_base64"),
        (b'{"images":["!!!!"]}', 422, "invalid_base64"),
        (b'{"images":["a"]}', 422, "invalid_base64"),
        (b'{"images":["%s\\n"]}' % RED_TEXT, 422, "invalid_base64"),
        ('{"images":["é"]}'.encode(), 422, "invalid_base64"),
        (b'{"images":[""]}', 422, "empty"),
        (b'{"images":["eA=="]}', 415, "not_an_image"),
        (b'{"images":[%s]}' % b",".join([b'"eA=="'] * 65), 422, "image_count"),
        (b'{"images":["x"],"images":["%s"]}' % RED_TEXT, 200, ""),  # of two of one name the last counts (RFC 8259, 4)
    ],
)
def test_json_that_is_wrong_is_refused(ready: str, line: OpenLine, body: bytes, status: int, code: str):
    """One status and code each, whatever the parser thinks of it."""
    answer = line(ready).post("Content-Type: application/json", body=body).answer()
    assert (answer.status, answer.json().get("code", "")) == (status, code)


@pytest.mark.parametrize(
    "overrides",
    ["[" * 900 + "]" * 900, "[" * 100_000, "9" * 5000, "NaN", '"\\ud800"', "1e999", '{"\\ud800": 1}'],
    ids=["deep", "deeper", "digits", "nan", "half a surrogate pair", "infinite", "as a name"],
)
def test_recipe_fields_that_no_database_keeps_are_refused(ready: str, http: httpx.Client, overrides: str):
    """400 or 422, as a document and as a parameter of an upload."""
    headers = {"content-type": "application/json"}
    document = f'{{"overrides": {{"size": {overrides}}}}}'
    assert http.post("/generations", content=document.encode(), headers=headers).status_code in (400, 422)
    named = f'{{"{chr(92)}ud800": {overrides}}}'
    assert http.post("/generations", content=named.encode(), headers=headers).status_code in (400, 422)
    if len(overrides) < 10_000:
        query = {"overrides": f'{{"size": {overrides}}}'}
        answer = http.post("/labeled", params=query, content=b"PK")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    "name", ["%00", "a%00b", "%ed%a0%80", "..%2f..%2fetc%2fpasswd", "%0d%0aSet-Cookie:x", "%F0%9F%98%80"]
)
def test_names_that_none_of_ours_are_never_reach_the_catalog(ready: str, http: httpx.Client, name: str):
    """404 or 422."""
    for path in (f"/jobs/{name}", f"/jobs/{name}/receipt", f"/models/{name}", f"/generations/{name}"):
        assert http.get(path).status_code in (404, 422), path
    assert http.post(f"/jobs/{name}/retry").status_code in (404, 422)
    assert http.post(f"/ingest?bucket={name}", content=b"PK").status_code == 422
