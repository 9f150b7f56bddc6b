"""What an observer of a run writes, and that it changes nothing of it."""

import dataclasses
import logging
import threading

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from trainer.checkpoints import RunState
from trainer.diary import MIN_INTERVAL_S, Diary
from trainer.progress import MIN_INTERVAL_S as REPORT_EVERY_S
from trainer.progress import Progress
from trainer.validation import Validator
from understudy import recipes
from understudy.catalog import jobs
from understudy.errors import LeaseLost
from understudy.records import History, Metrics, TrainingProgress, Validation
from understudy.store import Store


class Clock:
    """Goes on by what is asked of it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Lost:
    """A claim that another trainer has taken over."""

    def __call__(self):
        raise LeaseLost("another trainer has it")


def line(step):
    return Metrics(
        step=step, loss=3.0, labeled_loss=2.0, pseudo_loss=1.0, learning_rate=0.01, gradient_norm=1.5, images_per_second=9.0
    )  # fmt: skip


VALIDATION = Validation(step=2, accuracy=0.5, num_images=10, seconds=0.1)
STATE = RunState(step=3, seconds=6.0, history=tuple(map(line, (1, 2, 3))), validations=(VALIDATION,))


def no_images():
    raise OSError("the store is away")


@pytest.fixture
def diary(local_store):
    clock = Clock()
    preprocessing = recipes.recipe("tiny", {}).preprocessing
    validator = Validator(no_images, ["a"], preprocessing, torch.device("cpu"), 1, 100, clock)
    return Diary(local_store, 3, 100, 64, validator, None, lambda: None, clock)


def test_the_newest_figures_are_those_of_the_last_step(diary):
    """Speed over the last seconds in images, time left at that speed, and the last validation with its step."""
    for step in (1, 2, 3):
        diary.clock.now += 0.5
        diary.see(line(step), [VALIDATION] if step >= 2 else [])

    assert diary.figures == TrainingProgress(
        step=3, num_steps=100, loss=3.0, labeled_loss=2.0, pseudo_loss=1.0, learning_rate=0.01,
        images_per_second=128.0, eta_s=48.5, ema_accuracy=0.5, ema_step=2, ema_images=10,
    )  # fmt: skip


def test_the_first_step_has_no_speed_yet(diary):
    """Nor a validation."""
    diary.see(line(1), [])

    assert (diary.figures.images_per_second, diary.figures.eta_s, diary.figures.ema_accuracy) == (None, None, None)


def test_history_events_and_curves_are_written(diary, local_store, tmp_path):
    """Each can be read by whom it is for."""
    diary.write(STATE)

    assert History.model_validate_json(local_store.get("generations/0003/history.json")) == History(
        num_steps=100, lines=STATE.history, validations=(VALIDATION,)
    )
    assert local_store.get("generations/0003/curves.png").startswith(b"\x89PNG")
    (key,) = local_store.list("generations/0003/tensorboard/")
    (tmp_path / key.split("/")[-1]).write_bytes(local_store.get(key))
    assert len(EventAccumulator(str(tmp_path)).Reload().Scalars("loss/total")) == 3


def test_checkpoints_do_not_write_more_than_once_a_minute(diary, local_store):
    """Drawing takes time that training would have."""
    diary.clock.now += MIN_INTERVAL_S - 1
    diary.keep(STATE)
    assert local_store.list("generations/") == []

    diary.clock.now += 1
    diary.keep(STATE)
    assert len(local_store.list("generations/")) == 3

    local_store.delete("generations/0003/curves.png")
    diary.keep(STATE)
    assert len(local_store.list("generations/")) == 2


def test_a_look_that_fails_is_a_line_in_the_log(diary, caplog):
    """The run goes on; evaluation will say what is wrong with the holdout."""
    with caplog.at_level(logging.WARNING):
        assert diary.validate(1, nn.Identity()) is None

    assert "no validation at step 1" in caplog.text
    assert "the store is away" in caplog.text


def test_curves_that_cannot_be_written_are_a_line_in_the_log(diary, tmp_path, caplog):
    """A full disk ends a run where the checkpoint needs it, not for a picture."""

    class Full(Store):
        def replace(self, key, data):
            raise OSError("no space left on device")

    full = dataclasses.replace(diary, store=Full(diary.store.url), figures=None)
    with caplog.at_level(logging.WARNING):
        full.write(STATE)

    assert "curves could not be written" in caplog.text
    assert "no space left" in caplog.text


def test_who_has_lost_the_lease_writes_nothing(diary, local_store):
    """Another trainer writes here now."""
    with pytest.raises(LeaseLost):
        dataclasses.replace(diary, check=Lost()).write(STATE)

    assert local_store.list("generations/") == []


def test_figures_come_with_the_progress_at_most_twice_a_second(make_world):
    """Nobody looks more often, and each report is a transaction; the last step is told whatever the time."""
    world, clock = make_world(), Clock()
    turn, claim = world.open(recipe="tiny")
    progress = Progress(world.catalog, claim, threading.Event(), clock=clock)

    def figures(step):
        return TrainingProgress(step=step, num_steps=9, loss=1.0, labeled_loss=1.0, learning_rate=0.1)

    def shown(step):
        progress.show("train", step, 9, figures(step))
        job = jobs.get(world.catalog, turn.job.id)
        assert job.metrics.step == job.done
        return job.metrics.step

    clock.now = 10.0
    assert shown(1) == 1
    clock.now += REPORT_EVERY_S / 2
    assert shown(2) == 1
    clock.now += REPORT_EVERY_S / 2
    assert shown(3) == 3
    assert shown(9) == 9
