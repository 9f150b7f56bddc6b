import errno
import os

import pytest
import torch

from trainer.checkpoints import Checkpoints, RunState
from understudy.errors import LeaseLost
from understudy.store import Store

FOLDER = "generations/0003/checkpoints"


def write(checkpoints, *steps):
    for step in steps:
        checkpoints.write({"x": torch.tensor([float(step)])}, RunState(step=step))


def newest_step(checkpoints):
    found = checkpoints.newest()
    return None if found is None else found[1].step


class FullStore(Store):
    """A store whose disk is full for keys that end in a name."""

    full_for = "nothing"

    def replace(self, key, data):
        if key.endswith(self.full_for):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().replace(key, data)


@pytest.fixture
def full_store(tmp_path):
    return FullStore((tmp_path / "store").as_uri())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tensors.safetensors", b"half"),
        ("tensors.safetensors", None),
        ("state.json", b"{"),
        ("state.json", b'{"state": {"step": 8}, "tensors_sha256": "' + b"0" * 64 + b'"}'),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(local_store, caplog, name, content):
    """Whatever is wrong with it: the one before is there for that."""
    checkpoints = Checkpoints(local_store, 3)
    write(checkpoints, 0, 4, 8)
    assert checkpoints.steps() == [4, 8]
    if content is None:
        local_store.delete(f"{FOLDER}/0000/00000008/{name}")
    else:
        local_store.replace(f"{FOLDER}/0000/00000008/{name}", content)

    assert newest_step(checkpoints) == 4
    assert "the checkpoint of step 8 is damaged" in caplog.text


def test_without_a_whole_checkpoint_a_run_begins_anew(local_store, caplog):
    """With a warning that says so."""
    checkpoints = Checkpoints(local_store, 3)
    write(checkpoints, 4, 8)
    for key in local_store.list(FOLDER):
        local_store.replace(key, b"rot")

    assert checkpoints.newest() is None
    assert "none of 2 checkpoints is whole: begin anew" in caplog.text


def test_a_late_trainer_damages_nothing(local_store):
    """Overtaken and unaware of it, it writes and prunes beside the one who goes on, whose checkpoints count."""
    late, newer = Checkpoints(local_store, 3, attempt=1), Checkpoints(local_store, 3, attempt=2)
    write(late, 4, 8)
    assert newest_step(newer) == 8
    write(newer, 12)
    write(late, 12, 16, 20, 24)

    assert newest_step(newer) == 12
    write(newer, 16)
    assert newest_step(newer) == newest_step(late) == 16
    newer.clear()
    assert local_store.list(FOLDER) == []


def test_a_trainer_without_its_lease_writes_nothing(local_store):
    """The claim is asked before every write."""

    def lost():
        raise LeaseLost("overtaken")

    with pytest.raises(LeaseLost):
        write(Checkpoints(local_store, 3, 1, lost), 4)
    assert local_store.list(FOLDER) == []


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_without_room_the_older_checkpoints_stand(full_store, name):
    """Nothing half-written is left, and the message says what there is, and what to do."""
    checkpoints = Checkpoints(full_store, 3)
    write(checkpoints, 0, 4)
    before = full_store.list(FOLDER)
    full_store.full_for = name

    with pytest.raises(OSError, match=r"step 8 cannot be written .* \(steps 0, 4\) still stand: make room") as raised:
        write(checkpoints, 8)

    assert raised.value.errno == errno.ENOSPC
    assert full_store.list(FOLDER) == before
    assert newest_step(checkpoints) == 4
