"""``/healthz``, ``/readyz`` and ``/metrics``: for probes and Prometheus."""

from fastapi import APIRouter, Request, Response

from service import examples, metrics
from service.schemas import Health, Readiness
from service.state import Service
from understudy.errors import NoChampion

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """Whether the process lives and its event loop turns. Does not ask the catalog or Redis."""
    return Health(status="ok")


@router.get(
    "/readyz",
    responses=examples.of(200, examples.READY, "Ready.")
    | {503: {"model": Readiness, "description": "Not ready; the body says why."}},
)
async def readyz(request: Request, service: Service, response: Response) -> Readiness:
    """Whether /classify should be asked: 200, or 503 while no model serves or this process is about to stop."""
    refused = service.follower.refused
    if request.app.state.is_stopping:
        response.status_code = 503
        return Readiness(ready=False, stopping=True, model=service.slot.version, refused=refused)
    try:
        with service.slot.lease() as batcher:
            engine = batcher.engine
            return Readiness(
                ready=True,
                model=engine.version,
                provider=engine.provider,
                variant=engine.variant,
                fallback=engine.fallback,
                refused=refused,
            )
    except NoChampion:
        response.status_code = 503
        return Readiness(ready=False, refused=refused)


@router.get("/metrics", response_class=Response)
async def prometheus(service: Service) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(service.metrics.render(), media_type=metrics.CONTENT_TYPE)
