"""``GET /models`` and ``/generations``: what was trained, what serves, and opening the next turn of the loop."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from service import examples
from service.problems import RESPONSES, may_be
from service.schemas import Page
from service.state import Service
from understudy import registry
from understudy.catalog import generations, versions
from understudy.records import NAME_PATTERN, Championship, Generation, GenerationRequest, ModelVersion

router = APIRouter(tags=["models"])


@router.get("/models")
def every(service: Service) -> Page[ModelVersion]:
    """Every model version, the newest first, each with its card."""
    return Page(items=versions.every(service.catalog))


@router.get("/models/champion", responses=may_be(503))
def champion(service: Service) -> ModelVersion:
    """The version that serves."""
    return versions.get(service.catalog, registry.champion(service.catalog))


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
    """Open the next generation: label what is not labeled yet, select, train a student, let the gate judge it."""
    generation = generations.open_generation(service.catalog, request or GenerationRequest())
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
