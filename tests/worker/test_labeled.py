import hashlib
import json

import pytest

from understudy import labels, shards
from understudy.catalog import generations, jobs
from understudy.catalog import shards as sealed
from understudy.records import GenerationRequest, JobKind, JobState, Outcome, Problem
from understudy.store import generation_key, selection_key
from understudy.testing import picture
from worker.unpack import unpack


def images(class_index: int, count: int, *, start: int = 0) -> list[bytes]:
    return [picture(class_index, 3, seed=start + n, size=8) for n in range(count)]


def folders(**classes: list[bytes]) -> dict[str, bytes]:
    return {f"data/{name}/{n}.png": data for name, datas in classes.items() for n, data in enumerate(datas)}


@pytest.fixture
def send_labeled(send):
    def send_labeled(*uploads, fraction=0.25, request=None):
        params = {"holdout_fraction": fraction, "request": request or {}}
        sent = [upload if isinstance(upload, tuple) else ("labeled", upload) for upload in uploads]
        return send(*sent, kind=JobKind.LABELED, bucket=None, **params)

    return send_labeled


@pytest.fixture
def unpacked(resources):
    def unpacked(job):
        unpack(resources, job.id)
        return jobs.get(resources.catalog, job.id)

    return unpacked


def in_shards(resources, split):
    """(class, sha256) of every image of a split."""
    listed = [shards.read_manifest(resources.store, s.key) for s in sealed.of_split(resources.catalog, split)]
    return sorted((m.class_name, m.sha256) for manifest in listed for m in manifest.members)


def test_a_labeled_set_is_split_and_opens_generation_0(resources, send_labeled, unpacked, pack_zip):
    """A part of each class is frozen; the request goes to the generation."""
    done = unpacked(send_labeled(pack_zip(folders(cat=images(0, 4), dog=images(1, 8))), request={"seed": 7}))
    assert done.state is JobState.SUCCEEDED
    assert done.result["classes"] == {"cat": {"labeled": 3, "holdout": 1}, "dog": {"labeled": 6, "holdout": 2}}
    assert done.result["generation"] == 0
    assert generations.get(resources.catalog, 0).request.seed == 7
    assert sealed.class_counts(resources.catalog, "holdout") == {"cat": 1, "dog": 2}
    assert not set(in_shards(resources, "holdout")) & set(in_shards(resources, "labeled"))


def test_a_holdout_that_was_sent_is_the_holdout(resources, send_labeled, unpacked, pack_zip):
    """And an image of it among the labeled is a leak."""
    frozen = folders(cat=images(0, 1), dog=images(1, 1))
    done = unpacked(
        send_labeled(
            pack_zip(folders(cat=images(0, 3), dog=images(1, 2, start=5))), ("holdout", pack_zip(frozen)), fraction=0.5
        )
    )
    assert done.result["classes"] == {"cat": {"labeled": 2, "holdout": 1}, "dog": {"labeled": 2, "holdout": 1}}
    assert done.result["holdout-leak"] == 1
    assert done.result["accepted"] == 6


def test_a_second_set_adds_to_the_first(resources, send_labeled, unpacked, pack_zip):
    """Known images are duplicates, frozen ones leaks; no second generation is opened."""
    first = pack_zip(folders(cat=images(0, 4), dog=images(1, 4)))
    unpacked(send_labeled(first))
    done = unpacked(
        send_labeled(pack_zip(folders(cat=images(0, 6)) | {"data/dog/x.png": images(1, 1)[0]}), fraction=0.0)
    )
    assert done.state is JobState.SUCCEEDED, done.problem
    assert done.result["generation"] is None
    assert done.result["accepted"] == 2
    assert done.result["duplicate"] + done.result["holdout-leak"] == 5
    assert sealed.class_counts(resources.catalog, "labeled") == {"cat": 5, "dog": 3}


