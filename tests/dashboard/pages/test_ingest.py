"""What the ingest page says, as it is computed."""

from dashboard.pages.ingest import consequences, parts_of
from understudy.records import Recall


def test_the_parts_of_a_receipt_sum_to_its_entries():
    """What there is none of is left out, but for the two that everybody looks for."""
    result = {"entries": 10, "accepted": 0, "duplicate": 7, "holdout-leak": 3, "quarantined": 0, "attached": 0}
    parts = parts_of(result | {"reasons": {}, "receipt_key": "k"})
    assert {name: number for name, (number, _) in parts.items()} == {
        "accepted": 0,
        "there already": 7,
        "in the holdout": 3,
        "quarantined": 0,
    }


def test_deleting_a_bucket_says_which_models_learned_from_it():
    """Or that none did."""
    recall = Recall(
        bucket="b", dry_run=True, num_images=2, num_shards=1, num_bytes=10_000, num_label_sets=1, num_jobs=1, num_reviews=3,
        models=("g0001-aaaaaa",), descendants=("g0002-bbbbbb",),
    )  # fmt: skip
    said = " ".join(consequences(recall))
    assert "2 images in 1 shard (10.0 kB) and 1 label set" in said
    assert "3 reviews" in said
    assert "1 job" in said
    assert "g0001-aaaaaa" in said
    assert "g0002-bbbbbb" in said
    assert consequences(recall.model_copy(update={"models": (), "descendants": ()}))[-1].startswith("No model")
