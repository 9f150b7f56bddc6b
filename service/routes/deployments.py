"""``/deployments``: a challenger on live traffic, seen (canary) or unseen (shadow), and what came of it."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from service import examples, problems
from service.clients import Actor
from service.problems import RESPONSES, ProblemDetails
from service.schemas import Page
from service.state import Service
from understudy.catalog import deployments
from understudy.records import Deployment, DeploymentEnd, DeploymentRequest

router = APIRouter(prefix="/deployments", tags=["deployments"])

_REFUSALS: dict[int | str, dict[str, Any]] = RESPONSES | {
    status: {"model": ProblemDetails, "description": text, "content": {problems.MEDIA_TYPE: {}}}
    for status, text in {404: "There is nothing of that name.", 409: "It contradicts what is there already."}.items()
}
Id = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


@router.post(
    "",
    status_code=201,
    responses=_REFUSALS | examples.of(201, examples.DEPLOYMENT, "Every service process loads it within seconds."),
)
def open_deployment(service: Service, response: Response, actor: Actor, request: DeploymentRequest) -> Deployment:
    """Give a challenger a share of the live traffic: as a shadow (compared, never answered) or a canary (answered).

    One at a time. It is withdrawn by itself when it cannot be loaded or is worse than its limits allow, and
    it ends when a model is promoted.
    """
    deployment = deployments.open_deployment(service.catalog, request, actor=actor)
    response.headers["Location"] = f"/deployments/{deployment.id}"
    return deployment


@router.get("")
def recent(service: Service, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Page[Deployment]:
    """The newest first, with what all service processes counted."""
    return Page(items=list(deployments.recent(service.catalog, limit=limit)))


@router.get("/{deployment_id}", responses=_REFUSALS | examples.of(200, examples.DEPLOYMENT, "As it stands."))
def one(service: Service, deployment_id: Id) -> Deployment:
    """How a challenger does: agreement, latency and errors beside the champion's, and why it ended."""
    return deployments.get(service.catalog, deployment_id)


@router.post("/{deployment_id}/end", responses=_REFUSALS)
def end(service: Service, actor: Actor, deployment_id: Id, request: DeploymentEnd) -> Deployment:
    """Take the challenger off the traffic: every service process stops within a second or so."""
    return deployments.end(service.catalog, deployment_id, request.reason, actor=actor)
