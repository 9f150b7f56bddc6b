"""Several processes that train together, really started by torchrun, on CPUs."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trainer import program
from trainer.card import Training
from trainer.distributed import Ranks
from understudy.catalog import claims, generations, jobs
from understudy.records import GenerationState, JobState
from understudy.store import generation_key

ROOT = Path(__file__).parents[2]

#: Without what is drawn by chance in the model: each process draws for its own rows.
CALM = {"dropout": 0.0, "drop_path_rate": 0.0}


def trained_together(world, *, num=2):
    """``torchrun`` of the real trainer over a world."""
    environment = {
        "UNDERSTUDY_CATALOG_URL": f"sqlite:///{world.folder / 'catalog.db'}",
        "UNDERSTUDY_STORE_URL": world.store.url,
        "UNDERSTUDY_DATA": str(world.folder),
        "UNDERSTUDY_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={num}",
        "-m",
        "trainer",
    ]
    with (world.folder / "log").open("w") as log:
        return subprocess.Popen(command, env=os.environ | environment, stderr=log, stdout=log, cwd=ROOT)


def children(process):
    """The numbers of a process' children, the first one first."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
    return [int(number) for number in listed.split()]


def opened(world, **overrides):
    turn, claim = world.open(recipe="tiny", overrides=world.quick | CALM | overrides)
    claims.give_back(world.catalog, claim, program.STOPPED, is_forgiven=True)
    return turn


def test_two_processes_train_what_one_does(make_taught_world, until):
    """The same losses, within what another order of additions does; one generation, one model, an orderly end."""
    world, alone = make_taught_world("together"), make_taught_world("alone")
    for each in (world, alone):
        each.label()
        turn, claim = each.open(overrides=CALM | {"unlabeled_ratio": 2})
        claims.give_back(each.catalog, claim, program.STOPPED, is_forgiven=True)
    with trained_together(world) as process:
        until(lambda: generations.get(world.catalog, 1).state.is_ended or process.poll() is not None, 240)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    log = (world.folder / "log").read_text()
    assert generations.get(world.catalog, 1).state in (GenerationState.PROMOTED, GenerationState.REFUSED), log
    assert program.attempt(alone.place, alone.claim(turn), threading.Event())

    ours, theirs = (
        Training.model_validate_json(each.store.get(generation_key(1, "training.json"))) for each in (alone, world)
    )
    assert [line.step for line in theirs.history] == list(range(1, 31))
    assert [line.loss for line in theirs.history] == pytest.approx([line.loss for line in ours.history], rel=0.01)
    assert [line.gradient_norm for line in theirs.history[:5]] == pytest.approx(
        [line.gradient_norm for line in ours.history[:5]], rel=0.01
    )
    assert "rank 1 of 2" in log


@pytest.mark.thorough
def test_a_killed_process_ends_the_others(make_world, until):
    """They say so and end with an error; the work goes back, and the checkpoints stand."""
    world = make_world()
    turn = opened(world, teacher_steps=100_000, student_steps=100_000, checkpoint_every=5)
    with trained_together(world) as process:
        until(lambda: jobs.get(world.catalog, turn.job.id).done >= 10 or process.poll() is not None, 120)
        os.kill(children(process)[1], signal.SIGKILL)
        assert process.wait(90) != 0

    log = (world.folder / "log").read_text()
    assert "a process that trained along has ended or does not answer" in log
    job = jobs.get(world.catalog, turn.job.id)
    assert job.state == JobState.QUEUED, log
    assert world.store.list("generations/0000/checkpoints") != []


@pytest.mark.thorough
def test_sigterm_ends_all_processes(make_world, until):
    """A checkpoint, the work given back unharmed, everyone gone within seconds."""
    world = make_world()
    turn = opened(world, teacher_steps=100_000, student_steps=100_000, checkpoint_every=100_000)
    with trained_together(world) as process:
        until(lambda: jobs.get(world.catalog, turn.job.id).done >= 2 or process.poll() is not None, 120)
        process.send_signal(signal.SIGTERM)
        process.wait(30)

    job = jobs.get(world.catalog, turn.job.id)
    assert (job.state, job.problem.code) == (JobState.QUEUED, "stopped"), (world.folder / "log").read_text()
    assert len(world.store.list("generations/0000/checkpoints")) == 4  # the beginning, and where it was


def test_alone_meeting_costs_nothing():
    """One process is told nothing and has nobody to leave."""
    ranks = Ranks()

    with ranks.together(is_stopping=True) as shall_stop:
        assert shall_stop
    assert ranks.tell(b"x") == b"x"
    ranks.leave()
    assert not ranks.is_broken
