"""Probes and metrics over real HTTP."""

import re
from collections.abc import Callable

import httpx
import pytest

from understudy.catalog import Catalog
from understudy.store import Store
from understudy.testing import picture


def metric(text: str, name: str, **labels: str) -> float:
    """One sample of Prometheus' text format; 0 where it has never been counted."""
    for line in text.splitlines():
        if re.split(r"[{ ]", line)[0] == name and all(f'{k}="{v}"' in line for k, v in labels.items()):
            return float(line.split()[-1])
    return 0.0


def test_alive_is_not_ready(http: httpx.Client, serving: Callable[..., str]):
    """Without a model the process lives and is not ready; with one it names model and provider."""
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").status_code == 503
    version = serving()
    assert http.get("/readyz").json() == {
        "ready": True,
        "stopping": False,
        "model": version,
        "provider": "cpu",
        "variant": "fp32",
        "fallback": None,
        "refused": {},
    }


def test_requests_images_batches_and_swaps_are_counted(http: httpx.Client, serving: Callable[..., str]):
    """By route template and status, by model, by reason."""
    version = serving()
    for body in (picture(0, 3), picture(1, 3), b"nonsense"):
        http.post("/classify", content=body)
    http.get("/jobs/none")
    text = http.get("/metrics").text
    assert metric(text, "understudy_http_requests_total", method="POST", route="/classify", status="200") == 2
    assert metric(text, "understudy_http_requests_total", method="POST", route="/classify", status="415") == 1
    assert metric(text, "understudy_http_requests_total", route="/jobs/{job_id}", status="404") == 1
    assert metric(text, "understudy_http_request_duration_seconds_count", route="/classify") == 3
    assert metric(text, "understudy_classified_images_total", model=version) == 2
    assert metric(text, "understudy_refused_images_total", code="not_an_image") == 1
    assert metric(text, "understudy_batch_images_count") == 2
    assert metric(text, "understudy_swaps_total", outcome="served") == 1
    assert metric(text, "understudy_serving_model", model=version) == 1
    assert metric(text, "understudy_engine_info", model=version, provider="cpu", variant="fp32") == 1
    assert metric(text, "understudy_engine_fallback") == 0


def test_a_champion_whose_file_is_damaged_is_not_served_and_says_why(
    http: httpx.Client,
    serving: Callable[..., str],
    promote: Callable[..., str],
    opened: tuple[Catalog, Store],
    until: Callable[..., None],
):
    """One flipped byte: the old model serves on, the reason is in /readyz and counted in /metrics."""
    good = serving()
    store = opened[1]
    bad = promote(sharpness=3.0, damaged=True)
    until(lambda: bad in http.get("/readyz").json()["refused"])
    ready = http.get("/readyz").json()
    assert ready["model"] == good
    assert "sha-256" in ready["refused"][bad]
    assert http.post("/classify", content=picture(0, 3)).json()["model"] == good
    assert metric(http.get("/metrics").text, "understudy_swaps_total", outcome="refused") >= 1
    assert store.exists(f"models/{bad}/model.onnx")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("DELETE", "/jobs", 405)])
def test_what_is_not_there_is_a_problem_too(http: httpx.Client, method: str, path: str, status: int):
    """RFC 9457 for the framework's own errors."""
    answer = http.request(method, path)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "detail", "code"} <= answer.json().keys()
