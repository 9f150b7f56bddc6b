"""How a webhook's requests are signed, and how their receiver checks it: the way of Standard Webhooks.

Its libraries (https://www.standardwebhooks.com, for a dozen languages) check our requests too. Receivers may copy
this file: beside the error it needs the standard library only.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from understudy.errors import SignatureRefused

PREFIX = "whsec_"
SECRET_BYTES = 32
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


def new_secret() -> str:
    """``whsec_`` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(with_secrets: Sequence[str], event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of a request: id, seconds since 1970, and a signature of both and the body by each secret."""
    signatures = (f"v1,{_signature(secret, event_id, str(timestamp), body)}" for secret in with_secrets)
    return {ID: event_id, TIMESTAMP: str(timestamp), SIGNATURE: " ".join(signatures)}


def verify(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    tolerance_s: float = 300,
    *,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """The event of a request, if it is ours: ``id``, ``type``, ``timestamp``, ``subject`` and ``data``.

    ``body`` is as it came, before anybody parsed it. Raises SignatureRefused, with the code ``no_signature``,
    ``old_signature`` (more than ``tolerance_s`` from now) or ``bad_signature``. An id that was seen before is the
    same event again.
    """
    named = {name.lower(): value for name, value in headers.items()}
    if missing := [name for name in (ID, TIMESTAMP, SIGNATURE) if not named.get(name)]:
        raise SignatureRefused(f"the request has no header {missing[0]}: it is no webhook's", code="no_signature")
    at = named[TIMESTAMP]
    if not (at.isascii() and at.isdecimal() and len(at) < 16):
        raise SignatureRefused(f"{TIMESTAMP}: {at[:40]!r} is no time in seconds since 1970")
    if abs(age_s := clock() - int(at)) > tolerance_s:
        raise SignatureRefused(
            f"the request was signed {age_s:.0f} s ago, and {tolerance_s:.0f} s are tolerated; is it a replay, or does "
            f"a clock go wrong?",
            code="old_signature",
        )
    wanted = _signature(secret, named[ID], at, body)
    sent = [each.partition(",") for each in named[SIGNATURE].split()]
    if not any(version == "v1" and hmac.compare_digest(said.encode(), wanted.encode()) for version, _, said in sent):
        raise SignatureRefused("no signature of the request is by this secret, for this body")
    try:
        return dict(json.loads(body))
    except ValueError as error:
        raise SignatureRefused("the body is signed, and is no JSON object") from error


def _signature(secret: str, event_id: str, timestamp: str, body: bytes) -> str:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (ValueError, binascii.Error) as error:
        raise SignatureRefused(
            "the secret is none: it begins with whsec_, and base64 follows", code="bad_secret"
        ) from (error)
    signed = b".".join((event_id.encode(), timestamp.encode(), body))
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
