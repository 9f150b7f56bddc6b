"""``/webhooks`` over real HTTP: the secret once, addresses judged, deliveries page by page."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
import pytest

from understudy.catalog import Catalog, keys
from understudy.client import Client, RequestFailed
from understudy.records import KeyScope, WebhookEvent
from understudy.settings import ServiceSettings
from understudy.store import Store

URL = "https://hooks.example/in?token=t"


def test_the_secret_is_in_the_first_answer_only(url: str, http: httpx.Client):
    """Until another one is made."""
    with Client(url) as client:
        made = client.add_webhook(URL, events=(WebhookEvent.ALARM,), description="mine")
        assert (made.url, made.events, made.created_by) == (URL, (WebhookEvent.ALARM,), "anonymous")
        assert client.webhooks() == [client.webhook(made.id)]
        rotated = client.rotate_webhook(made.id)
        assert rotated.secret.startswith("whsec_")
        assert rotated.secret != made.secret
        shown = "".join(http.get(path).text for path in ("/webhooks", f"/webhooks/{made.id}"))
        assert "whsec_" not in shown
        assert client.remove_webhook(made.id).id == made.id
        assert client.webhooks() == []


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("http://127.0.0.1:9/", "address_refused"),
        ("https://169.254.169.254/latest/meta-data", "address_refused"),
        ("https://[::ffff:10.0.0.1]/", "address_refused"),
        ("http://localhost/", "address_refused"),
        ("ftp://hooks.example/", "scheme_refused"),
        ("https://user:pass@hooks.example/", "credentials_in_url"),
        ("https:///nowhere", "source_refused"),
        ("x", "scheme_refused"),
    ],
)
def test_an_address_is_judged_when_it_is_named(http: httpx.Client, address: str, code: str):
    """422 with a code; nothing is kept."""
    answer = http.post("/webhooks", json={"url": address})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert "pass" not in answer.json()["detail"].replace("password", "")
    assert http.get("/webhooks").json()["items"] == []


def test_what_the_settings_allow_is_taken(
    service_settings: ServiceSettings, served: Callable[..., AbstractContextManager[str]]
):
    """By a setting of its own: what remote sources may be asked for is another question."""
    for setting, status in (("allowed_sources", 422), ("allowed_hooks", 201)):
        chosen = service_settings.model_copy(update={setting: "127.0.0.0/8"})
        with served(chosen) as at:
            assert httpx.post(f"{at}/webhooks", json={"url": "http://127.0.0.1:9/"}).status_code == status


@pytest.mark.parametrize(
    "body", [{}, {"url": URL, "events": []}, {"url": URL, "events": ["ping"]}, {"url": URL, "secret": "mine"}]
)
def test_what_is_no_webhook_is_refused(http: httpx.Client, body: dict[str, object]):
    """Without an address, without events, or with events that there are not."""
    answer = http.post("/webhooks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_deliveries_come_page_by_page(url: str, http: httpx.Client):
    """The newest first; each may be sent again."""
    with Client(url) as client:
        made = client.add_webhook(URL)
        pings = [client.ping_webhook(made.id) for _ in range(3)]
        first = http.get(f"/webhooks/{made.id}/deliveries", params={"limit": 2}).json()
        assert [each["id"] for each in first["items"]] == [pings[2].id, pings[1].id]
        rest = http.get(f"/webhooks/{made.id}/deliveries", params={"limit": 2, "cursor": first["next"]}).json()
        assert ([each["id"] for each in rest["items"]], rest["next"]) == ([pings[0].id], None)
        assert [each.id for each in client.webhook_deliveries(made.id)] == [ping.id for ping in reversed(pings)]
        assert client.redeliver(made.id, pings[0].id) == client.webhook_delivery(made.id, pings[0].id)
        with pytest.raises(RequestFailed, match="has no delivery 999"):
            client.webhook_delivery(made.id, 999)
        with pytest.raises(RequestFailed, match="there is no webhook"):
            list(client.webhook_deliveries("nobody"))


def test_all_of_it_needs_admin(
    service_settings: ServiceSettings,
    opened: tuple[Catalog, Store],
    served: Callable[..., AbstractContextManager[str]],
):
    """Reading too: addresses may hold tokens."""
    made = {scope: keys.create(opened[0], name="test", scopes=[scope])[1] for scope in KeyScope}
    with served(service_settings.model_copy(update={"keys": "required"})) as at:
        for scope, key in made.items():
            headers = {"X-API-Key": key}
            wanted = 200 if scope is KeyScope.ADMIN else 403
            assert httpx.get(f"{at}/webhooks", headers=headers).status_code == wanted
            wanted = 404 if scope is KeyScope.ADMIN else 403
            for path in ("/webhooks/x", "/webhooks/x/deliveries"):
                assert httpx.get(f"{at}{path}", headers=headers).status_code == wanted
            assert httpx.post(f"{at}/webhooks/x/ping", headers=headers).status_code == wanted
