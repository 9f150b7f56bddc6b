"""The application: what it opens and closes, its routes, its errors and its measurements."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool

import understudy
from service import problems
from service.batcher import Batcher, Lanes
from service.metrics import Metrics
from service.observed import Observed
from service.routes import classify, health, ingest, jobs, labeled, models
from service.state import State
from service.swap import ChampionFollower, EngineSlot
from understudy import engine, messages, registry
from understudy.catalog import Catalog, versions
from understudy.settings import ServiceSettings
from understudy.store import Store

DESCRIPTION = """
A self-improving image classifier. `POST /classify` answers with the champion, `POST /ingest` takes
unlabeled images, `POST /generations` turns them into a better model; the better model is swapped in
without a failed request. Errors are RFC 9457 problem details with a stable `code`.
"""

#: With several processes, each brings its gauges up to date this often.
REFRESH_S = 1.0


def create_app(settings: ServiceSettings, metrics: Metrics | None = None) -> FastAPI:
    """The application for one set of settings. It opens nothing until it starts.

    ``metrics`` are those that the server counts its connections with; None: the application's own.
    """
    metrics = metrics or Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _open(settings, metrics) as state:
            app.state.understudy = state
            yield

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
    app.add_middleware(Observed, metrics=metrics, access_log=bool(settings.access_log))
    app.state.is_stopping = False  # the server's word: SIGTERM has come
    return app


@contextlib.asynccontextmanager
async def _open(settings: ServiceSettings, metrics: Metrics) -> AsyncIterator[State]:
    """Open everything that the routes need; close it in reverse order."""
    async with contextlib.AsyncExitStack() as stack:
        catalog = Catalog(settings.catalog_url)
        stack.callback(catalog.close)
        await run_in_threadpool(catalog.migrate)
        store = Store(settings.store_url)
        cores = max(1, engine.available_cores() // settings.processes)
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
        metrics.read_at_scrape(lambda: metrics.queue_images.set(slot.num_waiting))
        if metrics.is_shared:
            stack.push_async_callback(_cancel, asyncio.create_task(_refresh(metrics)))
        queue = messages.celery_app(settings.broker_url)
        stack.callback(queue.close)
        bell = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="bell"))
        yield State(settings, catalog, store, queue, slot, follower, decoders, bell, metrics)


def _lanes(settings: ServiceSettings, stack: contextlib.AsyncExitStack, cores: int) -> Lanes:
    """One batch a core on a CPU: measured, lanes of one thread each beat one lane of all threads. One on a GPU."""
    provider = engine.default_provider() if settings.provider == "auto" else settings.provider
    num_lanes = 1 if provider == "cuda" else cores
    executor = stack.enter_context(ThreadPoolExecutor(num_lanes, thread_name_prefix="lane"))
    return Lanes(executor, num_lanes, settings.max_batch)


async def _refresh(metrics: Metrics) -> None:
    """Another process may be asked for the numbers of this one, so they are never older than this."""
    while True:
        metrics.refresh()
        await asyncio.sleep(REFRESH_S)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