def test_the_holdout_is_frozen_by_the_first_set_and_left_alone_by_later_ones(
    resources, send_labeled, unpacked, pack_zip
):
    """Unless a fraction is asked for: 0.2 of the first set, nothing of the next."""
    unpacked(send_labeled(pack_zip(folders(cat=images(0, 10), dog=images(1, 10))), fraction=None))
    assert sealed.class_counts(resources.catalog, "holdout") == {"cat": 2, "dog": 2}
    later = folders(cat=images(0, 10, start=50), dog=images(1, 10, start=50))
    assert unpacked(send_labeled(pack_zip(later), fraction=None)).state is JobState.SUCCEEDED
    assert sealed.class_counts(resources.catalog, "holdout") == {"cat": 2, "dog": 2}
    assert sealed.class_counts(resources.catalog, "labeled") == {"cat": 18, "dog": 18}


def test_a_human_label_outranks_a_bucket(resources, send, send_labeled, unpacked, pack_zip, receipt_of):
    """An image that is in a bucket is new to the labeled set; a frozen one is refused by a bucket."""
    unpack(resources, send(images(0, 1)[0]).id)
    done = unpacked(send_labeled(pack_zip(folders(cat=images(0, 2), dog=images(1, 2)))))
    assert done.result["accepted"] == 4
    again = send(pack_zip(folders(all=images(1, 2))))
    unpack(resources, again.id)
    assert sorted(line.outcome.value for line in receipt_of(again)) == ["duplicate", "holdout-leak"]


CAT, DOG = images(0, 4), images(1, 4)


@pytest.mark.parametrize(
    ("labeled", "holdout", "fraction", "code", "named"),
    [
        (folders(cat=CAT), None, 0.2, "one_class", "cat"),
        ({"1.png": CAT[0], "2.png": DOG[0]}, None, 0.2, "one_class", "folder"),
        (folders(cat=CAT, dog=DOG, empty=[b"no image"]), None, 0.2, "empty_class", "empty"),
        (folders(cat=CAT, dog=DOG) | {"data/empty/": b""}, None, 0.2, "empty_class", "empty"),
        (folders(cat=CAT, dog=[*DOG, CAT[0]]), None, 0.2, "contradicting_labels", "data/dog/4.png"),
        (folders(cat=CAT, dog=DOG[:1]), None, 0.2, "too_few_images", "dog"),
        (folders(cat=CAT, dog=DOG), None, 0.0, "class_without_holdout", "cat"),
        (folders(cat=CAT[:2], dog=DOG), folders(cat=CAT[2:]), 0.2, "class_without_holdout", "dog"),
        (folders(cat=CAT[:2]), folders(cat=CAT[2:], dog=DOG), 0.2, "class_without_labels", "dog"),
        (folders(cat=CAT[:1], dog=DOG), folders(cat=DOG[:1]), 0.2, "contradicting_labels", "DOG"),
        (folders(**{"c" * 300: CAT, "dog": DOG}), None, 0.2, "bad_class_name", "300"),
    ],
)  # fmt: skip
def test_a_set_that_cannot_be_used_is_refused_as_a_whole(
    labeled, holdout, fraction, code, named, resources, send_labeled, unpacked, pack_zip
):
    """With a code and the name of what is wrong; nothing is sealed."""
    uploads = [pack_zip(labeled)] + ([("holdout", pack_zip(holdout))] if holdout else [])
    done = unpacked(send_labeled(*uploads, fraction=fraction))
    assert (done.state, done.problem.code) == (JobState.FAILED, code)
    assert named.lower() in done.problem.detail.lower()
    assert resources.store.list("") == []
    assert generations.every(resources.catalog) == []


def test_a_class_that_no_model_knows_is_refused(send_labeled, unpacked, pack_zip):
    """Once there is a labeled set, its classes are the classes."""
    unpacked(send_labeled(pack_zip(folders(cat=CAT, dog=DOG))))
    done = unpacked(send_labeled(pack_zip(folders(cat=images(0, 3, start=9), bird=images(2, 3)))))
    assert done.problem.code == "unknown_class"
    assert "bird" in done.problem.detail


