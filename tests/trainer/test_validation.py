"""Validations of the averaged student: on the right half, as the model serves, without a trace, and not too often."""

import numpy as np
import pytest
import torch
from torch import nn

from trainer import calibration, evaluate, model, train, validation
from trainer.validation import Validator
from understudy import recipes
from understudy.catalog import shards

CPU = torch.device("cpu")
PREPROCESSING = recipes.recipe("tiny", {"size": 8}).preprocessing


class Clock:
    """Goes on by what is asked of it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Bright(nn.Module):
    """Class 1 for bright pictures, 0 for dark ones; keeps the mode that it was asked in."""

    def __init__(self):
        super().__init__()
        self.asked_in = []

    def forward(self, x):
        self.asked_in.append(self.training)
        return torch.stack([-x.mean((1, 2, 3)), x.mean((1, 2, 3))], 1)


def pictures(*values):
    return np.array(values, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), dtype=np.uint8)


def validator(pixels, names, *, every=10, num_steps=100, clock=None):
    return Validator(lambda: (pixels, names), ["dark", "light"], PREPROCESSING, CPU, every, num_steps, clock or Clock())


def test_a_look_counts_what_the_student_gets_right():
    """By hand, two of four: a class that the student does not know is never right."""
    student = Bright().train()

    found = validator(pictures(10, 250, 250, 10), ["dark", "light", "dark", "grey"]).validate(10, student)

    assert (found.step, found.accuracy, found.num_images) == (10, 0.5, 4)
    assert student.asked_in == [False]  # un-noised
    assert student.training  # and left as it was


def test_a_look_is_taken_when_it_is_time():
    """Every so many steps and at the last one; of an empty half never."""
    shown = validator(pictures(10), ["dark"], every=10, num_steps=25)

    assert [step for step in range(1, 26) if shown.validate(step, Bright())] == [10, 20, 25]
    assert validator(pictures()[:0], [], num_steps=10).validate(10, Bright()) is None


def test_looks_that_cost_too_much_are_taken_less_often():
    """They take a twentieth of the training time, and one more at the end."""
    clock = Clock()

    class Slow(Bright):
        def forward(self, x):
            clock.now += 2.0
            return super().forward(x)

    shown, student, taken = validator(pictures(10), ["dark"], every=1, num_steps=200, clock=clock), Slow(), []
    for step in range(1, 200):
        clock.now += 1.0
        if shown.validate(step, student):
            taken.append(step)

    assert taken == [1, 80, 120, 160]  # 40 seconds of training for each validation of two, the next one included
    assert shown.validate(200, student)


def test_a_look_is_given_up_when_the_process_shall_end():
    """After SIGTERM there is time for a checkpoint, not for hundreds of images on a slow device."""
    student = Bright()
    shown = validator(pictures(*[10] * 100), ["dark"] * 100)
    shown.is_stopping = lambda: len(student.asked_in) == 2

    assert shown.validate(10, student) is None
    assert len(student.asked_in) == 2  # of four batches


def test_only_the_calibration_half_of_the_holdout_is_read(make_world):
    """Images that the gate judges by are not looked at; those that are come from all over the shards."""
    world = make_world(num_holdout=120)
    holdout = [shard.key for shard in shards.of_split(world.catalog, "holdout")]
    asked = []

    def is_meant(sha256):
        asked.append(sha256)
        return calibration.is_calibration(sha256)

    pixels, names = evaluate.some(world.store, holdout, PREPROCESSING, is_meant, 1000)
    fewer, _ = evaluate.some(world.store, holdout, PREPROCESSING, is_meant, 10)

    half = [sha256 for sha256 in asked[:120] if int(sha256[-1], 16) % 2 == 0]
    assert len(set(asked)) == 120
    assert 40 < len(half) == len(names) == len(pixels) < 80
    assert pixels.shape[1:] == (8, 8, 3)
    assert len(fewer) == 10
    assert set(names) <= set("0123456789")


def test_a_look_leaves_no_trace_in_the_random_state():
    """The numbers that come after it are those that would have come without it."""
    with train.seeded(3):
        student = model.build("efficientnet@stages=2", 2, dropout=0.3, drop_path_rate=0.2)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)

    assert validator(pictures(10, 250), ["dark", "light"]).validate(10, student) is not None

    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


@pytest.mark.parametrize(("size", "limit"), [(64, 500), (224, 500), (600, 124), (1024, 42)])
def test_what_is_looked_at_fits_in_memory(size, limit):
    """At most 500 images, and at most 128 MiB of them; of the largest that a recipe may ask for there are some."""
    assert validation.max_images(size) == limit
