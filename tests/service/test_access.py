"""Who is let in: the rules, the check, the rate limit, and all of it over real HTTP."""

import hmac
import inspect
import json
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import text

from service import access
from service.access import Bucket, Guard, Guarded, Refusal, is_loopback, needed
from service.app import create_app
from understudy import keys, settings
from understudy.catalog import Catalog
from understudy.catalog import keys as catalog_keys
from understudy.catalog.keys import HeldKey
from understudy.client import Client, RequestFailed
from understudy.records import ApiKey, KeyScope
from understudy.settings import ServiceSettings
from understudy.store import Store
from understudy.testing import picture

Opened = tuple[Catalog, Store]
Make = Callable[..., str]

#: What may be asked without a key. A new route is not here, so it needs one.
OPEN = {
    *(
        ("GET", path)
        for path in ("/", "/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
    ),
    *(("GET", path) for path in ("/v2/health/live", "/v2/health/ready")),
}


def held(*scopes: str, rate_limit: float | None = None, revoked: bool = False) -> tuple[HeldKey, str]:
    """A key as a guard holds it, and as its owner sends it."""
    made = keys.generate()
    known = ApiKey(
        id=made.id, name="test", scopes=scopes, rate_limit=rate_limit, created_at=1.0, revoked_at=2.0 if revoked else None
    )  # fmt: skip
    return HeldKey(known, made.digest), keys.write(made)


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode())]


def code_of(answer: ApiKey | Refusal | None) -> str:
    assert isinstance(answer, Refusal), answer
    return answer.code


class ManualClock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# -- the rules ------------------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path) -> FastAPI:
    """The application as it is where keys are required; not started."""
    return create_app(settings.read(ServiceSettings, data=tmp_path, keys="required"))


def test_no_route_is_unprotected_that_is_not_meant_to_be(guarded: FastAPI):
    """Walks every route of the application: all but the open ones need a key, and every write a scope."""
    routes = {(m, r.path) for r in iter_route_contexts(guarded.routes) for m in r.methods or ()}
    assert len(routes) > 15

    for method, path in routes:
        scopes = needed(method, path)
        if not scopes:
            assert method in ("GET", "HEAD")
            assert ("GET", path) in OPEN, f"{method} {path} is open to everybody"
        elif method not in ("GET", "HEAD"):
            assert scopes != access.ANY_KEY, f"{method} {path} needs no scope"


@pytest.mark.parametrize(
    ("method", "path", "scopes"),
    [
        ("POST", "/classify", {"classify", "admin"}),
        ("POST", "/models/g0001-326eb4/classify", {"classify", "admin"}),
        ("POST", "/v2/models/champion/infer", {"classify", "admin"}),
        ("POST", "/v2/models/champion/versions/g0001-abcdef/infer", {"classify", "admin"}),
        ("POST", "/ingest", {"ingest", "admin"}),
        ("GET", "/jobs/any/receipt", {"classify", "ingest", "admin"}),
        ("GET", "/metrics", {"classify", "ingest", "admin"}),
        ("GET", "/v2/models/champion", {"classify", "ingest", "admin"}),
        ("GET", "/models/g0001-abcdef", {"classify", "ingest", "admin"}),
        ("GET", "/models/g0001-abcdef/files", {"admin"}),
        ("HEAD", "/models/g0001-abcdef/files/model.onnx", {"admin"}),
        ("POST", "/labeled", {"admin"}),
        ("POST", "/weights", {"admin"}),
        ("POST", "/generations", {"admin"}),
        ("POST", "/jobs/any/retry", {"admin"}),
        ("POST", "/models/champion/rollback", {"admin"}),
        ("PUT", "/deployments", {"admin"}),
        ("DELETE", "/anything/to/come", {"admin"}),
        # Nothing near an open or cheap path is as open or cheap as it.
        ("POST", "/healthz", {"admin"}),
        ("GET", "/healthz/", {"classify", "ingest", "admin"}),
        ("GET", "//healthz", {"classify", "ingest", "admin"}),
        ("GET", "/healthz\n", {"classify", "ingest", "admin"}),
        ("GET", "/docs/../jobs", {"classify", "ingest", "admin"}),
        ("GET", "/v2/health/live/x", {"classify", "ingest", "admin"}),
        ("POST", "/classify/", {"admin"}),
        ("POST", "/classify/../labeled", {"admin"}),
        ("POST", "/CLASSIFY", {"admin"}),
        ("POST", "/v2/models/a/b/infer", {"admin"}),
        ("TRACE", "/jobs", {"admin"}),
        ("get", "/healthz", {"admin"}),
    ],
)
def test_what_a_request_needs(method: str, path: str, scopes: set[str]):
    """Asking the model, sending images, reading, and everything else."""
    assert needed(method, path) == scopes


