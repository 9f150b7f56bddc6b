"""``/loop`` over real HTTP: paused by somebody for a reason, and going on."""

from collections.abc import Callable

import httpx
import pytest

from understudy import messages
from understudy.catalog import Catalog
from understudy.client import Client
from understudy.store import Store
from understudy.testing import picture


def test_a_loop_is_paused_and_goes_on(url: str):
    """Twice each is once each; the first reason stays."""
    with Client(url) as client:
        assert not client.loop().paused
        for reason in ("maintenance", "again"):
            state = client.pause(reason=reason)
            assert (state.paused, state.by, state.reason) == (True, "anonymous", "maintenance")
        assert state.why.startswith("paused by anonymous since ")
        for _ in range(2):
            state = client.resume()
            assert (state.paused, state.by, state.since, state.reason) == (False, None, None, None)
        assert client.loop() == state


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "a\x00b"}, {"reason": "x", "by": "me"}])
def test_a_pause_needs_a_reason(http: httpx.Client, body: dict[str, str]):
    """And nothing else."""
    answer = http.post("/loop/pause", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_workers_are_rung_for_when_the_loop_goes_on(
    url: str,
    serving: Callable[..., str],
    opened: tuple[Catalog, Store],
    teaching: Callable,
    app: messages.Broker,
    until: Callable[..., None],
):
    """A shard that waited for its labels is rung for at once, and only if the loop was paused."""
    serving()
    teaching(*opened).shard("photos", [picture(0, 3)])
    with Client(url) as client:
        client.resume()
        assert client.loop().labels.num_wanted == 1
        assert messages.num_waiting(app, messages.LABEL) == 0
        client.pause(reason="test")
        client.resume()
    until(lambda: messages.num_waiting(app, messages.LABEL) == 1)
