"""The application: its routes, what lies around them, and when its resources open and close."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

import understudy
from service import access, openapi, problems, resources
from service.direct import Direct
from service.heads import Heads
from service.metrics import Metrics
from service.observed import Observed
from service.routes import (
    buckets,
    classify,
    comparisons,
    deployments,
    exports,
    front,
    health,
    images,
    infer,
    ingest,
    jobs,
    labeled,
    loop,
    model_files,
    models,
    pseudo_labels,
    reviews,
    selections,
    sources,
    trying,
    uploads,
    webhooks,
    work,
)
from understudy.settings import ServiceSettings

DESCRIPTION = """
A self-improving image classifier. `POST /classify` answers with the champion, `POST /ingest` takes
unlabeled images, `POST /generations` turns them into a better model; the better model is swapped in
without a failed request. Errors are RFC 9457 problem details with a stable `code`.
"""

#: Requests that are documents, as that for a generation, are read whole into memory: a recipe is never longer.
MAX_DOCUMENT_BYTES = 2**20
#: Nouns that are asked for, or changed by a document.
ASKED = (
    buckets,
    exports,
    jobs,
    work,
    models,
    comparisons,
    loop,
    model_files,
    deployments,
    sources,
    pseudo_labels,
    reviews,
    selections,
    images,
    webhooks,
    health,
    front,
)


def create_app(settings: ServiceSettings, metrics: Metrics | None = None) -> FastAPI:
    """The application for one set of settings. It opens nothing until it starts.

    ``metrics`` are those that the server counts its connections with; None: the application's own.
    """
    metrics = metrics or Metrics()
    guard = access.Guard(rate_limit=settings.rate_limit) if access.are_required(settings) else None

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            resources.opened(settings, metrics) as state,
            access.holding(guard, state.catalog, settings.keys_poll_s),
        ):
            app.state.understudy = state
            yield

    app = Application(
        title="Understudy",
        version=understudy.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ``observed`` is for that
    )
    # Not as FastAPI's own argument: that one lies outside of what makes its plain answer a problem.
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_upload_bytes)
    _include(app, settings)
    problems.install(app)
    openapi.describe(app)
    app.wrap(Direct)
    app.wrap(Heads)
    if guard is not None:
        access.describe(app)
        app.wrap(access.Guarded, guard=guard)
    app.wrap(Observed, metrics=metrics, access_log=bool(settings.access_log))
    app.state.is_stopping = False  # the server's word: SIGTERM has come
    return app


def _include(app: FastAPI, settings: ServiceSettings) -> None:
    """Every noun's routes, each under the limit of what its requests may hold.

    Straight into the application: FastAPI works the routes of a router within a router out twice.
    """
    for noun in (classify, infer, trying):
        app.include_router(noun.router, max_body_size=settings.max_request_bytes)
    for noun in (ingest, labeled):
        app.include_router(noun.router)
    app.include_router(uploads.router, max_body_size=uploads.MAX_PART_BYTES)
    for noun in ASKED:
        app.include_router(noun.router, max_body_size=MAX_DOCUMENT_BYTES)


class Application(FastAPI):
    """The framework, and around it what sees every request.

    ``add_middleware`` would put that inside of the framework's own layers, which the short way has no use for.
    """

    def __init__(self, **of_fastapi: Any) -> None:
        super().__init__(**of_fastapi)
        self._outermost: ASGIApp = super().__call__

    def wrap(self, middleware: Callable[..., ASGIApp], **options: Any) -> None:
        """Put a middleware around all that there is by now."""
        self._outermost = middleware(self._outermost, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self._outermost(scope, receive, send)