@pytest.mark.parametrize(
    ("host", "is_so"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("", False), ("10.0.0.1", False), ("::ffff:10.0.0.1", False),
        ("localhost.example.org", False), ("my-machine", False),
    ],
)  # fmt: skip
def test_loopback_is_what_only_this_machine_reaches(host: str, is_so: bool):
    """A name is not looked up: who binds one has keys, unless he says otherwise."""
    assert is_loopback(host) == is_so


@pytest.mark.parametrize(
    ("host", "said", "required", "level"),
    [
        ("127.0.0.1", "auto", False, "INFO"),
        ("0.0.0.0", "auto", True, "INFO"),
        ("127.0.0.1", "required", True, "INFO"),
        ("0.0.0.0", "off", False, "WARNING"),
        ("127.0.0.1", "off", False, "INFO"),
    ],
)
def test_the_log_says_whether_keys_are_required_and_why(
    host: str, said: str, required: bool, level: str, caplog: pytest.LogCaptureFixture
):
    """The address and the setting; being open to others is a warning."""
    with caplog.at_level(logging.INFO):
        assert access.are_required(settings.read(ServiceSettings, host=host, keys=said)) == required

    (record,) = caplog.records
    assert record.levelname == level
    assert record.getMessage().startswith("API keys are required" if required else "API keys are off")
    assert host in record.getMessage()
    assert f"UNDERSTUDY_KEYS={said}" in record.getMessage()


# -- the check ------------------------------------------------------------------------------------


def test_a_key_opens_what_its_scopes_open():
    """Each its own, admin everything, and every one of them reading."""
    for scope, opens in {
        "classify": {"/classify"},
        "ingest": {"/ingest"},
        "admin": {"/classify", "/ingest", "/generations"},
    }.items():
        one, key = held(scope)
        guard = Guard()
        guard.hold([one])
        for path in ("/classify", "/ingest", "/generations"):
            answer = guard.admit("POST", path, bearer(key))
            assert answer == one.key if path in opens else code_of(answer) == "scope_missing"
        assert guard.admit("GET", "/jobs", bearer(key)) == one.key


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer KEY")],
        [(b"authorization", b"bearer KEY ")],
        [(b"x-api-key", b"KEY")],
        [(b"authorization", b"Basic bWU6eW91"), (b"x-api-key", b"KEY")],
        [(b"authorization", b"Bearer of.another.kind"), (b"x-api-key", b"KEY")],
    ],
)
def test_a_key_is_sent_in_either_header(headers: list[tuple[bytes, bytes]]):
    """X-API-Key is asked first: a proxy may have put something of its own into the other."""
    one, key = held("classify")
    guard = Guard()
    guard.hold([one])

    sent = [(name, value.replace(b"KEY", key.encode())) for name, value in headers]

    assert guard.admit("POST", "/classify", sent) == one.key


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([], "key_missing"),
        ([(b"authorization", b"Bearer ")], "key_missing"),
        ([(b"authorization", b"Basic bWU6eW91")], "key_missing"),
        ([(b"x-api-key", b"")], "key_missing"),
        ([(b"x-api-key", b"us_")], "key_unknown"),
        ([(b"x-api-key", b"us__")], "key_unknown"),
        ([(b"x-api-key", b"\xff\xfe\x00")], "key_unknown"),
        ([(b"x-api-key", b"x" * 60_000)], "key_unknown"),
    ],
)
def test_what_is_no_key_opens_nothing(sent: list[tuple[bytes, bytes]], code: str):
    """Whatever it is, the answer is the same every time and holds nothing of it."""
    guard = Guard()
    guard.hold([held("admin")[0]])

    answer = guard.admit("GET", "/jobs", sent)

    assert code_of(answer) == code
    assert answer.status == 401  # type: ignore[union-attr]
    assert ("WWW-Authenticate", "Bearer") in answer.headers  # type: ignore[union-attr]


