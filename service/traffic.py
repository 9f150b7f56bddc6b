"""Live traffic and a challenger: which model answers a request, and what is compared without anybody noticing.

A canary answers its share; when it fails or dawdles, the champion answers in its place, so that no client
suffers for it. A shadow, and the other model of a canary's request, are asked afterwards, one image at a
time and only while the machine has room. Which deployment is active is the business of ``deploying``.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from service.batcher import Batcher
from service.bodies import Budget
from service.metrics import Metrics
from understudy.errors import DeadlineExceeded, ImageRefused, Overloaded
from understudy.records import Counts, Deployment, DeploymentKind

log = logging.getLogger(__name__)

#: A canary may take this share of the time that a request has left; the rest is for the champion to answer in its place.
CANARY_SHARE_OF_TIME = 0.5
#: Requests that wait for their comparison, in all. More are skipped: they are a sample anyway.
MAX_COMPARISONS = 16
#: An image that is only compared may take this long. Nobody waits for it, but the next one does.
COMPARISON_S = 10.0

#: An image as it was sent, and what is answered for it.
T = TypeVar("T")
A = TypeVar("A")
#: How a model is asked for images, until a deadline by the event loop's clock: each one's answer, or what is wrong.
Ask = Callable[[Batcher, Sequence[T], float], Awaitable[Sequence[A | BaseException]]]
Role = Literal["champion", "challenger"]


@dataclass(eq=False)
class Deployed:
    """A deployment in this process: the loaded challenger, and what was counted since the last report."""

    deployment: Deployment
    batcher: Batcher
    metrics: Metrics
    error: str | None = None  #: the newest failure of the challenger
    _counts: Counter[str] = field(default_factory=Counter)

    def answered(self, role: Role, num_images: int, seconds: float, fault: BaseException | None) -> None:
        """A model was asked; ``fault`` is what it failed with. Being late is no failure: it shows in the seconds."""
        if not num_images:
            return
        version = self.deployment.version if role == "challenger" else self.deployment.champion
        self._add({f"{role}_requests": 1, f"{role}_images": num_images, f"{role}_seconds": seconds})
        self.metrics.deployment_images.labels(version, role).inc(num_images)
        self.metrics.deployment_seconds.labels(version, role).observe(seconds)
        if fault is None or isinstance(fault, TimeoutError | DeadlineExceeded):
            return
        self._add({f"{role}_errors": 1})
        self.metrics.deployment_errors.labels(version, role).inc()
        if role == "challenger":
            if self.error is None:
                log.warning("challenger %s failed on a request: %s", version, fault)
            self.error = str(fault) or type(fault).__name__

    def compared(self, *, agreed: bool) -> None:
        """Both models were asked for an image."""
        self._add({"compared_images": 1, "agreed_images": int(agreed)})
        self._compared("agreed" if agreed else "disagreed")

    def skipped(self, num_images: int) -> None:
        """There was no room to compare these."""
        self._add({"skipped_images": num_images})
        self._compared("skipped", num_images)

    def take(self) -> Counts:
        """What was counted since it was last taken."""
        taken, self._counts = self._counts, Counter()
        return Counts(**taken)

    def give_back(self, counts: Counts) -> None:
        """What was taken could not be reported yet."""
        self._add(counts.model_dump())

    def pending(self) -> Counts:
        """What would be taken."""
        return Counts(**self._counts)

    def _add(self, counts: dict[str, Any]) -> None:
        self._counts.update(counts)

    def _compared(self, outcome: str, num_images: int = 1) -> None:
        self.metrics.deployment_compared.labels(self.deployment.version, outcome).inc(num_images)


class _Comparison(NamedTuple):
    """A request that was answered by one model, for the other to be asked."""

    deployed: Deployed
    batcher: Batcher  #: the other model
    ask: Ask[Any, Any]
    sent: Sequence[Any]
    answers: Sequence[Any]
    called: Callable[[Any], int]
    held: ExitStack  #: what it takes of the memory for bodies


class Traffic:
    """Between requests and models. Used from one event loop."""

    def __init__(
        self,
        budget: Budget,
        *,
        has_room: Callable[[], bool],
        draw: Callable[[], float] = random.random,
    ) -> None:
        """``has_room`` says whether the machine may do what nobody waits for; ``draw`` gives 0..1 by chance."""
        #: None while there is no challenger: all that a request without one has to look at.
        self.deployed: Deployed | None = None
        self._budget, self._has_room, self._draw = budget, has_room, draw
        self._comparisons: asyncio.Queue[_Comparison] = asyncio.Queue(MAX_COMPARISONS)

    async def classify(
        self,
        champion: Batcher,
        ask: Ask[T, A],
        sent: Sequence[T],
        deadline: float,
        called: Callable[[Any], int],
        num_bytes: int,
    ) -> tuple[Batcher, Sequence[A | BaseException]]:
        """The answers, and the model that gave every one of them. Raises what asking the champion raises.

        ``sent`` are the images of one request and take ``num_bytes``; they may be asked for again afterwards.
        ``called`` says by which class an answer calls its image.
        """
        deployed = self.deployed
        if deployed is None or deployed.deployment.champion != champion.engine.version:
            return champion, await ask(champion, sent, deadline)
        is_drawn = self._draw() < deployed.deployment.share
        is_canary = deployed.deployment.kind == DeploymentKind.CANARY
        if is_drawn and is_canary and (answers := await _try(deployed, ask, sent, deadline)) is not None:
            self._compare_later(_Comparison(deployed, champion, ask, sent, answers, called, ExitStack()), num_bytes)
            return deployed.batcher, answers
        answers = await _timed(deployed, "champion", champion, ask, sent, deadline)
        if is_drawn and not is_canary and _fault_in(answers) is None:
            self._compare_later(
                _Comparison(deployed, deployed.batcher, ask, sent, answers, called, ExitStack()), num_bytes
            )
        return champion, answers

    def _compare_later(self, comparison: _Comparison, num_bytes: int) -> None:
        try:
            if self._comparisons.full():
                raise asyncio.QueueFull
            comparison.held.enter_context(self._budget.allowance()).raise_to(num_bytes)
            self._comparisons.put_nowait(comparison)
        except (asyncio.QueueFull, Overloaded):
            comparison.held.close()
            comparison.deployed.skipped(len(comparison.sent))

    async def compare(self) -> None:
        """Compare for ever what waits for it. Cancelled, it drops what waits."""
        while True:
            comparison = await self._comparisons.get()
            with comparison.held:
                try:
                    await self._compare(comparison)
                except Exception:
                    log.exception("could not compare %s", comparison.deployed.deployment.version)
            self._comparisons.task_done()

    async def settled(self) -> None:
        """Wait until nothing waits for its comparison."""
        await self._comparisons.join()

    async def _compare(self, comparison: _Comparison) -> None:
        deployed = comparison.deployed
        loop = asyncio.get_running_loop()
        for one, answer in zip(comparison.sent, comparison.answers, strict=True):
            if self.deployed is not deployed:
                return  # it is over
            if isinstance(answer, BaseException):
                continue
            if not self._has_room():
                deployed.skipped(1)
                continue
            got = await self._other(comparison, one, loop.time() + COMPARISON_S)
            if got is not None:
                deployed.compared(agreed=comparison.called(got) == comparison.called(answer))

    async def _other(self, comparison: _Comparison, one: Any, deadline: float) -> Any:
        """What the other model says of an image; None if it failed."""
        deployed, batcher = comparison.deployed, comparison.batcher
        try:
            if batcher is deployed.batcher:
                (got,) = await _timed(deployed, "challenger", batcher, comparison.ask, [one], deadline)
            else:  # the champion's numbers are of the requests that it answers
                async with asyncio.timeout_at(deadline):
                    (got,) = await comparison.ask(batcher, [one], deadline)
        except Exception:
            return None  # it is counted, if it was the challenger
        return None if isinstance(got, BaseException) else got


async def _try(
    deployed: Deployed, ask: Ask[T, A], sent: Sequence[T], deadline: float
) -> Sequence[A | BaseException] | None:
    """A canary's answers; None if it failed or was too late, and the champion must answer in its place."""
    now = asyncio.get_running_loop().time()
    until = now + CANARY_SHARE_OF_TIME * (deadline - now)
    try:
        answers = await _timed(deployed, "challenger", deployed.batcher, ask, sent, until)
    except Exception:
        return None  # it is counted
    return answers if _fault_in(answers) is None else None


async def _timed(
    deployed: Deployed, role: Role, batcher: Batcher, ask: Ask[T, A], sent: Sequence[T], deadline: float
) -> Sequence[A | BaseException]:
    """Ask, and count what came of it. A challenger is not waited for any longer than its deadline."""
    began = time.perf_counter()  # the event loop's clock may count in milliseconds only
    try:
        async with asyncio.timeout_at(deadline if role == "challenger" else None):
            answers = await ask(batcher, sent, deadline)
    except Exception as fault:
        deployed.answered(role, len(sent), time.perf_counter() - began, fault)
        raise
    num_images = sum(not isinstance(one, ImageRefused) for one in answers)
    deployed.answered(role, num_images, time.perf_counter() - began, _fault_in(answers))
    return answers


def _fault_in(answers: Sequence[Any]) -> BaseException | None:
    """What the model failed with; an image that cannot be used is not its fault."""
    return next((one for one in answers if isinstance(one, BaseException) and not isinstance(one, ImageRefused)), None)
