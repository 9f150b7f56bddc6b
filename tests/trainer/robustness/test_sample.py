import hashlib

import pytest

from trainer.robustness.sample import sample
from understudy.errors import LabeledSetRefused


def test_a_sample_is_chance_once_and_for_all(local_store, holdout):
    """Whatever the order of the shards, the same images; fewer are a part of more."""
    five, six, again = (
        sample(local_store, keys, n) for keys, n in ((holdout, 5), (holdout, 6), (list(reversed(holdout)), 5))
    )

    assert five.photos == again.photos == six.photos[:5]
    assert five.sha256 == again.sha256 != six.sha256
    assert len({photo.shard for photo in six.photos}) == 2
    assert len(sample(local_store, holdout, 1000)) == 12


def test_a_sample_has_the_bytes_of_its_images(local_store, holdout):
    """Each as it was sealed."""
    assert all(hashlib.sha256(data).hexdigest() == photo.sha256 for photo, data in sample(local_store, holdout, 4))


def test_there_is_no_sample_of_nothing(local_store):
    """An empty holdout is said."""
    with pytest.raises(LabeledSetRefused, match="holdout is empty"):
        sample(local_store, [], 5)
