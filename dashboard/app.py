"""The application: its pages, the pictures on them, and what every answer carries."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from fastapi import FastAPI, Request, Response
from nicegui import ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from dashboard import login, pages, pictures, sending
from dashboard.sessions import Sessions
from understudy.settings import DashboardSettings

#: Nothing is loaded from anywhere else, nothing may frame the pages. Vue makes its templates with ``eval``, and
#: NiceGUI starts itself with a script in the page; what users named is never put where either would read it.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
#: Where the dashboard binds loopback, these are its names: another is a page elsewhere that resolves to this machine.
LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]
#: A page that lost its connection may come back within this time and find itself as it was.
RECONNECT_TIMEOUT_S = 30.0

_FAVICON = Path(__file__).parent / "static" / "favicon.svg"


def create_app(settings: DashboardSettings) -> FastAPI:
    """The application for one set of settings. NiceGUI is one a process, so this is called once in each."""
    app = FastAPI(title="Understudy dashboard", openapi_url=None)
    app.state.sessions = Sessions(settings)
    app.state.sending = anyio.CapacityLimiter(sending.MAX_SENDING)
    if names := settings.names or (LOOPBACK_NAMES if settings.is_loopback else []):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=names)

    @app.middleware("http")
    async def guarded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    app.include_router(pictures.router)
    app.include_router(sending.router)
    app.include_router(login.router)
    pages.register(app.state.sessions)
    ui.run_with(
        app,
        title="Understudy",
        favicon=_FAVICON,
        dark=None,
        tailwind=False,
        reconnect_timeout=RECONNECT_TIMEOUT_S,
        show_welcome_message=False,
    )
    return app