def test_folders_that_only_group_are_no_classes(send_labeled, unpacked, pack_zip):
    """The nearest folder is the class; junk is none."""
    files = {
        "set/": b"",
        "set/README.md": b"words",
        "set/cat/": b"",
        "__MACOSX/set/cat/._0.png": b"x",
        ".DS_Store": b"",
    }
    files |= {
        f"set/{name}/{n}.png": data for name, datas in (("cat", CAT), ("dog", DOG)) for n, data in enumerate(datas)
    }
    done = unpacked(send_labeled(pack_zip(files)))
    assert done.state is JobState.SUCCEEDED, done.problem
    assert sorted(done.result["classes"]) == ["cat", "dog"]
    assert done.result["reasons"] == {"not_an_image": 3}


def test_images_without_a_folder_have_no_class(send_labeled, unpacked, pack_zip):
    """They are quarantined; the others are taken."""
    done = unpacked(send_labeled(pack_zip(folders(cat=CAT, dog=DOG) | {"stray.png": images(2, 1)[0]})))
    assert done.result["reasons"] == {"no_class": 1}


def test_an_archive_that_cannot_be_opened_refuses_the_set(send_labeled, unpacked, pack_zip):
    """Even beside a good one: a labeled set is taken whole or not at all."""
    done = unpacked(send_labeled(pack_zip(folders(cat=CAT, dog=DOG)), ("holdout", b"no archive")))
    assert done.problem.code == "not_an_archive"


@pytest.mark.parametrize("is_holdout_sent", [False, True])
@pytest.mark.parametrize("num_writes", range(1, 70, 2))
def test_killed_at_any_write_and_begun_again_it_gives_the_same_split(
    num_writes, is_holdout_sent, resources, send_labeled, pack_zip, receipt_of, lapse_leases, run_with_fuse
):
    """The receipt, the holdout and the generation are those of an attempt that nobody killed."""
    files = folders(cat=CAT, dog=[*DOG, DOG[0]])
    holdout = [("holdout", pack_zip(folders(cat=CAT[:1], dog=images(1, 1, start=50))))] if is_holdout_sent else []
    job = send_labeled(pack_zip(files), *holdout)
    if run_with_fuse(num_writes, lambda mortal: unpack(mortal, job.id)):
        lapse_leases(resources.catalog)
        unpack(resources, job.id)
    else:
        assert num_writes > 20

    done = jobs.get(resources.catalog, job.id)
    assert done.state is JobState.SUCCEEDED, done.problem
    expected = {"cat": {"labeled": 3, "holdout": 1}, "dog": {"labeled": 4 if is_holdout_sent else 3, "holdout": 1}}
    assert done.result["classes"] == expected
    leaks = 1 if is_holdout_sent else 0
    assert (done.result["duplicate"], done.result["holdout-leak"]) == (1, leaks)
    if not is_holdout_sent:
        assert [sha for name, sha in in_shards(resources, "holdout")] == [
            min(sha for _, _, sha in group) for group in _by_class(receipt_of(job))
        ]
    inside = in_shards(resources, "holdout") + in_shards(resources, "labeled")
    assert len(inside) == len(set(inside)) == done.result["accepted"]
    assert [g.number for g in generations.every(resources.catalog)] == [0]


def _by_class(lines):
    named = [(line.name.split("/")[1], line.index, line.sha256) for line in lines]
    return [[each for each in named if each[0] == name] for name in ("cat", "dog")]


