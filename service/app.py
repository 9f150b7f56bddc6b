"""The application: what it opens and closes, its routes, its errors and its measurements."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import understudy
from service import openapi, problems
from service.admission import Admission, Rate
from service.batcher import Lanes
from service.bodies import Budget
from service.heads import Heads
from service.loading import Loader
from service.metrics import Metrics
from service.routes import classify, health, ingest, jobs, labeled, models
from service.state import State
from service.swap import ChampionFollower, EngineSlot
from understudy import engine, messages, tuning
from understudy.catalog import Catalog, versions
from understudy.settings import ServiceSettings
from understudy.store import Store

DESCRIPTION = """
A self-improving image classifier. `POST /classify` answers with the champion, `POST /ingest` takes
unlabeled images, `POST /generations` turns them into a better model; the better model is swapped in
without a failed request. Errors are RFC 9457 problem details with a stable `code`.
"""

#: Requests that are documents, as that for a generation, are read whole into memory: a recipe is never longer.
MAX_DOCUMENT_BYTES = 2**20


def create_app(settings: ServiceSettings) -> FastAPI:
    """The application for one set of settings. It opens nothing until it starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _open(settings, metrics) as state:
            app.state.understudy = state
            yield

    metrics = Metrics()
    app = FastAPI(
        title="Understudy",
        version=understudy.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
    )
    # Not as FastAPI's own argument: that one lies outside of what makes its plain answer a problem.
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_upload_bytes)
    answering = APIRouter(max_body_size=settings.max_request_bytes)
    answering.include_router(classify.router)
    asking = APIRouter(max_body_size=MAX_DOCUMENT_BYTES)
    for router in (jobs.router, models.router, health.router):
        asking.include_router(router)
    for router in (answering, ingest.router, labeled.router, asking):
        app.include_router(router)
    problems.install(app)
    openapi.describe(app)
    app.add_middleware(Heads)
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
        lanes = _lanes(settings, stack)
        clock = asyncio.get_running_loop().time
        admission = Admission(Rate(1.0, clock), max_images=settings.max_queue, num_lanes=lanes.num_lanes)
        loader = Loader(store, catalog, settings, lanes, admission, metrics)
        slot = EngineSlot()

        async def current() -> str | None:
            champion = await run_in_threadpool(versions.champion, catalog)
            return champion.version if champion else None

        follower = ChampionFollower(
            slot, current=current, load=loader.load, on_swap=lambda version, ok: metrics.swapped(version, succeeded=ok)
        )
        following = asyncio.create_task(follower.follow(settings.champion_poll_s))
        stack.push_async_callback(_cancel, following)
        queue = messages.celery_app(settings.broker_url)
        stack.callback(queue.close)
        bell = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="bell"))
        held = Budget(settings.max_buffered_bytes, timeout_s=settings.body_timeout_s)
        yield State(settings, catalog, store, queue, slot, follower, lanes, admission, held, bell, metrics)


def _lanes(settings: ServiceSettings, stack: contextlib.AsyncExitStack) -> Lanes:
    """One lane of one thread a core on a CPU, one lane on a GPU; as many decoders as cores beside them."""
    cores = engine.available_cores()
    provider = engine.default_provider() if settings.provider == "auto" else settings.provider
    num_lanes, threads = tuning.layout(provider, cores)
    executor = stack.enter_context(ThreadPoolExecutor(num_lanes, thread_name_prefix="lane"))
    decoders = stack.enter_context(ThreadPoolExecutor(cores, thread_name_prefix="decode"))
    return Lanes(executor, decoders, num_lanes, threads)


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
