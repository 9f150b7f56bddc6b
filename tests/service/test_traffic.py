"""Traffic: who answers, who is only compared, and that no client notices a challenger that fails."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from service import traffic as traffic_module
from service.bodies import Budget
from service.metrics import Metrics
from service.traffic import Deployed, Traffic
from understudy.errors import ArtifactRefused, DeadlineExceeded, ImageRefused
from understudy.records import Counts, Deployment, DeploymentKind, DeploymentState, Limits

CHAMPION, CHALLENGER = "g0000-aaaaaa", "g0001-bbbbbb"
#: What each model says: the champion the class of an image's number, a challenger of another opinion the next one.
NUM_CLASSES = 3


@dataclass
class Model:
    """Stands where a batcher does: it answers with a shifted class, fails, or waits for ever."""

    version: str
    shift: int = 0
    fault: Exception | None = None
    is_stuck: bool = False
    asked: list[Any] = field(default_factory=list)

    @property
    def engine(self) -> Any:
        return self

    async def one(self, image: Any, deadline: float) -> Any:
        self.asked.append(image)
        if self.is_stuck:
            await asyncio.Event().wait()
        if self.fault:
            raise self.fault
        if image == "broken":
            raise ImageRefused("no image")
        return np.eye(NUM_CLASSES, dtype=np.float32)[(image + self.shift) % NUM_CLASSES]


async def ask(model: Any, sent: Sequence[Any], deadline: float) -> list[Any]:
    """As ``/classify`` asks: each image's answer, or what is wrong with it."""
    return await asyncio.gather(*(model.one(image, deadline) for image in sent), return_exceptions=True)


@dataclass
class Scene:
    """A champion and a challenger, with traffic between them."""

    traffic: Traffic
    champion: Model
    challenger: Model
    metrics: Metrics
    has_room: bool = True

    def deploy(self, kind: DeploymentKind, share: float = 1.0, champion: str = CHAMPION) -> Deployed:
        deployment = Deployment(
            id="d", version=CHALLENGER, champion=champion, kind=kind, share=share, limits=Limits(),
            state=DeploymentState.ACTIVE, opened_by="test", created_at=0.0,
        )  # fmt: skip
        deployed = Deployed(deployment, self.challenger, self.metrics)  # type: ignore[arg-type]
        self.traffic.deployed = deployed
        return deployed

    async def send(self, *images: Any, timeout_s: float = 30.0, num_bytes: int = 1) -> tuple[str, list[Any]]:
        """One request; gives the version that answered and the classes."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        champion: Any = self.champion
        batcher, answers = await self.traffic.classify(champion, ask, images, deadline, np.argmax, num_bytes)
        return batcher.engine.version, [a if isinstance(a, BaseException) else int(a.argmax()) for a in answers]


@pytest.fixture
async def scene() -> AsyncIterator[Callable[..., Scene]]:
    """Sets a scene; ``comparing`` is off where a test wants to see what waits."""
    tasks: list[asyncio.Task[None]] = []

    def made(*, comparing: bool = True, max_bytes: int = 1000, draw: Callable[[], float] = lambda: 0.0) -> Scene:
        metrics = Metrics()
        traffic = Traffic(Budget(max_bytes, timeout_s=1), has_room=lambda: set_up.has_room, draw=draw)
        set_up = Scene(traffic, Model(CHAMPION), Model(CHALLENGER), metrics)
        if comparing:
            tasks.append(asyncio.create_task(traffic.compare()))
        return set_up

    yield made
    for task in tasks:
        task.cancel()


async def test_without_a_deployment_the_champion_answers(scene: Callable[..., Scene]):
    """And nothing is compared."""
    here = scene()
    assert await here.send(1, 2) == (CHAMPION, [1, 2])
    assert here.challenger.asked == []


async def test_a_shadow_is_compared_and_never_answers(scene: Callable[..., Scene]):
    """Every image of every request: the champion's answer goes out, the agreement is exact."""
    here = scene()
    deployed = here.deploy(DeploymentKind.SHADOW)
    for number in range(10):
        here.challenger.shift = int(number < 4)
        assert await here.send(number % 3, 1) == (CHAMPION, [number % 3, 1])
        await here.traffic.settled()
    counts = deployed.take()
    assert (counts.compared_images, counts.agreed_images, counts.skipped_images) == (20, 12, 0)
    assert (counts.champion_requests, counts.champion_images) == (10, 20)
    assert (counts.challenger_requests, counts.challenger_images) == (20, 20)
    assert counts.challenger_seconds > 0
    assert deployed.take() == Counts()