def test_a_labeled_set_that_breaks_off_is_refused_as_a_whole(resources, send_labeled, unpacked, pack_tar):
    """A part of a set would be frozen as if it were the whole; sent whole, it is taken."""
    whole = pack_tar(folders(cat=images(0, 6), dog=images(1, 6)))
    cut = unpacked(send_labeled(whole[: len(whole) * 6 // 10]))
    assert (cut.state, cut.problem.code) == (JobState.FAILED, "truncated_archive")
    assert in_shards(resources, "holdout") == []
    assert unpacked(send_labeled(whole)).state is JobState.SUCCEEDED


@pytest.fixture
def two_of_a_bucket(send, send_labeled, unpacked, pack_zip, champion):
    """A labeled set, and a bucket of two images while a champion serves."""
    first, second = sorted(images(0, 2), key=sha256_of)
    assert unpacked(send(first, second)).result["accepted"] == 2
    labeled = pack_zip(folders(cat=images(0, 4, start=50), dog=images(1, 4, start=50)))
    assert unpacked(send_labeled(labeled)).state is JobState.SUCCEEDED
    return first, second


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def select_alone(resources, data):
    """A generation whose student learned from one image, and was of no use."""
    generation = generations.open_generation(resources.catalog, GenerationRequest())
    rows = labels.table_to_parquet(labels.table({"sha256": [sha256_of(data)]}, sha256="string"))
    digest = sha256_of(rows)
    resources.store.put(selection_key(generation.number, digest), rows)
    resources.store.put(
        generation_key(generation.number, "selection.json"), json.dumps({"rows_sha256": digest}).encode()
    )
    claim = generations.claim(resources.catalog, lease_s=60)
    jobs.fail(resources.catalog, claim, Problem(code="test", detail="it was of no use"))


def test_a_holdout_takes_what_no_student_learned_from(
    resources, two_of_a_bucket, send_labeled, unpacked, pack_zip, receipt_of
):
    """An image of a bucket that a generation selected is left out, and its line names the generation."""
    first, second = two_of_a_bucket
    select_alone(resources, first)

    sent = unpacked(send_labeled(("holdout", pack_zip(folders(cat=[first, second])))))

    assert sent.state is JobState.SUCCEEDED
    left_out, taken = sorted(receipt_of(sent), key=lambda line: line.sha256)
    assert (left_out.outcome, taken.outcome) == (Outcome.HOLDOUT_LEAK, Outcome.ACCEPTED)
    assert "the student of generation 0 learned from it" in left_out.detail
    frozen = {sha256 for _, sha256 in in_shards(resources, "holdout")}
    assert {sha256_of(first), sha256_of(second)} & frozen == {sha256_of(second)}


def test_a_share_is_frozen_of_what_no_student_learned_from(
    resources, two_of_a_bucket, send_labeled, unpacked, pack_zip
):
    """Of a later set whose first image by sha-256 taught a student, the second is frozen instead."""
    first, second = two_of_a_bucket
    select_alone(resources, first)

    sent = unpacked(send_labeled(pack_zip(folders(cat=[first, second])), fraction=0.5))

    assert sent.state is JobState.SUCCEEDED
    assert ("cat", sha256_of(first)) in in_shards(resources, "labeled")
    assert ("cat", sha256_of(second)) in in_shards(resources, "holdout")


def test_while_a_generation_chooses_no_image_of_a_bucket_joins_the_holdout(
    resources, two_of_a_bucket, send_labeled, unpacked, pack_zip, receipt_of
):
    """What it will learn from is not known yet. An image of no bucket is taken all the same."""
    generations.open_generation(resources.catalog, GenerationRequest())
    (new,) = images(0, 1, start=80)

    sent = unpacked(send_labeled(("holdout", pack_zip(folders(cat=[*two_of_a_bucket, new])))))

    assert sent.state is JobState.SUCCEEDED
    assert [line.sha256 for line in receipt_of(sent) if line.outcome is Outcome.ACCEPTED] == [sha256_of(new)]


def test_a_generation_that_is_opened_while_a_holdout_is_read_refuses_it(
    resources, two_of_a_bucket, send_labeled, unpacked, pack_zip, monkeypatch
):
    """It has been looked through when the generation opens: nothing is sealed, and the same is taken afterwards."""
    sent, before = (
        send_labeled(("holdout", pack_zip(folders(cat=list(two_of_a_bucket))))),
        in_shards(resources, "holdout"),
    )
    seal = sealed.seal

    def opened_first(catalog, *args):
        generations.open_generation(catalog, GenerationRequest())
        return seal(catalog, *args)

    monkeypatch.setattr(sealed, "seal", opened_first)
    refused = unpacked(sent)

    assert (refused.state, refused.problem.code) == (JobState.FAILED, "may_have_trained")
    assert in_shards(resources, "holdout") == before
    monkeypatch.undo()
    claim = generations.claim(resources.catalog, lease_s=60)
    jobs.fail(resources.catalog, claim, Problem(code="test", detail="ended"))
    again = unpacked(send_labeled(("holdout", pack_zip(folders(cat=list(two_of_a_bucket))))))
    assert again.result["accepted"] == 2
