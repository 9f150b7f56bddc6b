"""``/webhooks``: who is told of what happens, what was sent to them, and what they answered. All of it needs ``admin``.

Nothing is connected to here: the reconciler delivers.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from service import examples
from service.clients import Actor
from service.problems import may_be
from service.schemas import Page
from service.state import Service
from understudy import addresses
from understudy.catalog import webhooks
from understudy.records import NAME_PATTERN, Delivery, NewWebhook, Webhook, WebhookRequest

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

Id = Annotated[str, Path(pattern=NAME_PATTERN, description="as `GET /webhooks` names it")]
DeliveryId = Annotated[int, Path(ge=1, lt=2**31, description="as the list of deliveries names it")]


@router.post("", status_code=201, responses=examples.of(201, examples.NEW_WEBHOOK, "Its secret is shown this once."))
def add(service: Service, response: Response, actor: Actor, request: WebhookRequest) -> NewWebhook:
    """Have a URL told of events, by requests that are signed with the answer's `secret`.

    The way of Standard Webhooks: headers `webhook-id`, `webhook-timestamp` and `webhook-signature`. Private addresses are
    refused unless `UNDERSTUDY_ALLOWED_HOOKS` names them.
    """
    url = addresses.hook(request.url, service.settings.hook_allowance).url
    made = webhooks.add(service.catalog, url=url, events=request.events, description=request.description, actor=actor)
    response.headers["Location"] = f"/webhooks/{made.id}"
    return made


@router.get("")
def every(service: Service) -> Page[Webhook]:
    """Every webhook, the oldest first, without its secret."""
    return Page(items=webhooks.every(service.catalog))


@router.get("/{webhook_id}", responses=examples.of(200, examples.WEBHOOK, "Without its secret."))
def one(service: Service, webhook_id: Id) -> Webhook:
    """One webhook: where it is, and what it is told of."""
    return webhooks.get(service.catalog, webhook_id)


@router.delete("/{webhook_id}", responses=examples.of(200, examples.WEBHOOK, "What it was."))
def remove(service: Service, webhook_id: Id) -> Webhook:
    """Tell it nothing more, also not what waits; its secret and the log of its deliveries go with it."""
    return webhooks.remove(service.catalog, webhook_id)


@router.post("/{webhook_id}/rotate", responses=examples.of(200, examples.NEW_WEBHOOK, "Its new secret, this once."))
def rotate(service: Service, webhook_id: Id) -> NewWebhook:
    """Give it another secret. For 24 hours its requests have two signatures, by the new one and by the old one."""
    return webhooks.rotate(service.catalog, webhook_id)


@router.post("/{webhook_id}/ping", status_code=202, responses=examples.of(202, examples.DELIVERY, "It will be sent."))
def ping(service: Service, webhook_id: Id) -> Delivery:
    """Send it a `ping`, whatever it is told of otherwise. The delivery says what came of it."""
    return webhooks.ping(service.catalog, webhook_id)


@router.get("/{webhook_id}/deliveries", responses=may_be(404))
def deliveries(
    service: Service,
    webhook_id: Id,
    cursor: Annotated[int | None, Query(ge=1, lt=2**31, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[Delivery]:
    """What it was told, or is to be, the newest first, with every attempt. What has ended is kept for 30 days."""
    found = webhooks.deliveries(service.catalog, webhook_id, before=cursor, limit=limit + 1)
    return Page(items=found[:limit], next=str(found[limit - 1].id) if len(found) > limit else None)


@router.get("/{webhook_id}/deliveries/{delivery_id}", responses=examples.of(200, examples.DELIVERY, "As it stands."))
def delivery(service: Service, webhook_id: Id, delivery_id: DeliveryId) -> Delivery:
    """One delivery: the body, byte for byte, and how each attempt was answered."""
    return webhooks.delivery(service.catalog, webhook_id, delivery_id)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    responses=examples.of(202, examples.DELIVERY, "It will be sent."),
)
def redeliver(service: Service, webhook_id: Id, delivery_id: DeliveryId) -> Delivery:
    """Send it again, under the same `webhook-id`; what waits for its next attempt is due now."""
    return webhooks.redeliver(service.catalog, webhook_id, delivery_id)
