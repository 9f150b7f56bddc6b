"""``GET /models`` and ``/generations``: what was trained, what serves, and opening the next turn of the loop."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from service import examples
from service.clients import Actor
from service.problems import RESPONSES, may_be
from service.schemas import Moment, Page
from service.state import Service
from understudy import registry, turns
from understudy.catalog import generations, versions
from understudy.errors import NotFound
from understudy.records import (
    NAME_PATTERN,
    Championship,
    Generation,
    GenerationRequest,
    ModelVersion,
    Rollback,
)

router = APIRouter(tags=["models"])


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
def open_generation(service: Service, response: Response, request: GenerationRequest | None = None) -> Generation:
    """Open the next generation: label what is not labeled yet, select, train a student, let the gate judge it.

    A recipe, a student or fields that do not exist, or contradict each other, are refused here.
    """
    asked = request or GenerationRequest()
    turns.check(service.catalog, service.store, asked)
    generation = generations.open_generation(service.catalog, asked)
    response.headers["Location"] = f"/generations/{generation.number}"
    return generation


@router.get("/generations")
def all_generations(service: Service) -> Page[Generation]:
    """Every generation, the newest first."""
    return Page(items=generations.every(service.catalog))


@router.get("/generations/{number}", responses=examples.of(200, examples.GENERATION, "How far it is, or its verdict."))
def generation(service: Service, number: Annotated[int, Path(ge=0, lt=2**31)]) -> Generation:
    """One generation: its job with the step it is at, and its gate report once there is one."""
    return generations.get(service.catalog, number)
