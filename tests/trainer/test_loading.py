import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from trainer import loading
from trainer.loading import Pictures, Place, Request, WorkersDied
from trainer.noise import Noise
from understudy import images, recipes
from understudy.errors import Refused
from understudy.shards import ShardWriter

NOISE = Noise(recipes.recipe("tiny", {}))
NUM_STEPS = 5


@pytest.fixture
def manifest(local_store, digits, tmp_path):
    """A shard of 20 digits."""
    writer = ShardWriter(tmp_path / "x.tar", split="unlabeled", bucket="b")
    for digit in digits[:20]:
        writer.add(digit.data, sha256=digit.sha256, name="x", facts=images.inspect(digit.data))
    return writer.seal(local_store)


@pytest.fixture
def request_of(manifest):
    """Four images a step, all others in the next."""

    def request(step: int) -> Request:
        members = [manifest.members[(4 * step + i) % 20] for i in range(4)]
        return Request(f"7/{step}", tuple(Place(manifest.key, m.offset, m.num_bytes) for m in members))

    return request


@pytest.fixture
def pictures(local_store):
    return Pictures(local_store, NOISE)


def workers() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def test_processes_make_what_threads_make(local_store, manifest, request_of, pictures):
    """Pixel by pixel, from any step on, with two processes; a refusal comes through whole, and nobody is left behind."""
    first = request_of(9).places[0]

    def request(step):
        return request_of(step) if step < NUM_STEPS else Request("7/5", (first._replace(num_bytes=9),))

    generator, handler = torch.random.get_rng_state(), signal.getsignal(signal.SIGCHLD)
    made = loading.made_by_processes(local_store.url, NOISE, request, 2, NUM_STEPS + 1, 2)

    for step in range(2, NUM_STEPS):
        assert np.array_equal(next(made), pictures.made(request_of(step)))
    assert len(workers()) == 2
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert signal.getsignal(signal.SIGCHLD) is handler
    with pytest.raises(Refused, match=rf"shard {manifest.key} is damaged: image {manifest.members[16].sha256}") as told:
        next(made)

    assert told.value.code == "shard_damaged"
    assert workers() == []


def test_a_killed_process_is_replaced_until_it_is_too_often(local_store, request_of, pictures, caplog):
    """The next batch is the one that would have come; with one death more than allowed the run ends, and says what to do."""
    made = loading.made_by_processes(local_store.url, NOISE, request_of, 0, 1000, 1, max_deaths=1)
    assert np.array_equal(next(made), pictures.made(request_of(0)))

    os.kill(workers()[0], signal.SIGKILL)
    at = 1
    while "was killed" not in caplog.text:  # what was made before the death is still good
        assert np.array_equal(next(made), pictures.made(request_of(at)))
        at += 1
    assert np.array_equal(next(made), pictures.made(request_of(at)))
    os.kill(workers()[0], signal.SIGKILL)
    with pytest.raises(WorkersDied, match=r"killed 2 times in this run.*lower UNDERSTUDY_DATA_WORKERS=1"):
        for _ in made:
            pass

    assert workers() == []


@pytest.mark.thorough
def test_no_process_outlives_a_killed_trainer(local_store, manifest, tmp_path, until):
    """``kill -9`` of the trainer ends its data workers within seconds."""
    member = manifest.members[0]
    program = f"""
        import multiprocessing, threading
        from trainer import loading
        from trainer.noise import Noise
        from understudy import recipes
        place = loading.Place({manifest.key!r}, {member.offset}, {member.num_bytes})
        if __name__ == "__main__":
            noise = Noise(recipes.recipe("tiny", {{}}))
            request = lambda step: loading.Request("0/0", (place,))
            made = loading.made_by_processes({local_store.url!r}, noise, request, 0, 100, 1)
            next(made)
            print(multiprocessing.active_children()[0].pid, flush=True)
            threading.Event().wait()
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    environment = os.environ | {"PYTHONPATH": str(Path(loading.__file__).parents[1])}
    with subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True, env=environment) as trainer:
        worker = psutil.Process(int(trainer.stdout.readline()))
        trainer.kill()

    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_a_shard_that_is_gone_or_ends_early_is_named(local_store, manifest, request_of, pictures):
    """With its image, and what to do."""
    whole = local_store.get(manifest.key)
    place = request_of(4).places[3]
    for length in (place.offset + 5, place.offset - 600):  # in the middle of the image, and before it
        local_store.replace(manifest.key, whole[:length])
        with pytest.raises(
            Refused, match=f"damaged: image {manifest.members[19].sha256}.*restore the shard"
        ) as damaged:
            pictures[place]
        assert damaged.value.code == "shard_damaged"

    local_store.delete(manifest.key)
    with pytest.raises(Refused, match=f"shard {manifest.key} is not in the store") as missing:
        pictures[place]
    assert missing.value.code == "shard_missing"


def test_pictures_beyond_the_room_are_read_again(local_store, request_of):
    """Memory is bounded; the picture is the same."""
    pictures = Pictures(local_store, NOISE, room=2 * 3 * 16 * 16)
    places = request_of(0).places

    kept = [pictures[place] for place in places]

    assert pictures[places[0]] is kept[0]
    assert pictures[places[3]] is not kept[3]
    assert np.array_equal(np.asarray(pictures[places[3]]), np.asarray(kept[3]))
    assert pictures.room == 0


@pytest.mark.parametrize(
    ("asked", "cores", "num_images", "expected"),
    [(-1, 2, 10**9, 0), (-1, 3, 10**9, 2), (-1, 64, 10**9, 16), (-1, 64, 1000, 0), (0, 64, 10**9, 0), (2, 1, 10, 2)],
)
def test_the_number_of_processes_follows_the_cores_unless_it_is_set(asked, cores, num_images, expected):
    """None on one or two cores, and none for a short run."""
    assert loading.num_workers(asked, cores=cores, num_images=num_images, batch_bytes=1000) == expected


def test_too_little_shared_memory_is_said_before_it_is_a_bus_error(tmp_path, caplog):
    """Threads make the batches then."""
    assert loading.num_workers(4, cores=8, num_images=10**6, batch_bytes=10**15, shared=tmp_path) == 0

    assert "MB free" in caplog.text
    assert "shm_size" in caplog.text