def test_a_known_id_with_another_secret_opens_nothing():
    """Nor does the secret of one key with the id of another, nor a digest for a secret."""
    (one, first), (other, second) = held("admin"), held("admin")
    guard = Guard()
    guard.hold([one, other])
    swapped = f"us_{one.key.id}_{second.split('_')[2]}"

    for key in (swapped, first[:-1], first + "0", f"us_{one.key.id}_{one.digest.hex()}", f"us_{one.key.id}_"):
        assert code_of(guard.admit("GET", "/jobs", bearer(key))) == "key_unknown"


def test_every_wrong_key_costs_one_hash_and_one_comparison():
    """An unknown id is compared too, so that the time of an answer tells nobody which ids there are."""
    compared: list[tuple[int, int]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return hmac.compare_digest(left, right)

    one, _ = held("admin")
    guard = Guard(compare=compare)
    guard.hold([one])
    for wrong in (f"us_{one.key.id}_{'0' * 64}", f"us_{'0' * 12}_{'0' * 64}", "0" * 81):
        assert code_of(guard.admit("GET", "/jobs", bearer(wrong))) == "key_unknown"

    assert compared == [(32, 32)] * 3
    assert inspect.signature(Guard).parameters["compare"].default is hmac.compare_digest


def test_only_the_holder_of_a_revoked_key_learns_that_it_is_revoked():
    """With another secret it is as unknown as any."""
    one, key = held("admin", revoked=True)
    guard = Guard()
    guard.hold([one])

    assert code_of(guard.admit("GET", "/jobs", bearer(key))) == "key_revoked"
    assert code_of(guard.admit("GET", "/jobs", bearer(f"us_{one.key.id}_{'0' * 64}"))) == "key_unknown"


# -- the rate limit -------------------------------------------------------------------------------


def test_a_key_may_send_two_seconds_worth_at_once_and_then_its_rate():
    """By the clock: 10 a second are 20 at once, then one every 0.1 s, and after a pause 20 again."""
    clock = ManualClock()
    one, key = held("classify", rate_limit=10.0)
    guard = Guard(clock=clock)
    guard.hold([one])

    def admitted(num: int) -> int:
        answers = [guard.admit("POST", "/classify", bearer(key)) for _ in range(num)]
        assert {a.code for a in answers if isinstance(a, Refusal)} <= {"rate_limited"}
        return sum(a == one.key for a in answers)

    assert admitted(25) == 20
    clock.now += 0.1001
    assert admitted(5) == 1
    clock.now += 1.0001
    assert admitted(15) == 10
    clock.now += 3600
    assert admitted(25) == 20


def test_a_limited_answer_says_when_to_come_back_and_coming_then_is_right():
    """A slow key: one request in 4 s."""
    clock = ManualClock()
    one, key = held("classify", rate_limit=0.25)
    guard = Guard(clock=clock)
    guard.hold([one])
    assert guard.admit("POST", "/classify", bearer(key)) == one.key
    clock.now += 1.5

    refused = guard.admit("POST", "/classify", bearer(key))

    assert isinstance(refused, Refusal)
    assert (refused.status, refused.headers) == (429, (("Retry-After", "3"),))
    assert "0.25 requests a second; the next one in 2.50 s" in refused.detail
    clock.now += 3
    assert guard.admit("POST", "/classify", bearer(key)) == one.key


def test_one_keys_haste_is_not_anothers_and_refused_requests_cost_nothing():
    """Each has a bucket of its own; what is refused for its scope takes no token; open paths take none."""
    clock = ManualClock()
    (hasty, key), (other, others) = held("classify", rate_limit=0.5), held("classify", rate_limit=0.5)
    guard = Guard(clock=clock)
    guard.hold([hasty, other])

    for _ in range(5):
        assert code_of(guard.admit("POST", "/ingest", bearer(key))) == "scope_missing"
    assert guard.admit("POST", "/classify", bearer(key)) == hasty.key
    assert code_of(guard.admit("GET", "/jobs", bearer(key))) == "rate_limited"
    assert guard.admit("GET", "/healthz", bearer(key)) is None
    assert guard.admit("POST", "/classify", bearer(others)) == other.key


@pytest.mark.parametrize(
    ("default", "own", "admitted"), [(0, None, 50), (5, None, 10), (5, 0, 50), (0, 5, 10), (5, 2, 4)]
)
def test_a_keys_own_limit_goes_before_the_default(default: float, own: float | None, admitted: int):
    """None takes the default; 0 is no limit, in either place."""
    one, key = held("classify", rate_limit=own)
    guard = Guard(rate_limit=default, clock=ManualClock())
    guard.hold([one])

    answers = [guard.admit("GET", "/jobs", bearer(key)) for _ in range(50)]

    assert sum(answer == one.key for answer in answers) == admitted


def test_a_refresh_gives_no_key_new_tokens():
    """What was used up stays so; the bucket of a key that is gone is dropped."""
    one, key = held("classify", rate_limit=0.5)
    guard = Guard(clock=ManualClock())
    guard.hold([one])
    guard.admit("GET", "/jobs", bearer(key))

    guard.hold([one])

    assert code_of(guard.admit("GET", "/jobs", bearer(key))) == "rate_limited"
    guard.hold([])
    assert guard._buckets == {}


def test_a_clock_that_stands_still_gives_nothing():
    """A bucket fills by time alone."""
    bucket = Bucket(1.0, 0.0)

    assert [bucket.take(1.0, 0.0) for _ in range(4)] == [0.0, 0.0, 1.0, 1.0]


# -- keeping up -----------------------------------------------------------------------------------


async def test_the_known_keys_go_on_counting_while_nobody_can_tell_them(caplog: pytest.LogCaptureFixture):
    """It is logged once, not every second; and once more when it is over."""
    one, key = held("classify")
    guard = Guard()
    guard.hold([one])

    async def away() -> Sequence[HeldKey]:
        raise ConnectionError("the catalog is away\nand more")

    async def back() -> Sequence[HeldKey]:
        return []

    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await guard.refresh(away)
        assert guard.admit("POST", "/classify", bearer(key)) == one.key
        await guard.refresh(back)
        await guard.refresh(back)

    assert code_of(guard.admit("POST", "/classify", bearer(key))) == "key_unknown"
    lost, found = (record.getMessage() for record in caplog.records)
    assert "the 1 known go on counting" in lost
    assert lost.endswith("the catalog is away")
    assert found == "API keys are up to date again: 0"


# -- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def strict(service_settings: ServiceSettings) -> ServiceSettings:
    """Settings of a service that asks for keys and looks for changed ones often."""
    return service_settings.model_copy(update={"keys": "required", "keys_poll_s": 0.02})


@pytest.fixture
def make(opened: Opened) -> Make:
    """Make a key in the service's catalog."""

    def made(*scopes: str, rate_limit: float | None = None) -> str:
        known = [KeyScope(scope) for scope in scopes]
        return catalog_keys.create(opened[0], name="test", scopes=known, rate_limit=rate_limit)[1]

    return made


@pytest.fixture
def http(strict: ServiceSettings, served: Callable[..., AbstractContextManager[str]]) -> Iterator[httpx.Client]:
    """A client without a key, of a service that asks for one."""
    with served(strict) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def auth(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def revoke(opened: Opened, key: str) -> None:
    catalog_keys.revoke(opened[0], key.split("_")[1])


def test_no_bad_revoked_other_and_misplaced_keys(
    http: httpx.Client, make: Make, opened: Opened, until: Callable[..., None]
):
    """401, 401, 401, 403, 401, each a problem with its own code; a good key is let through to the route."""
    good, revoked, other = make("classify"), make("classify"), make("ingest")
    until(lambda: http.get("/jobs", headers=auth(other)).status_code == 200)
    revoke(opened, revoked)
    until(lambda: "revoked" in http.get("/jobs", headers=auth(revoked)).text)
    image = picture(0, 3)

    answers = [
        http.post("/classify", content=image),
        http.post("/classify", content=image, headers=auth("us_0123456789ab_" + "0" * 64)),
        http.post("/classify", content=image, headers=auth(revoked)),
        http.post("/classify", content=image, headers=auth(other)),
        http.post("/classify", content=image, params={"key": good, "api_key": good, "X-API-Key": good}),
    ]

    assert [(a.status_code, a.json()["code"]) for a in answers] == [
        (401, "key_missing"),
        (401, "key_unknown"),
        (401, "key_revoked"),
        (403, "scope_missing"),
        (401, "key_missing"),
    ]
    assert {a.headers["content-type"] for a in answers} == {"application/problem+json"}
    assert [a.headers.get("www-authenticate") for a in answers] == ["Bearer"] * 3 + [None, "Bearer"]
    assert "scope classify" in answers[3].json()["detail"]
    assert http.post("/classify", content=image, headers=auth(good)).json()["code"] == "no_champion"
    assert http.post("/classify", content=image, headers={"X-API-Key": good}).json()["code"] == "no_champion"


def test_probes_and_documentation_are_open_and_nothing_else_is(http: httpx.Client):
    """Also what is not there is not told to strangers."""
    for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json"):
        assert http.get(path).status_code != 401, path
    for path in ("/metrics", "/jobs", "/models", "/nothing", "/healthz/"):
        assert http.get(path).status_code == 401, path


def test_a_new_key_counts_and_a_revoked_one_does_not_without_a_restart(
    http: httpx.Client, make: Make, opened: Opened, until: Callable[..., None]
):
    """The service looks for changes by itself."""
    key = make("classify")

    until(lambda: http.get("/jobs", headers=auth(key)).status_code == 200)
    revoke(opened, key)
    until(lambda: http.get("/jobs", headers=auth(key)).status_code == 401)


def test_a_hasty_key_gets_429_and_when_to_come_back(http: httpx.Client, make: Make, until: Callable[..., None]):
    """A limit of its own; no such request reaches a route."""
    key, other = make("classify", rate_limit=0.01), make("classify")
    until(lambda: http.get("/jobs", headers=auth(other)).status_code == 200)
    assert http.get("/jobs", headers=auth(key)).status_code == 200

    limited = http.get("/jobs", headers=auth(key))

    assert (limited.status_code, limited.json()["code"]) == (429, "rate_limited")
    assert 90 <= int(limited.headers["retry-after"]) <= 100


def test_with_the_catalog_gone_the_known_keys_go_on_and_a_revocation_waits(
    http: httpx.Client,
    make: Make,
    opened: Opened,
    until: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
):
    """The table of keys is taken away and brought back under the running service."""
    key = make("classify")
    until(lambda: http.get("/jobs", headers=auth(key)).status_code == 200)
    with opened[0].write() as session:
        session.execute(text("ALTER TABLE api_keys RENAME TO hidden"))

    until(lambda: "could not look for changed API keys" in caplog.text)
    assert http.post("/classify", content=b"x", headers=auth(key)).json()["code"] == "no_champion"
    assert http.post("/classify", content=b"x").json()["code"] == "key_missing"

    with opened[0].write() as session:
        session.execute(text("ALTER TABLE hidden RENAME TO api_keys"))
    revoke(opened, key)
    until(lambda: http.get("/jobs", headers=auth(key)).status_code == 401)


def test_the_body_of_a_stranger_is_not_read(http: httpx.Client):
    """The answer is there before the first byte of a body that was announced to be long, and the connection ends."""
    host, port = str(http.base_url.host), int(http.base_url.port or 0)
    for announced in (b"Content-Length: 1073741824", b"Transfer-Encoding: chunked"):
        with socket.create_connection((host, port), timeout=30) as stranger:
            stranger.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\n" + announced + b"\r\n\r\n")
            said = b"".join(iter(lambda: stranger.recv(65536), b""))
        assert said.startswith(b"HTTP/1.1 401 ")
        assert b"key_missing" in said
        assert b"connection: close" in said.lower()


async def test_a_stranger_is_answered_without_receiving():
    """The check itself never asks for the body; what comes after it is not called at all."""
    sent: list[dict[str, object]] = []

    async def untouchable(*_: object) -> None:
        raise AssertionError("a stranger got past the guard, or was listened to")

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    headers = [(b"content-length", b"5")]
    scope = {"type": "http", "method": "POST", "path": "/ingest", "headers": headers}
    await Guarded(untouchable, Guard())(scope, untouchable, send)  # type: ignore[arg-type]
    await Guarded(untouchable, Guard())({"type": "websocket", "path": "/"}, untouchable, send)  # type: ignore[arg-type]

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body", "websocket.close"]
    assert sent[0]["status"] == 401


def test_a_long_upload_with_a_wrong_key_is_a_problem_and_not_a_broken_connection(http: httpx.Client):
    """The service answers and hangs up while the client still sends; the answer is what counts."""
    with (
        Client(str(http.base_url), key="us_0123456789ab_" + "0" * 64) as client,
        pytest.raises(RequestFailed) as caught,
    ):
        client.classify(bytes(2**25))

    assert (caught.value.status, caught.value.code) == (401, "key_unknown")


def test_a_photo_that_is_refused_costs_no_connection(http: httpx.Client):
    """A short body is let pass unread, and the same connection asks again."""
    with closing(HTTPConnection(str(http.base_url.host), http.base_url.port, timeout=30)) as connection:
        connection.connect()
        first = connection.sock
        for _ in range(3):
            connection.request("POST", "/classify", body=bytes(300_000))
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["code"]) == (401, "key_missing")
            assert connection.sock is first


def test_the_client_sends_its_key(http: httpx.Client, make: Make, until: Callable[..., None]):
    """As it was printed, or with the line break of the file that it was kept in."""
    key = make("ingest")
    with Client(str(http.base_url), key=key + "\n") as client:
        until(lambda: http.get("/jobs", headers=auth(key)).status_code == 200)
        assert client.buckets() == []
        with pytest.raises(RequestFailed) as caught:
            client.generate()

    assert (caught.value.status, caught.value.code) == (403, "scope_missing")


def test_no_secret_is_in_a_log_line_an_error_or_the_catalogs_file(
    http: httpx.Client,
    make: Make,
    opened: Opened,
    until: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    strict: ServiceSettings,
):
    """With every logger at its most talkative, and keys in every place where one might be put by mistake."""
    with caplog.at_level(logging.DEBUG):
        good, revoked, wrong = make("ingest"), make("ingest"), keys.write(keys.generate())
        until(lambda: http.get("/jobs", headers=auth(revoked)).status_code == 200)
        revoke(opened, revoked)
        until(lambda: http.get("/jobs", headers=auth(revoked)).status_code == 401)
        with opened[0].write() as session:
            session.execute(text("ALTER TABLE api_keys RENAME TO hidden"))
        until(lambda: "could not look for changed API keys" in caplog.text)
        answers = [
            http.request(method, path, headers=headers, content=b"x" if method == "POST" else None).text
            for key in (good, revoked, wrong)
            for headers in (auth(key), {"X-API-Key": key}, {"Authorization": f"Basic {key}"})
            for method, path in (("GET", "/jobs"), ("POST", "/classify"), ("POST", "/ingest?bucket=-"), ("PUT", "/x"))
        ]

    secrets = [key.split("_")[2] for key in (good, revoked, wrong)]
    files = b"".join(file.read_bytes() for file in strict.data.glob("catalog.db*"))
    assert good.split("_")[1].encode() in files
    for secret in secrets:
        assert secret not in "".join(answers)
        assert secret not in caplog.text
        assert secret.encode() not in files


# -- OpenAPI --------------------------------------------------------------------------------------


def test_the_schema_says_which_operations_need_a_key_and_how_they_refuse(guarded: FastAPI):
    """Two schemes to send it; 401, 403 and 429 as problems; nothing of it on what is open."""
    schema = guarded.openapi()

    assert set(schema["components"]["securitySchemes"]) == {"bearer", "header"}
    assert "ProblemDetails" in schema["components"]["schemas"]
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            is_open = ("GET", path) in OPEN
            assert operation.get("security", []) == ([] if is_open else [{"bearer": []}, {"header": []}]), path
            assert {"401", "403", "429"} <= operation["responses"].keys() or is_open, path
    assert guarded.openapi() == schema


def test_without_keys_the_schema_speaks_of_none(tmp_path: Path):
    """On one machine nobody is asked for one."""
    schema = create_app(settings.read(ServiceSettings, data=tmp_path)).openapi()

    assert "securitySchemes" not in schema.get("components", {})
    assert not any("security" in operation for path in schema["paths"].values() for operation in path.values())
