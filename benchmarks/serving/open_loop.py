"""The open loop: requests come when they come, at twice what the server can do, and give up at their deadline.

A closed loop never asks for more than is answered; the world does. Measured are what is answered in time, how fast the
rest is refused, what the server weighs meanwhile, and how soon it is itself again afterwards.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.serving import client
from benchmarks.serving.client import Connection, Outcome, Target, percentile
from benchmarks.serving.photos import Bodies
from benchmarks.serving.servers import Running

#: Offered load, as a multiple of the capacity.
OVERLOAD = 2.0
#: What a request may take, said in X-Request-Timeout-Ms; who shows pictures to people waits no longer.
DEADLINE_MS = 1000
#: A client hangs up this long after its deadline: late enough to see an answer that is a little late, and no sooner.
GRACE_S = 0.25
#: More connections than this are not opened; far above 2 × capacity × (deadline + grace) on any CPU.
MAX_CONNECTIONS = 4000
#: Connections of the closed loop before and after, which says what the server can do.
CONNECTIONS = 32
BEFORE_S, AFTER_S = 5.0, 8.0
#: Speed is looked at a second at a time; a second with so much of the capacity is at full speed.
WINDOW_S, FULL_SPEED = 1.0, 0.95
REFUSED = (429, 503)
#: The server says that the deadline has passed, which the client sees for itself.
EXPIRED = (408, 504)
#: In place of a status, beside the 0 of a broken connection.
GIVEN_UP = -1
WEIGH_EVERY_S = 0.25


class NoCapacity(Exception):
    """A server that answers nothing, or neither answers nor refuses; there is nothing to measure."""


@dataclass(frozen=True)
class OpenLoop:
    """One run past capacity. Percentiles are NaN where nothing was refused or answered."""

    capacity: float  #: requests a second in the closed loop just before
    offered: float  #: requests a second
    in_time: float  #: answered with 200 within the deadline, a second
    num_in_time: int
    num_late: int  #: 200, but after the deadline
    num_refused: int
    num_given_up: int  #: no answer when the client hung up, or only that it was too late
    num_broken: int  #: any other status, or a broken connection
    answered_p50_ms: float
    answered_p99_ms: float
    refused_p50_ms: float
    refused_p99_ms: float
    rss_before_mb: float
    rss_peak_mb: float  #: during the overload
    rss_after_mb: float
    recovered_s: float | None  #: after the end of the load; None: not within the time that was watched

    @property
    def memory_growth(self) -> float:
        """The largest weight under overload, as a multiple of that at full load before."""
        return self.rss_peak_mb / self.rss_before_mb


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """When requests are due, in seconds from the start: a Poisson process, the same for the same seed."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1.0 / rate, size=int(rate * seconds * 1.5) + 50)
    return [float(due) for due in np.cumsum(gaps) if due < seconds]


async def offer(target: Target, due: Sequence[float], *, deadline_s: float) -> list[Outcome]:
    """Send every request when it is due, whatever became of those before it, and wait until all have ended.

    A request takes an idle connection, or opens one. Its client hangs up ``GRACE_S`` after the deadline.
    """
    idle: list[Connection] = []
    num_open = 0
    began = time.perf_counter()

    async def ask(index: int, at: float) -> Outcome:
        nonlocal num_open
        sent, status = time.perf_counter(), 0
        num_open += 1
        connection: Connection | None = None
        try:
            async with asyncio.timeout(deadline_s + GRACE_S - (sent - at)):
                while idle and connection is None:
                    candidate = idle.pop()
                    connection = candidate if candidate.is_open else None
                connection = connection or await Connection.open(target)
                status = (await connection.send(target.requests[index % len(target.requests)])).status
        except TimeoutError:
            status = GIVEN_UP
        except OSError:
            status = 0
        finally:
            num_open -= 1
        if connection is not None:
            idle.append(connection) if status > 0 and connection.is_open else connection.close()
        return Outcome(at, sent, time.perf_counter(), status)

    tasks: list[asyncio.Task[Outcome]] = []
    for index, offset in enumerate(due):
        wait = began + offset - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        if num_open >= MAX_CONNECTIONS:
            raise NoCapacity(f"{num_open} requests are open, and none is answered or refused; lower the rate")
        tasks.append(asyncio.create_task(ask(index, began + offset)))
    outcomes = await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return list(outcomes)