async def test_a_canary_answers_a_request_whole_and_is_compared(scene: Callable[..., Scene]):
    """All images of a request are one model's; the champion sees them afterwards, uncounted as its own."""
    here = scene()
    deployed = here.deploy(DeploymentKind.CANARY)
    here.challenger.shift = 1
    assert await here.send(0, 1, 2) == (CHALLENGER, [1, 2, 0])
    await here.traffic.settled()
    counts = deployed.take()
    assert (counts.challenger_requests, counts.challenger_images, counts.challenger_errors) == (1, 3, 0)
    assert (counts.compared_images, counts.agreed_images) == (3, 0)
    assert counts.champion_requests == 0
    assert here.champion.asked == [0, 1, 2]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
async def test_a_canary_gets_its_share_of_the_requests(scene: Callable[..., Scene], share: float):
    """By chance: of 2,000 requests within four standard deviations."""
    here = scene(comparing=False, draw=random.Random(7).random)
    here.deploy(DeploymentKind.CANARY, share)
    answered = [(await here.send(0))[0] for _ in range(2000)]
    deviation = (2000 * share * (1 - share)) ** 0.5
    assert answered.count(CHALLENGER) == pytest.approx(2000 * share, abs=4 * deviation)


@pytest.mark.parametrize("kind", DeploymentKind)
async def test_a_challenger_that_fails_costs_no_client_an_answer(scene: Callable[..., Scene], kind: DeploymentKind):
    """The champion answers every image; the failure is counted and kept as a reason."""
    here = scene()
    deployed = here.deploy(kind)
    here.challenger.fault = ArtifactRefused("not finite")
    assert await here.send(0, 1) == (CHAMPION, [0, 1])
    await here.traffic.settled()
    counts = deployed.take()
    assert counts.challenger_errors == (1 if kind == DeploymentKind.CANARY else 2)
    assert (counts.champion_requests, counts.champion_errors, counts.compared_images) == (1, 0, 0)
    assert deployed.error == "not finite"


async def test_a_canary_that_fails_by_raising_is_stepped_in_for_too(scene: Callable[..., Scene]):
    """A lone image's failure is raised rather than listed."""
    here = scene()
    deployed = here.deploy(DeploymentKind.CANARY)

    async def raising(model: Any, sent: Sequence[Any], deadline: float) -> list[Any]:
        return [await model.one(sent[0], deadline)]

    here.challenger.fault = RuntimeError("out of memory")
    champion: Any = here.champion
    batcher, _ = await here.traffic.classify(
        champion, raising, [0], asyncio.get_running_loop().time() + 9, np.argmax, 1
    )
    assert batcher.engine.version == CHAMPION
    assert deployed.take().challenger_errors == 1


async def test_a_canary_that_never_answers_leaves_the_champion_time(scene: Callable[..., Scene]):
    """Half of what the request has; that is no error, but it shows in the seconds."""
    here = scene()
    deployed = here.deploy(DeploymentKind.CANARY)
    here.challenger.is_stuck = True
    assert await here.send(2, timeout_s=0.2) == (CHAMPION, [2])
    counts = deployed.take()
    assert (counts.challenger_requests, counts.challenger_errors) == (1, 0)
    assert counts.challenger_seconds >= 0.09


async def test_a_client_who_leaves_is_no_failure(scene: Callable[..., Scene]):
    """The request ends where it is, and nothing is counted."""
    here = scene()
    deployed = here.deploy(DeploymentKind.CANARY)
    here.challenger.is_stuck = True
    asking = asyncio.create_task(here.send(0))
    while not here.challenger.asked:
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert deployed.take() == Counts()
    assert here.champion.asked == []


