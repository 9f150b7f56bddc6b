"""A generation in MLflow: with its own tracking backend, and when there is none to speak to."""

import logging
import socket
import time
from pathlib import Path

import pytest

from trainer import tracking
from trainer.card import Training
from trainer.plan import Plan
from understudy import recipes
from understudy.errors import SettingsRefused
from understudy.records import Evaluation, GateReport, Interval, Metrics, Validation

PLAN = Plan(
    generation=3,
    recipe=recipes.recipe("tiny", {"threshold": 0.7}),
    student="efficientnet",
    num_parameters=1234,
    classes=("a", "b"),
    teacher="g0002-2bdadd",
    seed=7,
    weights=None,
    labeled_counts={"a": 1, "b": 1},
    labeled=(),
    holdout=(),
    last_shard=0,
)
TRAINING = Training(
    weights_sha256="0" * 64,
    num_steps=300,
    num_labeled=30,
    num_pseudo=1000,
    seconds=600.0,
    device="cpu",
    learning_rate_factor=1.0,
    history=tuple(
        Metrics(
            step=step, loss=3.0 / step, labeled_loss=2.0 / step, pseudo_loss=None, learning_rate=0.01,
            gradient_norm=1.5, images_per_second=9.0, seconds=2.0 * step,
        )
        for step in range(1, 301)
    ),
    validations=(Validation(step=200, accuracy=0.5, num_images=10, seconds=0.1),),
)  # fmt: skip
REPORT = GateReport(
    generation=3,
    challenger=Evaluation(
        version="g0003-8f2c1a",
        num_images=120,
        num_correct=90,
        accuracy=0.75,
        interval=Interval(low=0.66, high=0.82),
        per_class={},
        calibration_error=0.05,
        negative_log_likelihood=0.9,
        images_per_second=100.0,
    ),
    champion=None,
    gain=None,
    alpha=0.05,
    class_floor=0.1,
    verdict="promote",
    rule="first",
    reasons=("there is no champion yet",),
)


@pytest.mark.filterwarnings("ignore")  # of MLflow's own database code
def test_a_generation_is_a_run_with_its_recipe_its_curves_and_its_report(tmp_path, monkeypatch):
    """Read back with MLflow's own client from MLflow's own database."""
    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts of such a database
    url = f"sqlite:///{tmp_path / 'mlflow.db'}"

    tracking.track(url, PLAN, TRAINING, REPORT)
    tracking.track(url, PLAN.model_copy(update={"generation": 4}), TRAINING, REPORT)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name("understudy")
    second, first = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    assert {run.data.tags["understudy.generation"] for run in (first, second)} == {"3", "4"}
    run = first if first.data.tags["understudy.generation"] == "3" else second
    assert (run.info.status, run.info.run_name) == ("FINISHED", "g0003-8f2c1a")
    assert run.data.tags["understudy.verdict"] == "promote"
    assert run.data.tags["understudy.teacher"] == "g0002-2bdadd"
    assert run.data.params["recipe.threshold"] == "0.7"
    assert set(run.data.params) >= {f"recipe.{name}" for name in recipes.FIELDS}
    assert (run.data.params["student"], run.data.params["seed"]) == ("efficientnet", "7")
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in losses) == [(n, 3.0 / n) for n in range(1, 301)]
    assert run.data.metrics["ema_accuracy"] == 0.5
    assert run.data.metrics["holdout_accuracy"] == 0.75
    assert "pseudo_loss" not in run.data.metrics
    report = client.download_artifacts(run.info.run_id, "report.json", str(tmp_path))
    assert GateReport.model_validate_json(Path(report).read_bytes()) == REPORT


@pytest.mark.filterwarnings("ignore")
def test_an_mlflow_that_is_away_is_a_line_in_the_log(caplog):
    """Where nobody listens."""
    with socket.socket() as deaf, caplog.at_level(logging.WARNING):
        deaf.bind(("127.0.0.1", 0))
        tracking.track(f"http://me:secret@127.0.0.1:{deaf.getsockname()[1]}", PLAN, TRAINING, REPORT)

    assert "generation 3 is not in MLflow at http://127.0.0.1" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_an_mlflow_that_never_answers_is_not_waited_for_long(caplog, monkeypatch):
    """A trainer that shall end has 30 seconds; a user's own patience counts."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent, caplog.at_level(logging.WARNING):
        started = time.monotonic()
        tracking.track(f"http://127.0.0.1:{silent.getsockname()[1]}", PLAN, TRAINING, REPORT)

    assert time.monotonic() - started < 15
    assert "timed out" in caplog.text


def test_an_address_without_the_package_is_refused_at_the_start():
    """With what to install; without an address nothing is missing."""
    tracking.require("http://127.0.0.1:5000")  # it is installed here

    tracking.require("", lambda name: None)
    with pytest.raises(SettingsRefused, match=r"pip install 'understudy\[mlflow\]'"):
        tracking.require("http://127.0.0.1:5000", lambda name: None)
