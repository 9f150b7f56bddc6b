"""A generation as a run of MLflow, for who has one: the only door to it. Without an address nothing of it is imported.

A generation does not depend on it: it has ended when it is told, and what MLflow does not take is a line in the log.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from trainer.card import Training
from trainer.plan import Plan
from understudy import settings
from understudy.errors import SettingsRefused
from understudy.records import GateReport

if TYPE_CHECKING:
    from mlflow.entities import Metric

log = logging.getLogger(__name__)

EXPERIMENT = "understudy"
#: MLflow takes no more in one request; params and tags its client divides by itself.
METRICS_A_REQUEST = 1000
#: Longer values of a parameter are refused.
MAX_PARAM = 6000


def require(url: str, find: Callable[[str], object] = find_spec) -> None:
    """See that what ``url`` needs is installed. Raises SettingsRefused."""
    if url and find("mlflow") is None:
        raise SettingsRefused(
            f"generations shall be tracked at {url}, but MLflow is not installed: "
            f"pip install 'understudy[mlflow]', or leave UNDERSTUDY_MLFLOW_URL empty"
        )


def track(url: str, plan: Plan, training: Training, report: GateReport) -> None:
    """Tell MLflow of a generation that has its verdict. Raises nothing: a failure is a line in the log."""
    try:
        _track(url, plan, training, report)
    except Exception as fault:
        message = f"generation {plan.generation} is not in MLflow at {url}: {type(fault).__name__}: {fault}"
        log.warning("%s", re.sub(r"//[^/@\s]*@", "//", message))  # an address may have a password


def _track(url: str, plan: Plan, training: Training, report: GateReport) -> None:
    settings.keep_mlflow_short()
    from mlflow import MlflowClient
    from mlflow.entities import Param

    client = MlflowClient(tracking_uri=url)
    known = client.get_experiment_by_name(EXPERIMENT)
    experiment = known.experiment_id if known is not None else client.create_experiment(EXPERIMENT)
    version, ended_ms = report.challenger.version, int(time.time() * 1000)
    began_ms = ended_ms - int(1000 * training.seconds)
    run = client.create_run(experiment, began_ms, _tags(plan, report), run_name=version).info.run_id
    try:
        client.log_batch(run, params=[Param(name, value[:MAX_PARAM]) for name, value in _params(plan, training)])
        metrics = list(_metrics(training, report, began_ms))
        for first in range(0, len(metrics), METRICS_A_REQUEST):
            client.log_batch(run, metrics=metrics[first : first + METRICS_A_REQUEST])
        client.log_text(run, report.to_json().decode(), "report.json")
    except Exception:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run)


def _tags(plan: Plan, report: GateReport) -> dict[str, str]:
    return {
        "understudy.generation": str(plan.generation),
        "understudy.version": report.challenger.version,
        "understudy.teacher": plan.teacher or "none",
        "understudy.verdict": report.verdict,
        "understudy.rule": report.rule,
    }


def _params(plan: Plan, training: Training) -> Iterator[tuple[str, str]]:
    for name, value in plan.recipe.model_dump(mode="json").items():
        yield f"recipe.{name}", str(value)
    yield "student", plan.student
    yield "num_parameters", str(plan.num_parameters)
    yield "seed", str(plan.seed)
    yield "num_labeled", str(training.num_labeled)
    yield "num_pseudo", str(training.num_pseudo)
    yield "device", training.device


def _metrics(training: Training, report: GateReport, began_ms: int) -> "Iterator[Metric]":
    from mlflow.entities import Metric

    for line in training.history:
        at = began_ms + int(1000 * line.seconds)
        for name, value in line.model_dump(exclude={"step", "seconds"}).items():
            if value is not None:
                yield Metric(name, value, at, line.step)
    for one in training.validations:
        yield Metric("ema_accuracy", one.accuracy, began_ms, one.step)
    ended = began_ms + int(1000 * training.seconds)
    yield Metric("holdout_accuracy", report.challenger.accuracy, ended, training.num_steps)
    yield Metric("holdout_calibration_error", report.challenger.calibration_error, ended, training.num_steps)