async def test_an_image_that_cannot_be_used_is_nobodys_failure(scene: Callable[..., Scene]):
    """It is refused by whichever model was asked, not asked again, not compared and not counted."""
    here = scene()
    deployed = here.deploy(DeploymentKind.CANARY)
    version, (refused, good) = await here.send("broken", 1)
    assert (version, type(refused), good) == (CHALLENGER, ImageRefused, 1)
    assert (await here.send("broken"))[0] == CHALLENGER
    await here.traffic.settled()
    counts = deployed.take()
    assert (counts.challenger_requests, counts.challenger_images, counts.challenger_errors) == (1, 1, 0)
    assert counts.compared_images == 1


async def test_a_champion_that_fails_is_counted_and_says_so(scene: Callable[..., Scene]):
    """With a shadow beside it: the failure is the answer, and there is nothing to compare."""
    here = scene()
    deployed = here.deploy(DeploymentKind.SHADOW)
    here.champion.fault = ArtifactRefused("not finite")
    _, (fault,) = await here.send(0)
    assert isinstance(fault, ArtifactRefused)
    here.champion.fault = DeadlineExceeded("late")
    await here.send(0)
    await here.traffic.settled()
    counts = deployed.take()
    assert (counts.champion_requests, counts.champion_errors) == (2, 1)
    assert here.challenger.asked == []


async def test_without_room_nothing_is_compared_and_that_is_counted(scene: Callable[..., Scene]):
    """A busy machine works for its clients."""
    here = scene()
    deployed = here.deploy(DeploymentKind.SHADOW)
    here.has_room = False
    await here.send(0, 1, 2)
    await here.traffic.settled()
    assert deployed.take().skipped_images == 3
    assert here.challenger.asked == []


async def test_what_waits_for_its_comparison_is_bounded(scene: Callable[..., Scene]):
    """In requests, and in bytes: what is too much is skipped and holds nothing."""
    here = scene(comparing=False, max_bytes=10)
    deployed = here.deploy(DeploymentKind.SHADOW)
    for _ in range(3):
        await here.send(0, num_bytes=4)
    assert deployed.take().skipped_images == 1
    many = scene(comparing=False)
    deployed = many.deploy(DeploymentKind.SHADOW)
    for _ in range(traffic_module.MAX_COMPARISONS + 5):
        await many.send(0)
    assert deployed.take().skipped_images == 5


async def test_a_comparison_gives_back_what_it_held(scene: Callable[..., Scene]):
    """The memory for bodies is for those who wait."""
    here = scene(max_bytes=10)
    deployed = here.deploy(DeploymentKind.SHADOW)
    for _ in range(5):
        await here.send(0, num_bytes=10)
        await here.traffic.settled()
    assert deployed.take().compared_images == 5


async def test_what_waits_when_a_deployment_ends_is_dropped(scene: Callable[..., Scene]):
    """The challenger is not asked again."""
    here = scene(comparing=False)
    here.deploy(DeploymentKind.SHADOW)
    await here.send(0)
    here.traffic.deployed = None
    comparing = asyncio.create_task(here.traffic.compare())
    await here.traffic.settled()
    comparing.cancel()
    assert here.challenger.asked == []


async def test_a_challenger_of_another_champion_gets_nothing(scene: Callable[..., Scene]):
    """Between a swap and the next look at the catalog nothing is answered or counted."""
    here = scene()
    deployed = here.deploy(DeploymentKind.CANARY, champion="g0009-cccccc")
    assert (await here.send(0))[0] == CHAMPION
    assert deployed.take() == Counts()


async def test_what_is_counted_is_on_the_metrics_by_version_and_role(scene: Callable[..., Scene]):
    """Images, errors, latency, agreement."""
    here = scene()
    here.deploy(DeploymentKind.SHADOW)
    await here.send(0, 1)
    await here.traffic.settled()
    text = here.metrics.render().decode()
    assert f'understudy_deployment_images_total{{model="{CHAMPION}",role="champion"}} 2.0' in text
    assert f'understudy_deployment_images_total{{model="{CHALLENGER}",role="challenger"}} 2.0' in text
    assert f'understudy_deployment_compared_images_total{{model="{CHALLENGER}",outcome="agreed"}} 2.0' in text
    assert f'understudy_deployment_request_duration_seconds_count{{model="{CHALLENGER}",role="challenger"}} 2.0' in text
