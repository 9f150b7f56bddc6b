"""Two versions on the same holdout, from the files that the trainer keeps of each."""

import base64
import hashlib
import json

import numpy as np
import pytest

from understudy import comparing, images
from understudy.errors import NotFound
from understudy.generation_records import PairOutcome
from understudy.records import ModelVersion, Robustness, VersionState
from understudy.shards import ShardWriter
from understudy.testing import picture, tiny_artifact

CLASSES = ("cat", "dog")
#: Of four images: cat, cat, dog, dog.
TRUTH = [0, 0, 1, 1]


def version(generation, **kwargs):
    _, card = tiny_artifact(CLASSES, generation=generation, **kwargs)
    return ModelVersion(
        id=card.version, generation=generation, state=VersionState.CHALLENGER, student="tiny", created_at=0.0,
        is_champion=False, card=card,
    )  # fmt: skip


@pytest.fixture
def both():
    """The challenger, of generation 1, and the champion, of generation 0."""
    return version(1), version(0)


@pytest.fixture
def holdout(local_store, tmp_path):
    """A shard of four images; gives its manifest."""
    writer = ShardWriter(tmp_path / "shard.tar", split="holdout")
    for i, truth in enumerate(TRUTH):
        data = picture(truth, 2, seed=i)
        writer.add(
            data,
            sha256=hashlib.sha256(data).hexdigest(),
            name=f"{i}.png",
            facts=images.inspect(data),
            class_name=CLASSES[truth],
        )
    return writer.seal(local_store)


@pytest.fixture
def answered(local_store, holdout):
    """Writes what a version answered, as the trainer does, into a generation's folder."""

    def wrote(model, generation, predicted, *, digest="h0", kept=True):
        confidence = np.linspace(0.6, 0.9, len(predicted), dtype="<f4").tobytes()
        file = {
            "evaluation": {"of": "no concern here"},
            "holdout": [holdout.key],
            "classes": CLASSES,
            "truth": TRUTH,
            "is_right": [t == p for t, p in zip(TRUTH, predicted, strict=True)],
            "predicted": predicted if kept else [],
            "model_classes": CLASSES,
            "packed_confidence": base64.b64encode(confidence).decode(),
        }
        key = f"generations/{generation:04d}/evaluation-{model.id}-{digest}.json"
        local_store.put(key, json.dumps(file).encode())

    return wrote


def test_every_image_counts_once(local_store, both, answered):
    """Won, lost, both right and both wrong sum to the images, by class too; mistakes are counted for both."""
    challenger, champion = both
    answered(challenger, 1, [0, 1, 1, 0])
    answered(champion, 1, [1, 0, 1, 0])

    found = comparing.comparison(comparing.find(local_store, *both))

    assert (found.num_images, found.won, found.lost, found.both_right, found.both_wrong) == (4, 1, 1, 1, 1)
    assert [(one.name, one.num_images, one.won, one.lost) for one in found.classes] == [
        ("cat", 2, 1, 1),
        ("dog", 2, 0, 0),
    ]
    assert {(one.truth, one.answer): (one.challenger, one.champion) for one in found.confusions} == {
        ("cat", "dog"): (1, 1),
        ("dog", "cat"): (1, 1),
    }


def test_the_images_of_an_outcome_are_those_of_the_shard(local_store, both, answered, holdout):
    """In its order, with what each said and how sure it was; of one class only, from an offset, at most so many."""
    challenger, champion = both
    answered(challenger, 1, [0, 0, 1, 1])
    answered(champion, 1, [1, 1, 0, 1])
    pair = comparing.find(local_store, *both)

    won = comparing.images(local_store, pair, outcome=PairOutcome.WON)

    assert [image.sha256 for image in won] == [member.sha256 for member in holdout.members[:3]]
    assert (won[0].truth, won[0].challenger, won[0].champion) == ("cat", "cat", "dog")
    assert won[0].challenger_confidence == pytest.approx(0.6)
    assert comparing.images(local_store, pair, outcome=PairOutcome.WON, class_name="dog") == won[2:]
    assert comparing.images(local_store, pair, outcome=PairOutcome.WON, offset=1, limit=1) == won[1:2]


def test_each_may_have_been_measured_in_a_generation_of_its_own(local_store, both, answered):
    """On the same holdout, by its digest; another holdout is no ground to compare on."""
    challenger, champion = both
    answered(champion, 0, [0, 0, 0, 0])
    answered(challenger, 1, [0, 0, 1, 1], digest="h1")
    with pytest.raises(NotFound, match="not measured on the same holdout"):
        comparing.find(local_store, *both)

    answered(challenger, 1, [0, 0, 1, 1], digest="h0")

    assert comparing.comparison(comparing.find(local_store, *both)).won == 2


def test_what_was_measured_before_answers_were_kept_cannot_be_compared(local_store, both, answered):
    """It is said to be not there, rather than found equal."""
    challenger, champion = both
    answered(challenger, 1, [0, 0, 1, 1], kept=False)
    answered(champion, 1, [0, 0, 1, 1])

    with pytest.raises(NotFound, match="not measured on the same holdout"):
        comparing.find(local_store, *both)


def test_robustness_of_two_is_compared_on_one_sample_only(local_store, both, answered):
    """Another sample's figures would be of other images."""
    for one, sample in zip(both, ("a" * 64, "b" * 64), strict=True):
        answered(one, 1, [0, 0, 1, 1])
        robust = Robustness(version=one.id, sample=sample, num_images=4, clean_error=0.1, errors={"fog": (0.2, 0.4)})
        local_store.put(f"generations/0001/robustness-{one.id}-h0.json", robust.to_json())

    found = comparing.comparison(comparing.find(local_store, *both))

    assert found.challenger_robustness is not None
    assert found.challenger_robustness.mean_error == pytest.approx(0.3)
    assert found.champion_robustness is None
