"""The application: what it opens and closes, its routes, its errors and its measurements."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import understudy
from service import access, problems
from service.batcher import Batcher, Lanes
from service.metrics import Metrics
from service.routes import classify, health, ingest, jobs, labeled, models
from service.state import State
from service.swap import ChampionFollower, EngineSlot
from understudy import engine, messages, registry
from understudy.catalog import Catalog, keys, versions
from understudy.catalog.keys import HeldKey
from understudy.settings import ServiceSettings
from understudy.store import Store

log = logging.getLogger(__name__)

DESCRIPTION = """
A self-improving image classifier. `POST /classify` answers with the champion, `POST /ingest` takes
unlabeled images, `POST /generations` turns them into a better model; the better model is swapped in
without a failed request. Errors are RFC 9457 problem details with a stable `code`.
"""


def create_app(settings: ServiceSettings) -> FastAPI:
    """The application for one set of settings. It opens nothing until it starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _open(settings, metrics) as state, _guarding(guard, state):
            app.state.understudy = state
            yield

    metrics = Metrics()
    guard = access.Guard(rate_limit=settings.rate_limit) if access.are_required(settings) else None
    app = FastAPI(
        title="Understudy",
        version=understudy.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        max_body_size=settings.max_upload_bytes,
    )
    answering = APIRouter(max_body_size=settings.max_request_bytes)
    answering.include_router(classify.router)
    for router in (answering, ingest.router, labeled.router, jobs.router, models.router, health.router):
        app.include_router(router)
    problems.install(app)
    if guard is not None:
        access.describe(app)
        app.add_middleware(access.Guarded, guard=guard)
    app.add_middleware(_Measured, metrics=metrics)
    return app


@contextlib.asynccontextmanager
async def _open(settings: ServiceSettings, metrics: Metrics) -> AsyncIterator[State]:
    """Open everything that the routes need; close it in reverse order."""
    async with contextlib.AsyncExitStack() as stack:
        catalog = Catalog(settings.catalog_url)
        stack.callback(catalog.close)
        await run_in_threadpool(catalog.migrate)
        store = Store(settings.store_url)
        cores = engine.available_cores()
        decoders = stack.enter_context(ThreadPoolExecutor(cores, thread_name_prefix="decode"))
        lanes = _lanes(settings, stack, cores)
        slot = EngineSlot()

        async def load(version: str) -> Batcher:
            threads = 1 if lanes.num_lanes > 1 else 0
            loading = partial(registry.load, store, catalog, version, provider=settings.provider, threads=threads)
            loaded = await run_in_threadpool(loading)
            return Batcher(loaded, lanes, max_queue=settings.max_queue, on_batch=metrics.batch_images.observe)

        async def current() -> str | None:
            champion = await run_in_threadpool(versions.champion, catalog)
            return champion.version if champion else None

        follower = ChampionFollower(
            slot, current=current, load=load, on_swap=lambda version, ok: metrics.swapped(version, succeeded=ok)
        )
        following = asyncio.create_task(follower.follow(settings.champion_poll_s))
        stack.push_async_callback(_cancel, following)
        queue = messages.celery_app(settings.broker_url)
        stack.callback(queue.close)
        bell = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="bell"))
        yield State(settings, catalog, store, queue, slot, follower, decoders, bell, metrics)


@contextlib.asynccontextmanager
async def _guarding(guard: access.Guard | None, state: State) -> AsyncIterator[None]:
    """Hold the API keys, and look for changed ones until the end."""
    if guard is None:
        yield
        return

    async def load() -> list[HeldKey]:
        return await run_in_threadpool(keys.held_keys, state.catalog)

    held = await load()
    guard.hold(held)
    if not any(one.key.revoked_at is None for one in held):
        log.warning("there is no API key yet, so nobody can ask; make one with `understudy keys create`")
    following = asyncio.create_task(guard.follow(load, state.settings.keys_poll_s))
    try:
        yield
    finally:
        await _cancel(following)


def _lanes(settings: ServiceSettings, stack: contextlib.AsyncExitStack, cores: int) -> Lanes:
    """One batch a core on a CPU: measured, lanes of one thread each beat one lane of all threads. One on a GPU."""
    provider = engine.default_provider() if settings.provider == "auto" else settings.provider
    num_lanes = 1 if provider == "cuda" else cores
    executor = stack.enter_context(ThreadPoolExecutor(num_lanes, thread_name_prefix="lane"))
    return Lanes(executor, num_lanes, settings.max_batch)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


class _Measured:
    """Counts and times requests by route template, never by path: paths are without number."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.requests.labels(scope["method"], route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - began)
