"""What the routes of one application share: opened at its start, closed at its end, never global."""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.admission import Admission
from service.batcher import Lanes
from service.bodies import Budget
from service.looking import Looker
from service.metrics import Metrics
from service.previews import Previewer
from service.swap import ChampionFollower, EngineSlot
from service.traffic import Traffic
from service.trying import Trier
from understudy.catalog import Catalog
from understudy.messages import Broker
from understudy.settings import ServiceSettings
from understudy.store import Store


@dataclass(frozen=True)
class State:
    """The open resources of one service process."""

    settings: ServiceSettings
    catalog: Catalog
    store: Store
    queue: Broker
    slot: EngineSlot
    follower: ChampionFollower
    lanes: Lanes
    admission: Admission
    bodies: Budget
    bell: Executor  #: rings for work; Redis may be slow or away, and no client waits for that
    metrics: Metrics
    traffic: Traffic
    looker: Looker
    trier: Trier
    previewer: Previewer


async def of(request: Request) -> State:
    """The state of the application that a request came to. Not blocking, so not for a thread of the pool."""
    state: State = request.app.state.understudy
    return state


Service = Annotated[State, Depends(of)]
