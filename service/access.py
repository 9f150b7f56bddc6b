"""Who may do what: API keys, their scopes and their rate limits, checked before a byte of a body is read.

The check asks nobody: every key is held in memory and refreshed beside the requests, so it costs
microseconds, and goes on while the catalog is away. It knows no route: what is in no rule needs ``admin``.
"""

import asyncio
import hmac
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from service import problems
from understudy import keys
from understudy.addresses import is_loopback
from understudy.catalog import Catalog
from understudy.catalog.keys import HeldKey, held_keys
from understudy.records import ApiKey, KeyScope
from understudy.settings import ServiceSettings

log = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]

#: A key that was idle may send this many seconds' worth of requests at once.
BURST_S = 2.0
#: A refused request whose body is longer than this ends its connection, rather than be carried to its end unread.
MAX_UNREAD_BYTES = 2**20
#: A key that nobody knows is compared with this, so that it takes as long as one that somebody knows.
NO_DIGEST = bytes(32)
#: RFC 6455's number for it.
POLICY_VIOLATION = 1008

ANY_KEY = frozenset(KeyScope)
ADMIN = frozenset({KeyScope.ADMIN})
CLASSIFY = frozenset({KeyScope.CLASSIFY, KeyScope.ADMIN})
INGEST = frozenset({KeyScope.INGEST, KeyScope.ADMIN})
OPEN: frozenset[KeyScope] = frozenset()

READS = frozenset({"GET", "HEAD"})
POST = frozenset({"POST"})

#: Methods and whole path to the scopes of which one is needed. The first that fits decides; what fits none needs admin.
RULES: tuple[tuple[frozenset[str], re.Pattern[str], frozenset[KeyScope]], ...] = (
    (READS, re.compile(r"/healthz|/readyz|/v2/health/(live|ready)"), OPEN),
    (READS, re.compile(r"/|/docs|/docs/oauth2-redirect|/redoc|/openapi\.json"), OPEN),
    (READS, re.compile(r"/exports(/.*)?", re.DOTALL), ADMIN),  # the images themselves
    (READS, re.compile(r"/webhooks(/.*)?", re.DOTALL), ADMIN),  # their URLs may hold tokens
    (READS, re.compile(r"/models/[^/]+/files(/.*)?", re.DOTALL), ADMIN),  # who may ask a model need not own it
    (READS, re.compile(r".*", re.DOTALL), ANY_KEY),
    (POST, re.compile(r"/classify|/models/[^/]+/classify|/v2/models/[^/]+(/versions/[^/]+)?/infer"), CLASSIFY),
    (POST, re.compile(r"/v2/repository/index"), CLASSIFY),  # a list, though it is asked for with POST
    (POST | {"PUT"}, re.compile(r"/ingest|/uploads(/.*)?", re.DOTALL), INGEST),
)


def needed(method: str, path: str) -> frozenset[KeyScope]:
    """The scopes of which a request needs one; none at all for what is open."""
    return next((scopes for methods, rule, scopes in RULES if method in methods and rule.fullmatch(path)), ADMIN)


def are_required(settings: ServiceSettings) -> bool:
    """Whether keys are required, and a log line that says why."""
    where = f"the service binds {settings.host or 'every address'} and UNDERSTUDY_KEYS={settings.keys}"
    required = settings.keys == "required" or (settings.keys == "auto" and not is_loopback(settings.host))
    if required:
        log.info("API keys are required: %s", where)
    elif is_loopback(settings.host):
        log.info("API keys are off: %s", where)
    else:
        log.warning("API keys are off, and whoever reaches this address may do everything: %s", where)
    return required


@dataclass(frozen=True)
class Refusal:
    """Why a request is not let in, as the problem that answers it."""

    status: int
    code: str
    detail: str
    headers: tuple[tuple[str, str], ...] = ()


_CHALLENGE = (("WWW-Authenticate", "Bearer"),)
_MISSING = Refusal(
    401,
    "key_missing",
    "this needs an API key: send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`, on the command line with "
    "--key or UNDERSTUDY_KEY (one in the URL is not read: URLs get into logs); `understudy keys create` makes one",
    _CHALLENGE,
)
_UNKNOWN = Refusal(
    401,
    "key_unknown",
    "there is no such API key; `understudy keys list` shows the ids of all, `understudy keys create` makes one",
    _CHALLENGE,
)


