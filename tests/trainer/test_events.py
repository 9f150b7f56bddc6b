"""TensorBoard reads what was written, with its own reader."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer import events
from understudy.records import History, Metrics, Validation


def line(step):
    return Metrics(
        step=step,
        loss=3.0 / step,
        labeled_loss=2.0 / step,
        pseudo_loss=1.0 / step,
        learning_rate=0.01 * step,
        gradient_norm=1.5,
        images_per_second=100.0,
        seconds=2.0 * step,
    )


HISTORY = History(
    num_steps=8,
    lines=tuple(line(step) for step in (1, 2, 3, 4)),
    validations=(
        Validation(step=2, accuracy=0.5, num_images=10, seconds=0.1),
        Validation(step=4, accuracy=0.75, num_images=10, seconds=0.1),
    ),
)


def read(tmp_path, data):
    (tmp_path / events.FILE_NAME).write_bytes(data)
    return EventAccumulator(str(tmp_path)).Reload()


def test_tensorboard_reads_every_figure(tmp_path):
    """Each tag with its steps, values and times."""
    found = read(tmp_path, events.event_file(HISTORY, 1000.0, tmp_path))

    assert set(found.Tags()["scalars"]) == {
        "loss/total", "loss/labeled", "loss/pseudo", "ema/accuracy",
        "train/learning_rate", "train/gradient_norm", "train/images_per_second",
    }  # fmt: skip
    total = found.Scalars("loss/total")
    assert [event.step for event in total] == [1, 2, 3, 4]
    assert [event.value for event in total] == pytest.approx([3.0, 1.5, 1.0, 0.75])
    assert [event.wall_time for event in total] == pytest.approx([1002.0, 1004.0, 1006.0, 1008.0])
    assert [(e.step, e.value, e.wall_time) for e in found.Scalars("ema/accuracy")] == [
        (2, 0.5, pytest.approx(1004.0)), (4, 0.75, pytest.approx(1008.0))
    ]  # fmt: skip


def test_a_first_teacher_has_no_pseudo_loss(tmp_path):
    """The tag is not there, rather than zero."""
    lines = tuple(one.model_copy(update={"pseudo_loss": None}) for one in HISTORY.lines)
    found = read(tmp_path, events.event_file(HISTORY.model_copy(update={"lines": lines}), 0.0, None))

    assert "loss/pseudo" not in found.Tags()["scalars"]


def test_a_file_that_has_grown_begins_as_it_did(tmp_path):
    """A TensorBoard that has read the first file reads on in the second, and sees each step once."""
    before = HISTORY.model_copy(update={"lines": HISTORY.lines[:3], "validations": HISTORY.validations[:1]})
    first, second = (events.event_file(history, 1000.0, tmp_path) for history in (before, HISTORY))

    scalars = first.index(b"loss/")  # before them is the file's own record, with its time of writing
    assert len(first) < len(second)
    assert second[scalars : len(first)] == first[scalars:]
    reader = read(tmp_path, first)
    assert [event.step for event in reader.Scalars("loss/total")] == [1, 2, 3]
    (tmp_path / events.FILE_NAME).write_bytes(second)
    assert [event.step for event in reader.Reload().Scalars("loss/total")] == [1, 2, 3, 4]
