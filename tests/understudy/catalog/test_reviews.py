"""Reviews in the catalog, on both engines: what counts, what joins the labeled set, and what goes with a bucket."""

import hashlib
from collections.abc import Callable

import pytest

from understudy.catalog import Catalog, buckets, label_sets, reviews, shards
from understudy.catalog.claims import Claim
from understudy.catalog.reviews import Decided
from understudy.catalog.tables import FingerprintRow
from understudy.errors import Conflict, NotFound
from understudy.records import ShardManifest
from understudy.review_records import Review, Verdict

TEACHER = "g0000-aaaaaa"


def sha(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def said(name: str, class_name: str | None = "a", label: str = "a", **fields: object) -> Decided:
    """A person says what an image is, that the teacher called ``label``."""
    verdict = Verdict.REJECT if class_name is None else Verdict.ACCEPT if class_name == label else Verdict.CORRECT
    return Decided(sha(name), verdict, class_name, TEACHER, label, 0.75, **fields)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def photos(
    catalog: Catalog,
    labeled_set: None,
    crown: Callable[[str], None],
    claimed_job: Callable[[], Claim],
    manifest_of: Callable[..., ShardManifest],
) -> str:
    """Twenty images in a bucket, a labeled set of the classes a and b, and a teacher; the key of the bucket's shard."""
    crown(TEACHER)
    manifest = manifest_of([f"x{n}" for n in range(20)])
    shards.seal(catalog, claimed_job(), manifest, list(range(20)))
    return manifest.key


def counting(catalog: Catalog) -> dict[str, str | None]:
    return {one.sha256: one.class_name for one in reviews.page(catalog, is_counting=True)}


def test_what_was_said_is_written_down_once(catalog: Catalog):
    """A double click is one review; another word, another person or another label is another; ids go on."""
    (first,) = reviews.add(catalog, [said("x1")], actor="key 1")
    (again,) = reviews.add(catalog, [said("x1")], actor="key 1")
    (theirs,) = reviews.add(catalog, [said("x1")], actor="key 2")
    (changed,) = reviews.add(catalog, [said("x1", "b")], actor="key 2")

    assert first == again
    assert (first.verdict, first.class_name, first.label, first.actor) == (Verdict.ACCEPT, "a", "a", "key 1")
    assert [one.id for one in reviews.page(catalog)] == [changed.id, theirs.id, first.id]
    assert reviews.counting(catalog, [sha("x1"), sha("x2")]) == {sha("x1"): changed}
    assert reviews.reviewed(catalog) == {sha("x1")}


def test_a_bulk_is_taken_whole_or_not_at_all(catalog: Catalog):
    """One image that is not there, or is human-labeled already, and nothing is written."""
    for wrong, error, code in (("nowhere", NotFound, "not_found"), ("a0", Conflict, "already_labeled")):
        with pytest.raises(error) as refused:
            reviews.add(catalog, [said("x1"), said(wrong)], actor="me")
        assert refused.value.code == code
    assert reviews.page(catalog) == []
    made = reviews.add(catalog, [said(f"x{n}") for n in (3, 1, 2)], actor="me")
    assert [one.sha256 for one in made] == [sha(f"x{n}") for n in (3, 1, 2)]


def test_undoing_restores_what_counted_before(catalog: Catalog):
    """In any order, and twice is once; what is not there undoes nothing."""
    (first,) = reviews.add(catalog, [said("x1")], actor="me")
    (second,) = reviews.add(catalog, [said("x1", "b")], actor="me")
    with pytest.raises(NotFound):
        reviews.undo(catalog, [second.id, 999])
    assert counting(catalog) == {sha("x1"): "b"}

    (undone,) = reviews.undo(catalog, [second.id])
    assert undone.undone_at is not None
    assert reviews.undo(catalog, [second.id, second.id]) == [undone]
    assert counting(catalog) == {sha("x1"): "a"}
    reviews.undo(catalog, [first.id])
    assert (counting(catalog), reviews.reviewed(catalog)) == ({}, set())

    (anew,) = reviews.add(catalog, [said("x1")], actor="me")
    assert anew.id not in (first.id, second.id)
    assert [one.id for one in reviews.page(catalog, is_counting=False)] == [second.id, first.id]


def test_many_at_once_write_one_review(catalog: Catalog, in_threads: Callable[..., list[object]]):
    """The same click in six requests at one moment."""
    made = in_threads(lambda _: reviews.add(catalog, [said("x1"), said("x2", "b")], actor="me"), 6)

    assert all(each == made[0] for each in made), made
    assert len(reviews.page(catalog)) == 2


def test_the_log_is_filtered_and_paged(catalog: Catalog):
    """By image, verdict and audit, the newest first."""
    reviews.add(catalog, [said("x1"), said("x2", "b"), said("x3", None)], actor="me")
    (audited,) = reviews.add(catalog, [said("x4", is_audit=True, audit_threshold=0.5)], actor="me")

    def names(found: list[Review]) -> list[str]:
        return [one.sha256 for one in found]

    assert names(reviews.page(catalog)) == [sha(name) for name in ("x4", "x3", "x2", "x1")]
    assert names(reviews.page(catalog, before=audited.id, limit=2)) == [sha("x3"), sha("x2")]
    assert names(reviews.page(catalog, sha256=sha("x2"))) == [sha("x2")]
    assert names(reviews.page(catalog, verdict=Verdict.REJECT)) == [sha("x3")]
    assert names(reviews.page(catalog, is_audit=True)) == [sha("x4")]
    assert len(reviews.page(catalog, is_audit=False)) == 3


def test_what_is_accepted_or_corrected_joins_the_labeled_set(catalog: Catalog, photos: str):
    """Rejected, undone, of a new class, labeled otherwise since, or near the holdout: these do not."""
    reviews.add(catalog, [said(f"x{n}") for n in range(8)], actor="me")
    reviews.add(catalog, [said("x1", "b"), said("x2", None), said("x3", "new", is_new_class=True)], actor="me")
    (undone,) = (one for one in reviews.page(catalog) if one.sha256 == sha("x4"))
    reviews.undo(catalog, [undone.id])
    with catalog.write() as session:
        session.add(FingerprintRow(sha256=sha("x5"), fingerprint=b"x", holdout_sha256=sha("frozen")))

    joining = {one.sha256: (one.class_name, one.shard) for one in reviews.joining(catalog)}

    assert joining == {sha(f"x{n}"): ("b" if n == 1 else "a", photos) for n in (0, 1, 6, 7)}
    assert shards.class_counts(catalog, "labeled") == {"a": 2, "b": 2}
    assert reviews.labeled_counts(catalog) == {"a": 5, "b": 3}
    no_pseudo_label = {sha(f"x{n}") for n in (0, 1, 2, 3, 5, 6, 7)}
    assert set(label_sets.labeled_later(catalog)) == no_pseudo_label
    assert no_pseudo_label | {sha("a0"), sha("b1")} <= shards.human_labeled(catalog)
    assert sha("x4") not in shards.human_labeled(catalog)


def test_an_image_that_is_labeled_otherwise_since_is_in_the_labeled_set_once(
    catalog: Catalog, claimed_job: Callable[[], Claim], manifest_of: Callable[..., ShardManifest]
):
    """What was sent with its class stands there; the review joins nothing any more."""
    reviews.add(catalog, [said("x1", "b")], actor="me")
    shards.seal(catalog, claimed_job(), manifest_of(["x1"], split="labeled", bucket=None), [0])

    assert reviews.joining(catalog) == []


def test_an_audit_counts_what_a_uniform_sample_says(catalog: Catalog):
    """Of that teacher, at least so confident, drawn from no higher a threshold; a later word of the image counts."""
    audit = {"is_audit": True, "audit_threshold": 0.5}
    reviews.add(
        catalog,
        [
            said("x1", **audit),
            said("x2", "b", **audit),
            said("x3", None, **audit),
            said("x4", is_audit=True, audit_threshold=0.7),
            said("x5"),
        ],
        actor="me",
    )

    assert reviews.audited(catalog, TEACHER, 0.5) == [("a", "a"), ("a", "b"), ("a", None)]
    assert len(reviews.audited(catalog, TEACHER, 0.7)) == 4
    assert reviews.audited(catalog, TEACHER, 0.8) == reviews.audited(catalog, "nobody", 0.5) == []
    reviews.add(catalog, [said("x2", "a")], actor="me")
    assert reviews.audited(catalog, TEACHER, 0.5) == [("a", "a"), ("a", "a"), ("a", None)]


def test_reviews_go_with_their_bucket(catalog: Catalog):
    """They are counted among what is removed, and nothing of them joins, whoever ingests the images again."""
    made = reviews.add(catalog, [said("x1"), said("x2", "b")], actor="me")
    reviews.undo(catalog, [made[0].id])
    assert buckets.extent(catalog, "shop").num_reviews == 2

    assert buckets.delete_bucket(catalog, "shop", actor="me").num_reviews == 2

    assert (reviews.page(catalog), reviews.joining(catalog)) == ([], [])
    with pytest.raises(NotFound):
        reviews.undo(catalog, [made[1].id])
