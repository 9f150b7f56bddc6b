"""Signing and checking: what the receiver trusts. The receiver of the documentation, as it stands there."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from understudy import webhooks
from understudy.errors import SignatureRefused

SECRET = "whsec_plJ3nmyCDGBKInavdOK15jsl"
BODY = b'{"id":"msg_1","type":"ping","timestamp":"2026-11-21T09:30:00.000Z","subject":"a","data":{}}'
NOW = 1_731_705_121
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "webhooks.md"


def signed(body: bytes = BODY, *, with_secrets: tuple[str, ...] = (SECRET,), at: int = NOW) -> dict[str, str]:
    return webhooks.sign(with_secrets, "msg_1", at, body)


def checked(headers: dict[str, str], body: bytes = BODY, *, at: float = NOW, **options: Any) -> dict[str, Any]:
    return webhooks.verify(SECRET, headers, body, clock=lambda: at, **options)


def refused(headers: dict[str, str], body: bytes = BODY, *, at: float = NOW, **options: Any) -> str:
    with pytest.raises(SignatureRefused) as error:
        checked(headers, body, at=at, **options)
    return error.value.code


def test_the_signature_is_that_of_standard_webhooks():
    """The signature of its Python library (standardwebhooks 1.1.0) for the same secret, id, time and body."""
    body = b'{"event_type":"ping","data":{"success":true}}'
    headers = webhooks.sign([SECRET], "msg_loFOjxBNrRLzqYUf", NOW, body)
    assert headers == {
        "webhook-id": "msg_loFOjxBNrRLzqYUf",
        "webhook-timestamp": "1731705121",
        "webhook-signature": "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    }


def test_what_was_signed_is_read():
    """Whatever the case of the headers' names; also beside signatures by others and of versions to come."""
    assert checked(signed())["type"] == "ping"
    assert checked({name.title(): value for name, value in signed().items()})["id"] == "msg_1"
    assert checked(signed(with_secrets=(webhooks.new_secret(), SECRET)))["data"] == {}
    of_two = signed()
    of_two["webhook-signature"] = f"v2,abc v1 {of_two['webhook-signature']}"
    assert checked(of_two)["subject"] == "a"


def test_what_was_changed_or_is_of_others_is_refused():
    """The body, the id, the time or the secret: each is part of what is signed."""
    assert refused(signed(), BODY.replace(b"ping", b"pong")) == "bad_signature"
    assert refused(signed() | {"webhook-id": "msg_2"}) == "bad_signature"
    assert refused(signed() | {"webhook-timestamp": str(NOW + 1)}) == "bad_signature"
    assert refused(signed(with_secrets=(webhooks.new_secret(),))) == "bad_signature"
    assert refused(signed() | {"webhook-signature": "v1,é"}) == "bad_signature"
    assert refused(signed() | {"webhook-timestamp": "١"}) == "bad_signature"
    assert refused(signed(b"[1"), b"[1") == "bad_signature"


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_request_without_its_headers_is_no_webhooks(name: str):
    """The message names the one that is missing."""
    headers = signed()
    del headers[name]
    with pytest.raises(SignatureRefused, match=name) as error:
        checked(headers)
    assert error.value.code == "no_signature"


def test_an_old_request_is_a_replay():
    """Five minutes are tolerated on either side, or as many as the receiver says."""
    for at in (NOW - 301, NOW + 301):
        assert refused(signed(), at=at) == "old_signature"
    for at in (NOW - 299, NOW + 299):
        assert checked(signed(), at=at)
    assert checked(signed(), at=NOW + 3000, tolerance_s=3600)


def test_a_secret_that_is_none_is_told_from_a_wrong_one():
    """It was cut off when it was copied, say; the message does not show it."""
    with pytest.raises(SignatureRefused, match="begins with whsec_") as error:
        webhooks.verify("whsec_not base64", signed(), BODY, clock=lambda: NOW)
    assert error.value.code == "bad_secret"
    assert "not base64" not in str(error.value)


def test_the_receiver_of_the_documentation_works(monkeypatch: pytest.MonkeyPatch):
    """As it stands there: it takes what we sign, and refuses the rest with 400."""
    (code,) = re.findall(r"```python\n(.+?)```", DOCUMENTATION.read_text(), re.DOTALL)
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    receiver: dict[str, Any] = {}
    exec(compile(code, str(DOCUMENTATION), "exec"), receiver)
    with TestClient(receiver["app"]) as client:
        good = client.post("/understudy", content=BODY, headers=signed(at=int(time.time())))
        assert (good.status_code, good.json()) == (200, {"ok": True})
        for headers in (signed(), {}):
            assert client.post("/understudy", content=BODY, headers=headers).status_code == 400