async def run(server: Running, bodies: Bodies, *, seconds: float, seed: int = 0) -> OpenLoop:
    """Closed loop, overload, closed loop again, on one server."""
    target = Target.of(server.url, bodies, timeout_ms=DEADLINE_MS)
    unhurried = Target.of(server.url, bodies)
    await client.closed(unhurried, connections=CONNECTIONS, is_over=client.within(1.0))  # warm at this load
    before = await client.closed(unhurried, connections=CONNECTIONS, is_over=client.within(BEFORE_S))
    capacity = sum(outcome.status == 200 for outcome in before) / BEFORE_S
    if not capacity:
        raise NoCapacity(f"{server.url} answered nothing in {BEFORE_S} s; there is no capacity to exceed")
    rss_before = server.rss_mb()
    due = arrivals(OVERLOAD * capacity, seconds, seed)
    outcomes, peak = await _weighed(server, offer(target, due, deadline_s=DEADLINE_MS / 1e3))
    ended = time.perf_counter()
    after = await client.closed(unhurried, connections=CONNECTIONS, is_over=client.within(AFTER_S))
    return summary(
        outcomes,
        capacity=capacity,
        seconds=seconds,
        weights=(rss_before, max(peak, rss_before), server.rss_mb()),
        recovered_s=recovered([o.ended - ended for o in after if o.status == 200], FULL_SPEED * capacity, AFTER_S),
    )


async def _weighed(server: Running, offering: Coroutine[Any, Any, list[Outcome]]) -> tuple[list[Outcome], float]:
    running = asyncio.create_task(offering)
    peak = 0.0
    while not running.done():
        peak = max(peak, server.rss_mb())
        await asyncio.wait([running], timeout=WEIGH_EVERY_S)
    return running.result(), peak


def recovered(answered: Sequence[float], full_speed: float, watched_s: float) -> float | None:
    """When the first second at full speed began, from the times of all answers; None if there was none."""
    times = np.sort(np.asarray(answered))
    for start in np.arange(0.0, watched_s - WINDOW_S + 1e-9, 0.1):
        if np.searchsorted(times, start + WINDOW_S) - np.searchsorted(times, start) >= full_speed * WINDOW_S:
            return round(float(start), 1)
    return None


def summary(
    outcomes: Sequence[Outcome],
    *,
    capacity: float,
    seconds: float,
    weights: tuple[float, float, float],
    recovered_s: float | None,
) -> OpenLoop:
    """Count what became of the requests."""
    answered = [o for o in outcomes if o.status == 200]
    in_time = [o.ms for o in answered if o.ms <= DEADLINE_MS]
    # From when it was sent: a client that was late itself says nothing of how fast a server refuses.
    refused = [(o.ended - o.sent) * 1e3 for o in outcomes if o.status in REFUSED]
    num_given_up = sum(o.status in (GIVEN_UP, *EXPIRED) for o in outcomes)
    return OpenLoop(
        capacity=capacity,
        offered=len(outcomes) / seconds,
        in_time=len(in_time) / seconds,
        num_in_time=len(in_time),
        num_late=len(answered) - len(in_time),
        num_refused=len(refused),
        num_given_up=num_given_up,
        num_broken=len(outcomes) - len(answered) - len(refused) - num_given_up,
        answered_p50_ms=percentile([o.ms for o in answered], 50),
        answered_p99_ms=percentile([o.ms for o in answered], 99),
        refused_p50_ms=percentile(refused, 50),
        refused_p99_ms=percentile(refused, 99),
        rss_before_mb=weights[0],
        rss_peak_mb=weights[1],
        rss_after_mb=weights[2],
        recovered_s=recovered_s,
    )
