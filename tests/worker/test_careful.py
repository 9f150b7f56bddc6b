import hashlib

import numpy as np
import pytest

from understudy import images, labels
from understudy.catalog import claims, shards
from understudy.catalog.tables import LabelSetRow
from understudy.shards import read_manifest
from understudy.testing import picture
from worker.careful import Classifier, Deadly
from worker.label import label
from worker.unpack import unpack

GOOD = [picture(n % 3, 3, seed=n, size=16) for n in range(2)]
#: Its decoder has a defect, see ``a_decoder_with_a_defect``.
KILLER, HANGER, BREAKER = (picture(0, 3, seed=seed, size=16) for seed in (100, 101, 102))

#: A program reads this before itself: as if Pillow died of one image, hung at another and raised at a third.
DEFECT = """
import hashlib, os, signal, threading
from understudy import images
load = images.load
def defective(data, preprocessing):
    match hashlib.sha256(data).hexdigest():
        case "{killer}": os.kill(os.getpid(), signal.SIGKILL)
        case "{hanger}": threading.Event().wait(60)
        case "{breaker}": raise MemoryError("too much")
    return load(data, preprocessing)
images.load = defective
"""


@pytest.fixture
def a_decoder_with_a_defect(tmp_path, monkeypatch, root):
    names = {"killer": KILLER, "hanger": HANGER, "breaker": BREAKER}
    text = DEFECT.format(**{name: hashlib.sha256(data).hexdigest() for name, data in names.items()})
    (tmp_path / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")


@pytest.fixture
def root(request):
    return request.config.rootpath


def test_only_the_image_that_kills_is_lost(resources, champion, a_decoder_with_a_defect):
    """It is told from the others by its having no answer, with the reason; so is one that hangs, or breaks."""
    with Classifier(resources.settings, champion, image_s=2.0) as classifier:
        expected = resources.engine(champion.version).predict(images.load(GOOD[0], champion.preprocessing)[None])[0]
        np.testing.assert_allclose(classifier.classify(GOOD[0]), expected, rtol=1e-5)
        with pytest.raises(Deadly, match="signal 9") as killed:
            classifier.classify(KILLER)
        with pytest.raises(Deadly, match="longer than 2 s"):
            classifier.classify(HANGER)
        with pytest.raises(Deadly, match="MemoryError: too much"):
            classifier.classify(BREAKER)
        with pytest.raises(Deadly) as refused:
            classifier.classify(b"no image")
        np.testing.assert_allclose(classifier.classify(GOOD[0]), expected, rtol=1e-5)
    assert (killed.value.code, refused.value.code) == ("deadly", "not_an_image")
    assert classifier.num_deaths == 3  # what is refused harms nobody


def test_a_child_that_cannot_begin_says_why(resources, champion):
    """That is no image's fault."""
    resources.store.delete(champion.artifact_key)
    with Classifier(resources.settings, champion) as classifier, pytest.raises(RuntimeError, match="is missing"):
        classifier.classify(GOOD[0])


def test_a_shard_that_killed_its_workers_is_labeled_without_the_image_that_did(
    resources, champion, send, pack_zip, lapse_leases, a_decoder_with_a_defect
):
    """At the third attempt; the label set says which image was left out, and why."""
    everything = {"a.png": GOOD[0], "b.png": KILLER, "c.png": GOOD[1]}
    big = resources.settings.model_copy(update={"shard_images": 100})
    resources.settings = big
    unpack(resources, send(pack_zip(everything)).id)
    for _ in range(shards.CAREFUL_FROM - 1):
        assert claims.claim(resources.catalog, LabelSetRow, 1, lease_s=60)
        lapse_leases(resources.catalog)

    label(resources, 1)

    (task,) = shards.published_labels(resources.catalog, champion.version)
    rows = labels.read(resources.store, [task.key]).read_all().to_pylist()
    (left_out,) = labels.provenance(resources.store, task.key)["left_out"]
    assert len(rows) == task.num_rows == 2
    assert left_out["code"] == "deadly"
    assert {row["sha256"] for row in rows} | {left_out["sha256"]} == {
        m.sha256 for m in read_manifest(resources.store, task.shard.key).members
    }
