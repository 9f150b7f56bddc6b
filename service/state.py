"""What the routes of one application share: opened at its start, closed at its end, never global."""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.metrics import Metrics
from service.swap import ChampionFollower, EngineSlot
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
    decoders: Executor
    bell: Executor  #: rings for work; Redis may be slow or away, and no client waits for that
    metrics: Metrics


def of(request: Request) -> State:
    """The state of the application that a request came to."""
    state: State = request.app.state.understudy
    return state


Service = Annotated[State, Depends(of)]
