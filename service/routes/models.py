"""``GET /models`` and ``/generations``: what was trained, what serves, and opening the next turn of the loop."""

import enum
import json
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from service import examples
from service.clients import Actor
from service.idempotency import Fingerprint, IdempotencyKey, key_of
from service.problems import RESPONSES, may_be
from service.schemas import Moment, Page
from service.state import Service, State
from understudy import registry, turns
from understudy.catalog import generations, versions
from understudy.errors import NotFound
from understudy.generation_records import GenerationPlan
from understudy.label_records import Selection
from understudy.records import (
    NAME_PATTERN,
    Championship,
    Generation,
    GenerationRequest,
    GenerationSummary,
    History,
    ModelVersion,
    Override,
    Rollback,
)
from understudy.store import generation_key

router = APIRouter(tags=["models"])

Number = Annotated[int, Path(ge=0, lt=2**31)]


class Picture(enum.StrEnum):
    """The pictures that the trainer makes of a generation."""

    CURVES = "curves.png"
    AUGMENTED = "augmented.jpg"
    RELIABILITY = "reliability.png"
    CONFUSION = "confusion.png"
    ROBUSTNESS = "robustness.png"

    @property
    def media_type(self) -> str:
        """As HTTP names it."""
        return "image/png" if self.endswith(".png") else "image/jpeg"


@router.get("/models")
def every(service: Service) -> Page[ModelVersion]:
    """Every model version, the newest first, each with its card."""
    return Page(items=versions.every(service.catalog))


@router.get("/models/champion", responses=may_be(404, 503))
def champion(
    service: Service,
    at: Annotated[
        Moment | None,
        Query(
            description="a time in ISO 8601, UTC unless it has an offset; without it, now. To the millisecond, by the "
            "catalog's clock; a time to come is answered with the champion of now",
            examples=["2026-11-21T09:30:00Z"],
        ),
    ] = None,
) -> ModelVersion:
    """The version that serves, or that served at a time: 404 if none did yet."""
    if at is None:
        return versions.get(service.catalog, registry.champion(service.catalog))
    then = versions.champion_at(service.catalog, at.timestamp())
    if then is None:
        raise NotFound(f"at {at.isoformat()} no model had been promoted yet; GET /models/champions has the history")
    return versions.get(service.catalog, then.version)


@router.post("/models/rollback", responses=may_be(404, 409))
def roll_back(service: Service, actor: Actor, request: Rollback) -> Championship:
    """Make a former champion the champion again: every service process serves it within seconds.

    Without a version it is the one that the champion took over from; twice goes back twice. A version that
    never was the champion is refused with 409.
    """
    return versions.roll_back(service.catalog, request.version, reason=request.reason, actor=actor)


@router.post("/models/{version}/promote", responses=may_be(404, 409))
def promote(
    service: Service, actor: Actor, version: Annotated[str, Path(pattern=NAME_PATTERN)], request: Override
) -> Championship:
    """Promote a model that the gate refused: the reason and who gave it are on the record, and so is the verdict.

    Every service process serves it within seconds. What was not refused is answered with 409.
    """
    return versions.override(service.catalog, version, reason=request.reason, actor=actor)


@router.get("/models/champions")
def history(service: Service) -> Page[Championship]:
    """Every champion that there was, the newest first, with the reason of its promotion."""
    return Page(items=versions.history(service.catalog))


@router.get("/models/{version}")
def model(service: Service, version: Annotated[str, Path(pattern=NAME_PATTERN)]) -> ModelVersion:
    """One model version."""
    return versions.get(service.catalog, version)


@router.post(
    "/generations",
    status_code=202,
    responses=RESPONSES | may_be(409) | examples.of(202, examples.GENERATION, "It is open."),
)
def open_generation(
    service: Service,
    response: Response,
    actor: Actor,
    request: GenerationRequest | None = None,
    key: IdempotencyKey = None,
) -> Generation:
    """Open the next generation: label what is not labeled yet, select, train a student, let the gate judge it.

    A recipe, a student or fields that do not exist, or contradict each other, are refused here.
    """
    asked = request or GenerationRequest()
    turns.check(service.catalog, service.store, asked)
    fingerprint = Fingerprint(json.dumps(asked.model_dump(mode="json"), sort_keys=True)).hex()
    bound = key_of(actor, "generations", key)
    generation = generations.open_generation(service.catalog, asked, key=bound, fingerprint=fingerprint)
    response.headers["Location"] = f"/generations/{generation.number}"
    return generation


@router.get("/generations")
def all_generations(service: Service) -> Page[GenerationSummary]:
    """Every generation, the newest first, with its verdict in short: the whole report is in `GET /generations/{number}`.

    Nothing in it grows with the number of classes.
    """
    return Page(items=generations.summaries(service.catalog))


@router.get("/generations/{number}", responses=examples.of(200, examples.GENERATION, "How far it is, or its verdict."))
def generation(service: Service, number: Number) -> Generation:
    """One generation: its job with the step it is at, and its gate report once there is one.

    `job.metrics` has the newest figures of the training: step, loss, learning rate, images a second, seconds left, and
    the accuracy of the averaged student on a part of the holdout, which is for show: nothing is chosen by it.
    """
    return generations.get(service.catalog, number)


@router.get(
    "/generations/{number}/history",
    responses=may_be(404) | examples.of(200, examples.HISTORY, "The curves as far as they are."),
)
def training_history(service: Service, number: Number) -> History:
    """The curves of a generation's training: written about once a minute, and at the end. 404 until there are any."""
    return History.model_validate_json(_written(service, number, "history.json"))


@router.get("/generations/{number}/plan", responses=may_be(404))
def plan(service: Service, number: Number) -> GenerationPlan:
    """What a generation was frozen to: every field of its recipe, its student, teacher and labeled images."""
    return GenerationPlan.model_validate_json(_written(service, number, "plan.json"))


@router.get("/generations/{number}/selection", responses=may_be(404))
def selection(service: Service, number: Number) -> Selection:
    """Which pseudo-labels a generation trains on, in numbers: of each class what was over the threshold, what was kept
    of it and with how many copies, and the tripwires. 404 until it is made, and for a first teacher."""
    return Selection.model_validate_json(_written(service, number, "selection.json"))


@router.get("/generations/{number}/pictures")
def pictures(service: Service, number: Number) -> Page[Picture]:
    """The pictures that there are of a generation by now."""
    generations.get(service.catalog, number)
    return Page(items=[name for name in Picture if service.store.exists(generation_key(number, name))])


@router.get(
    "/generations/{number}/pictures/{name}",
    response_class=Response,
    responses=may_be(404)
    | {200: {"content": {"image/png": {}, "image/jpeg": {}}, "description": "The picture, as it is now."}},
)
def picture(service: Service, number: Number, name: Picture) -> Response:
    """A picture of a generation, such as `curves.png`. 404 while it is not made, or if its recipe makes none."""
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return Response(_written(service, number, name), media_type=name.media_type, headers=headers)


def _written(service: State, number: int, name: str) -> bytes:
    """An object that the trainer has made of a generation. Raises NotFound."""
    state = generations.get(service.catalog, number).state
    try:
        return service.store.get(generation_key(number, name))
    except FileNotFoundError as missing:
        raise NotFound(f"generation {number} ({state}) has no {name} yet") from missing
