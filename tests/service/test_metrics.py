"""Metrics that a test over HTTP cannot bring about."""

from dataclasses import replace

from service.metrics import Metrics
from understudy import engine
from understudy.testing import tiny_artifact


def test_a_model_that_fell_back_to_the_cpu_is_counted():
    """An alert can be set on it; it ends when a model is on the GPU again."""
    metrics = Metrics()
    loaded = engine.load(*tiny_artifact(("red", "green", "blue")), provider="cpu", threads=1)

    metrics.runs_on(replace(loaded, fallback="cuda: driver too old"))
    assert b"understudy_engine_fallback 1.0" in metrics.render()

    metrics.runs_on(replace(loaded, provider="cuda", variant="fp16"))
    text = metrics.render().decode()
    assert "understudy_engine_fallback 0.0" in text
    assert f'understudy_engine_info{{model="{loaded.version}",provider="cuda",variant="fp16"}} 1.0' in text
    assert text.count("understudy_engine_info{") == 1
