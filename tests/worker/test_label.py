import hashlib

import numpy as np
import pytest

from understudy import images, labels
from understudy.catalog import shards
from understudy.catalog.tables import LabelSetRow
from understudy.records import JobState
from understudy.testing import picture
from worker.label import label
from worker.resources import Resources
from worker.unpack import unpack

CLASSES = ["red", "green", "blue"]
IMAGES = [picture(n % 3, 3, seed=n, size=16) for n in range(5)]


@pytest.fixture
def big_shards(resources):
    settings = resources.settings.model_copy(update={"shard_images": 100})
    return Resources(resources.catalog, resources.store, settings, resources.ring)


@pytest.fixture
def wanted(champion, big_shards, send_to, pack_zip, rings):
    """The id of a label set that is wanted for a shard of IMAGES."""
    unpack(big_shards, send_to(big_shards, pack_zip({f"{n}.png": data for n, data in enumerate(IMAGES)})).id)
    return rings[-1][1]


def rows(resources, champion):
    (task,) = shards.published_labels(resources.catalog, champion.version)
    return task, labels.read(resources.store, [task.key]).read_all().to_pylist()


def test_a_shard_gets_its_teachers_labels(resources, wanted, champion):
    """One row an image, in the shard's order, with the engine's own numbers and where they came from."""
    label(resources, wanted)
    task, labeled = rows(resources, champion)
    assert [row["sha256"] for row in labeled] == [hashlib.sha256(data).hexdigest() for data in IMAGES]
    assert [CLASSES[row["label"]] for row in labeled] == ["red", "green", "blue", "red", "green"]
    pixels = np.stack([images.load(data, champion.preprocessing) for data in IMAGES])
    expected = resources.engine(champion.version).predict(pixels).max(axis=1)
    np.testing.assert_allclose([row["confidence"] for row in labeled], expected, rtol=1e-5)
    provenance = labels.provenance(resources.store, task.key)
    assert provenance["version"] == champion.version
    assert provenance["classes"] == CLASSES
    assert (provenance["shard"], provenance["images"], provenance["skipped"]) == (task.shard.key, 5, 0)


def test_the_engine_is_kept_while_the_version_stays(resources, champion):
    """Loading is the dearest part."""
    assert resources.engine(champion.version) is resources.engine(champion.version)


def test_labeling_twice_publishes_once(resources, wanted, champion):
    """A message that comes again changes nothing."""
    label(resources, wanted)
    label(resources, wanted)
    label(resources, 4711)
    assert rows(resources, champion)[0].attempt == 1


@pytest.mark.parametrize("num_writes", range(1, 11))
def test_killed_at_any_write_one_label_set_is_published(
    num_writes, resources, wanted, champion, lapse_leases, run_with_fuse
):
    """Invariant 2: the object of a dead attempt is nobody's."""
    died = run_with_fuse(num_writes, lambda mortal: label(mortal, wanted))
    assert died == (num_writes <= 8)
    lapse_leases(resources.catalog)
    label(resources, wanted)
    assert len(rows(resources, champion)[1]) == len(IMAGES)


class _Overtaken:
    """A store in which, just as the labels are written, another worker takes the work over."""

    def __init__(self, resources, wanted, lapse_leases) -> None:
        self._resources, self._wanted, self._lapse = resources, wanted, lapse_leases

    def put(self, key, data):
        self._lapse(self._resources.catalog)
        label(self._resources, self._wanted)
        return self._resources.store.put(key, data)

    def __getattr__(self, name):
        return getattr(self._resources.store, name)


def test_a_worker_that_was_overtaken_publishes_nothing(resources, wanted, champion, lapse_leases):
    """And deletes what it had written."""
    late = _Overtaken(resources, wanted, lapse_leases)
    label(Resources(resources.catalog, late, resources.settings, resources.ring), wanted)
    task, labeled = rows(resources, champion)
    assert task.attempt == 2
    assert resources.store.list("labels/") == [task.key]
    assert len(labeled) == len(IMAGES)


def test_a_model_that_cannot_be_loaded_is_a_fault_of_ours(resources, wanted, champion, lapse_leases):
    """The work is given back, and set aside after its last attempt with the reason; long after, it is tried again."""
    resources.store.delete(champion.artifact_key)
    for _ in range(shards.LABEL_ATTEMPTS):
        label(resources, wanted)
        lapse_leases(resources.catalog)
    with resources.catalog.read() as session:
        row = session.get(LabelSetRow, wanted)
        assert row.state == JobState.FAILED
        assert "ArtifactRefused" in row.problem["detail"]
    assert shards.retry_labels(resources.catalog, after_s=3600) == []
    assert shards.retry_labels(resources.catalog, after_s=-1) == [wanted]


def test_an_image_that_cannot_be_decoded_now_is_left_out(resources, wanted, champion, caplog):
    """The label set says how many, and the log which."""
    key = shards.label_task(resources.catalog, wanted).shard.key
    tar = bytearray(resources.store.get(key))
    at = tar.index(b"\x89PNG")
    tar[at : at + 8] = b"no image"
    resources.store.replace(key, bytes(tar))
    label(resources, wanted)
    task, labeled = rows(resources, champion)
    assert len(labeled) == task.num_rows == len(IMAGES) - 1
    assert labels.provenance(resources.store, task.key)["skipped"] == 1
    assert "left out" in caplog.text
