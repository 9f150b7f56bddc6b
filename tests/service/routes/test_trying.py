"""``POST /models/{version}/classify`` over real HTTP."""

from collections.abc import Callable

import httpx
import pytest

from understudy.client import Client, RequestFailed
from understudy.testing import picture

RED = picture(0, 3)


def test_a_version_that_does_not_serve_answers_beside_the_champion(
    http: httpx.Client, url: str, serving: Callable[..., str], challenge: Callable[..., str]
):
    """Each names itself, with its own classes; the champion's own answer is the one that serving gives."""
    champion = serving()
    other = challenge(rotated_by=1, generation=1)
    with Client(url) as client:
        tried = client.classify_with(other, RED, top_k=2)
        assert (tried.model, tried.prediction.label) == (other, "blue")
        assert len(tried.prediction.classes) == 2
        assert tried.load_ms > 0 < tried.answer_ms
        served = client.classify(RED).predictions[0]
        again = client.classify_with(champion, RED).prediction
        assert [each.label for each in again.classes] == [each.label for each in served.classes]
        assert again.probability == pytest.approx(served.probability, abs=1e-5)
        assert client.readiness()["model"] == champion


def test_what_cannot_be_asked_is_refused(http: httpx.Client, url: str, serving: Callable[..., str]):
    """An unknown version, and what is no image."""
    version = serving()
    assert http.post("/models/g0099-ffffff/classify", content=RED).status_code == 404
    assert http.post(f"/models/{version}/classify", content=b"text").json()["code"] == "not_an_image"
    with Client(url) as client, pytest.raises(RequestFailed) as refused:
        client.classify_with(version, b"")
    assert (refused.value.status, refused.value.code) == (422, "empty")
