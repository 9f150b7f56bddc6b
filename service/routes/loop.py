"""``/loop``: where the loop stands and what starts next; pause and go on."""

from fastapi import APIRouter

from service import examples
from service.clients import Actor
from service.state import Service, State
from understudy import messages
from understudy.catalog import claims, loop, pausing, shards
from understudy.catalog.tables import LabelSetRow
from understudy.records import LoopPause, LoopState

router = APIRouter(prefix="/loop", tags=["loop"])

#: So many workers are rung for when the loop goes on; each takes what waits until nothing does.
MAX_RINGS = 64


@router.get("", responses=examples.of(200, examples.LOOP, "As it stands."))
def state(service: Service) -> LoopState:
    """Where the loop stands: paused or not, the generation under way, what waits for labels, and what starts next.

    `next` is for programs, `why` says it in a sentence: `resume` (it is paused), `generation` (the one under way goes
    on, or the next opens by itself), `labels` (shards wait for the champion), `labeled_set` (human-labeled images
    are awaited) or `person` (everything is done; open a generation).
    """
    return loop.state(service.catalog)


@router.post("/pause", responses=examples.of(200, examples.PAUSED_LOOP, "Nothing new is taken from now on."))
def pause(service: Service, actor: Actor, request: LoopPause) -> LoopState:
    """Begin nothing new: workers take no more shards to label, trainers no new generation.

    What runs goes on to its end; `/classify`, uploads, exports, promotion and rollback go on as before. A pause
    that is there already stays as it is, with its reason.
    """
    pausing.pause(service.catalog, request.reason, actor=actor)
    return loop.state(service.catalog)


@router.post("/resume", responses=examples.of(200, examples.LOOP, "Work is taken again from now on."))
def resume(service: Service) -> LoopState:
    """Go on, within seconds. Where the loop was not paused, nothing changes."""
    if pausing.resume(service.catalog):
        _ring(service)
    return loop.state(service.catalog)


def _ring(service: State) -> None:
    tries = shards.LABEL_ATTEMPTS
    for waiting in claims.overdue(service.catalog, LabelSetRow, limit=MAX_RINGS, max_attempts=tries):
        service.bell.submit(messages.ring, service.queue, messages.LABEL, waiting)
