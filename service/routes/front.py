"""``/``: where people begin. The pages are another program's; this leads to them, or to what there is without them."""

from fastapi import APIRouter
from fastapi.responses import RedirectResponse

from service.state import Service

router = APIRouter()


@router.get("/", include_in_schema=False)
async def front(service: Service) -> RedirectResponse:
    """To the dashboard; where none is known, to the API's description."""
    return RedirectResponse(service.settings.dashboard_url or "/docs")
