"""Coloured pictures in a holdout, and real photos in small."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from understudy import engine, images
from understudy.records import Preprocessing
from understudy.shards import ShardWriter
from understudy.testing import picture, tiny_artifact

CLASSES = ("amber", "blue", "coral")


@pytest.fixture
def holdout(local_store, tmp_path):
    """The keys of two holdout shards, four pictures of each colour in all."""
    keys = []
    for part in range(2):
        writer = ShardWriter(tmp_path / f"h{part}.tar", split="holdout")
        for i, name in enumerate(CLASSES):
            for seed in range(2):
                data = picture(i, len(CLASSES), seed=10 * part + seed)
                sha256 = hashlib.sha256(data).hexdigest()
                writer.add(data, sha256=sha256, name="x.png", facts=images.inspect(data), class_name=name)
        keys.append(writer.seal(local_store).key)
    return keys


@pytest.fixture
def load():
    """Load a model of colours, as ``tiny_artifact`` makes it."""

    def loaded(classes=CLASSES, **model):
        return engine.load(*tiny_artifact(classes, **model), provider="cpu")

    return loaded


@pytest.fixture(scope="session")
def photos():
    """scikit-learn's two photos in six square pieces each, as a model of a size sees them."""

    def framed(size):
        whole = [np.ascontiguousarray(photo) for photo in load_sample_images().images]
        pieces = [photo[y : y + 213, x : x + 213] for photo in whole for y in (0, 213) for x in (0, 213, 426)]
        return [images.prepare(np.ascontiguousarray(piece), Preprocessing(size=size)) for piece in pieces]

    return framed
