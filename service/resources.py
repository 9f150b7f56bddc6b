"""What one service process holds open: catalog, store, threads, engine, doorbell. Closed in reverse order."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.concurrency import run_in_threadpool

from service.admission import Admission, Rate
from service.batcher import Lanes
from service.bodies import Budget
from service.deploying import DeploymentFollower
from service.loading import Loader
from service.looking import THREADS, Looker
from service.metrics import Metrics
from service.previews import Previewer
from service.state import State
from service.swap import ChampionFollower, EngineSlot
from service.traffic import Traffic
from service.trying import Trier
from understudy import engine, messages, tuning
from understudy.catalog import Catalog, versions
from understudy.cores import available, one_each, settle
from understudy.pseudo_labels import Looking
from understudy.settings import ServiceSettings
from understudy.store import Store

#: With several processes, each brings its gauges up to date this often.
REFRESH_S = 1.0
#: A challenger that nobody waits for is asked while no more than this much work is accepted. At the machine's limit
#: there is more, and what is asked besides would be taken from the clients.
COMPARING_ROOM_S = 0.25


@contextlib.asynccontextmanager
async def opened(settings: ServiceSettings, metrics: Metrics) -> AsyncIterator[State]:
    """Everything that the routes need, for as long as the block lasts."""
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
        follower = _champion_follower(catalog, slot, loader, metrics)
        _run(stack, follower.follow(settings.champion_poll_s))
        metrics.read_at_scrape(lambda: metrics.read(slot, admission))
        if metrics.is_shared:
            _run(stack, _refresh(metrics))
        queue = messages.celery_app(settings.broker_url)
        stack.callback(queue.close)
        bell = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="bell"))
        held = Budget(settings.max_buffered_bytes, timeout_s=settings.body_timeout_s)
        traffic = _traffic(stack, catalog, settings, slot, loader, held)
        looker = Looker(Looking(catalog, store, settings.spool, threads=min(THREADS, available())))
        stack.callback(looker.close)
        looker.prepare()
        trier, previewer = Trier(catalog, store), Previewer()
        stack.callback(trier.close)
        stack.callback(previewer.close)
        yield State(
            settings,
            catalog,
            store,
            queue,
            slot,
            follower,
            lanes,
            admission,
            held,
            bell,
            metrics,
            traffic,
            looker,
            trier,
            previewer,
        )


def _lanes(settings: ServiceSettings, stack: contextlib.AsyncExitStack) -> Lanes:
    """This process' share of the machine: on a CPU a lane of one thread a core; on a GPU one lane, and decoders."""
    cores = max(1, engine.available_cores() // settings.processes)
    provider = engine.default_provider() if settings.provider == "auto" else settings.provider
    num_lanes, threads = tuning.layout(provider, cores)
    if provider == "cpu":
        # Measured on two cores with EfficientNet-B0 at 32 connections: 1.05 of the images/s of lanes that wander.
        places: Iterator[int | None] = iter(one_each(num_lanes) or itertools.repeat(None))
        executor = ThreadPoolExecutor(num_lanes, "lane", initializer=lambda: settle(next(places)))
        lone = stack.enter_context(ThreadPoolExecutor(1, "lone"))
        return Lanes(stack.enter_context(executor), num_lanes, threads, lone=lone)
    executor = stack.enter_context(ThreadPoolExecutor(num_lanes, thread_name_prefix="lane"))
    decoders = stack.enter_context(ThreadPoolExecutor(cores, thread_name_prefix="decode"))
    return Lanes(executor, num_lanes, threads, decoders)


def _champion_follower(catalog: Catalog, slot: EngineSlot, loader: Loader, metrics: Metrics) -> ChampionFollower:
    async def current() -> str | None:
        champion = await run_in_threadpool(versions.champion, catalog)
        return champion.version if champion else None

    return ChampionFollower(
        slot, current=current, load=loader.load, on_swap=lambda version, ok: metrics.swapped(version, succeeded=ok)
    )


def _traffic(
    stack: contextlib.AsyncExitStack,
    catalog: Catalog,
    settings: ServiceSettings,
    slot: EngineSlot,
    loader: Loader,
    held: Budget,
) -> Traffic:
    """What gives a challenger its share, and what keeps it on the deployment that is active."""
    admission = loader.admission
    traffic = Traffic(held, has_room=lambda: admission.num_images <= COMPARING_ROOM_S * admission.rate.per_second)
    follower = DeploymentFollower(
        catalog, traffic, load=loader.load_challenger, champion=lambda: slot.version, metrics=loader.metrics
    )
    _run(stack, traffic.compare())
    _run(stack, follower.follow(settings.champion_poll_s))
    return traffic


async def _refresh(metrics: Metrics) -> None:
    """Another process may be asked for the numbers of this one, so they are never older than this."""
    while True:
        metrics.refresh()
        await asyncio.sleep(REFRESH_S)


def _run(stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """Run beside the requests until the stack closes."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(end)
