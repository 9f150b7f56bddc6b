"""The registry's files, and the choice of a number format for one machine. Speeds are given; the engines are real."""

import hashlib
import logging

import onnx
import pytest

from understudy import registry
from understudy.errors import ArtifactRefused, NotFound
from understudy.records import Variant
from understudy.testing import tiny_artifact

CLASSES = ("red", "green", "blue")
INT8 = "model.int8.onnx"


@pytest.fixture
def publish(local_store, sqlite_catalog):
    """Publish the tiny model with an int8 variant that has these changes; gives its card."""

    def publish(**changes):
        artifact, card = tiny_artifact(CLASSES)
        graph = onnx.load_from_string(artifact)
        graph.doc_string = "as if in other numbers"
        other = graph.SerializeToString()
        made = Variant(
            name="int8",
            provider="cpu",
            artifact_key=f"models/{card.version}/{INT8}",
            artifact_sha256=hashlib.sha256(other).hexdigest(),
            artifact_bytes=len(other),
            probe=card.probe,
            tolerance=0.005,
        ).model_copy(update=changes)
        card = card.model_copy(update={"variants": (made,)})
        registry.publish(local_store, sqlite_catalog, card, artifact, b"weights", {"int8": other})
        return card

    return publish


@pytest.fixture
def choose(local_store, sqlite_catalog):
    """Choose a variant of a published version where these speeds were measured before."""

    def choose(card, **images_per_second):
        loaded = registry.load(local_store, sqlite_catalog, card.version, provider="cpu", threads=1)
        remembered = {registry.variant_key(loaded): dict(images_per_second)}
        return registry.choose_variant(local_store, loaded, num_lanes=2, seconds_each=0.0, remembered=remembered)

    return choose


def test_a_version_is_fetched_once_and_loaded_often(publish, local_store, sqlite_catalog):
    """File and card, for whoever loads more than one engine of it; a variant's file lies beside."""
    card = publish()

    artifact, fetched = registry.fetch(local_store, sqlite_catalog, card.version)

    assert fetched == card
    assert hashlib.sha256(artifact).hexdigest() == card.artifact_sha256
    other = registry.fetch_variant(local_store, card, "int8")
    assert hashlib.sha256(other).hexdigest() == card.variants[0].artifact_sha256
    loaded = registry.load(local_store, sqlite_catalog, card.version, provider="cpu", threads=1, variant="int8")
    assert loaded.variant == "int8"
    with pytest.raises(NotFound):
        registry.fetch(local_store, sqlite_catalog, "g0000-000000")
    with pytest.raises(ArtifactRefused, match="no fp16 variant: its card names none"):
        registry.fetch_variant(local_store, card, "fp16")


def test_the_faster_number_format_serves(publish, choose):
    """Where int8 is measured 5 % faster it serves; where it is not, fp32 does. Both speeds are told."""
    card = publish()

    engine, choice = choose(card, fp32=100.0, int8=150.0)
    assert (engine.variant, choice.variant) == ("int8", "int8")
    assert choice.images_per_second == {"fp32": 100.0, "int8": 150.0}

    engine, choice = choose(card, fp32=100.0, int8=104.0)
    assert (engine.variant, choice.variant) == ("fp32", "fp32")
    assert "int8 does 104 images/s here" in choice.reasons


def test_what_is_known_to_be_slower_is_not_loaded(publish, choose, local_store):
    """A swap on a machine where int8 loses does not read its file again."""
    card = publish()
    local_store.delete(card.variants[0].artifact_key)

    _, choice = choose(card, fp32=100.0, int8=70.0)

    assert choice.variant == "fp32"
    assert not any("not served" in reason for reason in choice.reasons)


def test_what_was_not_measured_before_is_measured(publish, local_store, sqlite_catalog):
    """And remembered, for the next version of the same architecture."""
    card = publish()
    loaded = registry.load(local_store, sqlite_catalog, card.version, provider="cpu", threads=1)
    remembered: dict[str, dict[str, float]] = {}

    _, choice = registry.choose_variant(local_store, loaded, num_lanes=2, seconds_each=0.0, remembered=remembered)

    assert set(choice.images_per_second) == {"fp32", "int8"}
    assert remembered == {registry.variant_key(loaded): choice.images_per_second}


def test_a_variant_that_lost_too_much_is_not_tried(publish, choose):
    """However fast it would be; the card's reason is told."""
    card = publish(reason="it loses 2.00% of accuracy on the holdout", artifact_key=None)

    engine, choice = choose(card, fp32=100.0, int8=500.0)

    assert (engine.variant, choice.variant) == ("fp32", "fp32")
    assert choice.reasons[0] == "int8 is not served: it loses 2.00% of accuracy on the holdout"


def test_a_variant_for_another_provider_is_not_tried(publish, choose):
    """fp16 is for CUDA; a CPU does not even load it."""
    card = publish(name="int8", provider="cuda")

    engine, choice = choose(card, fp32=100.0, int8=500.0)

    assert (engine.variant, choice.variant) == ("fp32", "fp32")


@pytest.mark.parametrize("fault", ["gone", "rotten"])
def test_a_variant_that_cannot_be_loaded_leaves_fp32_serving(publish, choose, local_store, caplog, fault):
    """A missing or damaged file costs speed, and is said."""
    card = publish()
    key = card.variants[0].artifact_key
    local_store.delete(key)
    if fault == "rotten":
        local_store.put(key, b"not a model")

    with caplog.at_level(logging.WARNING, "understudy.registry"):
        engine, choice = choose(card, fp32=100.0, int8=500.0)

    assert (engine.variant, choice.variant) == ("fp32", "fp32")
    assert "int8 is not served" in choice.reasons[0]
    assert "fp32 serves" in caplog.text