class Bucket:
    """A token bucket: as many requests as its key may still send at this moment."""

    __slots__ = ("_at", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._tokens, self._at = self.burst(rate), now

    @staticmethod
    def burst(rate: float) -> float:
        """The most tokens that it holds; one at least, or a slow key could never ask."""
        return max(1.0, rate * BURST_S)

    def take(self, rate: float, now: float) -> float:
        """Take a token: 0.0; or take none: the seconds until there will be one."""
        self._tokens = min(self.burst(rate), self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / rate


class Guard:
    """Every key in memory, and whether a request may come in. Used from one event loop."""

    def __init__(
        self,
        *,
        rate_limit: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        compare: Callable[[bytes, bytes], bool] = hmac.compare_digest,
    ) -> None:
        self._rate_limit, self._clock, self._compare = rate_limit, clock, compare
        self._held: dict[str, HeldKey] = {}
        self._buckets: dict[str, Bucket] = {}
        self._is_stale = False

    def hold(self, held: Sequence[HeldKey]) -> None:
        """Check against these keys from now on. What a key has used up of its rate stays so."""
        self._held = {one.key.id: one for one in held}
        self._buckets = {key_id: bucket for key_id, bucket in self._buckets.items() if key_id in self._held}

    def admit(self, method: str, path: str, headers: Headers) -> ApiKey | Refusal | None:
        """The key of a request that may come in, or why it may not; None where no key is needed."""
        scopes = needed(method, path)
        if not scopes:
            return None
        key = self._authenticate(headers)
        if isinstance(key, Refusal):
            return key
        if scopes.isdisjoint(key.scopes):
            need = min(scopes - ADMIN, default=KeyScope.ADMIN)
            return Refusal(
                403,
                "scope_missing",
                f"{method} {path[:200]} needs a key with the scope {need}; "
                f"the key {key.id} has {', '.join(key.scopes) or 'none'}",
            )
        return self._rate_limited(key) or key

    def _authenticate(self, headers: Headers) -> ApiKey | Refusal:
        sent = sent_key(headers)
        if sent is None:
            return _MISSING
        credential = keys.read(sent)
        held = self._held.get(credential.id)
        if not self._compare(credential.digest, held.digest if held else NO_DIGEST) or held is None:
            return _UNKNOWN
        if held.key.revoked_at is not None:  # told only to whom had the secret
            return Refusal(401, "key_revoked", f"the API key {held.key.id} was revoked; use another", _CHALLENGE)
        return held.key

    def _rate_limited(self, key: ApiKey) -> Refusal | None:
        rate = self._rate_limit if key.rate_limit is None else key.rate_limit
        if not rate:
            return None
        now = self._clock()
        bucket = self._buckets.get(key.id)
        if bucket is None:
            bucket = self._buckets[key.id] = Bucket(rate, now)
        wait_s = bucket.take(rate, now)
        if not wait_s:
            return None
        return Refusal(
            429,
            "rate_limited",
            f"the key {key.id} may send {rate:g} requests a second; the next one in {wait_s:.2f} s",
            (("Retry-After", str(math.ceil(wait_s))),),
        )

    async def refresh(self, load: Callable[[], Awaitable[Sequence[HeldKey]]]) -> None:
        """Hold the keys of this moment; if nobody can tell them, those that were held go on counting."""
        try:
            self.hold(await load())
        except Exception as error:
            if not self._is_stale:
                why = next(iter(str(error).splitlines()), type(error).__name__)
                log.warning(
                    "could not look for changed API keys; the %d known go on counting, and what is made or revoked "
                    "meanwhile waits: %s",
                    len(self._held),
                    why,
                )
            self._is_stale = True
        else:
            if self._is_stale:
                log.info("API keys are up to date again: %d", len(self._held))
            self._is_stale = False

    async def follow(self, load: Callable[[], Awaitable[Sequence[HeldKey]]], poll_s: float) -> None:
        """Refresh for ever."""
        while True:
            await asyncio.sleep(poll_s)
            await self.refresh(load)


@asynccontextmanager
async def holding(guard: Guard | None, catalog: Catalog, poll_s: float) -> AsyncIterator[None]:
    """Hold the catalog's keys, and look for changed ones until the block ends. None: nobody guards anything."""
    if guard is None:
        yield
        return

    async def load() -> list[HeldKey]:
        return await run_in_threadpool(held_keys, catalog)

    held = await load()
    guard.hold(held)
    if not any(one.key.revoked_at is None for one in held):
        log.warning("there is no API key yet, so nobody can ask; make one with `understudy keys create`")
    following = asyncio.create_task(guard.follow(load, poll_s))
    try:
        yield
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


def sent_key(headers: Headers) -> bytes | None:
    """The key that a request carries, or None: what ``X-API-Key`` says, or else the bearer token.

    In this order, because proxies that log people in put tokens of their own into ``Authorization``.
    """
    bearer = b""
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip() or None
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
    return bearer or None


class Guarded:
    """Lets in what the guard admits and answers the rest itself, so that no route can be forgotten."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})  # no route is one, and none may be open
            return
        admitted = self._guard.admit(scope["method"], scope["path"], scope["headers"])
        if isinstance(admitted, Refusal):
            headers = dict(admitted.headers) | _ending(scope["headers"])
            await problems.answer(admitted.status, admitted.code, admitted.detail, headers)(scope, receive, send)
            return
        scope.setdefault("state", {})["key_id"] = admitted.id if admitted else None  # for logs: request.state.key_id
        await self._app(scope, receive, send)


def _ending(headers: Headers) -> dict[str, str]:
    """What ends the connection of a refused request that has a long body, or one of unknown length."""
    named = dict(headers)
    length = named.get(b"content-length", b"0")
    is_short = b"transfer-encoding" not in named and length.isdigit() and int(length) <= MAX_UNREAD_BYTES
    return {} if is_short else {"Connection": "close"}


#: For OpenAPI: how a key is sent.
SCHEMES: dict[str, dict[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: `Authorization: Bearer us_...`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same, for other clients."},
}
#: For OpenAPI: how a request is refused.
REFUSALS = {
    "401": "No API key, or one that is unknown or revoked.",
    "403": "The API key has not the scope that this needs.",
    "429": "The API key has sent too many requests; try again after `Retry-After` seconds.",
}


def describe(app: FastAPI) -> None:
    """Tell OpenAPI which operations need a key, and how they refuse."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        schema.setdefault("components", {})["securitySchemes"] = SCHEMES
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                _describe(operation, needed(method.upper(), path))
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend its schema


def _describe(operation: dict[str, Any], scopes: frozenset[KeyScope]) -> None:
    if not scopes:
        return
    operation["security"] = [{name: []} for name in SCHEMES]
    problem = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    for status, text in REFUSALS.items():
        operation["responses"].setdefault(status, {"description": text, "content": problem})
