import pytest

from understudy import shards
from understudy.catalog import generations, jobs
from understudy.catalog import shards as sealed
from understudy.records import JobKind, JobState
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


def test_a_later_holdout_may_not_hold_what_a_student_may_have_learned_from(
    resources, send, send_labeled, unpacked, pack_zip, champion
):
    """Once there is a champion, an image of a bucket is refused as holdout, and so is its whole set."""
    seen = images(0, 1)[0]
    unpacked(send(seen))
    labeled = pack_zip(folders(cat=images(0, 4, start=50), dog=images(1, 4, start=50)))
    frozen = pack_zip(folders(cat=[seen], dog=images(1, 1, start=90)))
    refused = unpacked(send_labeled(labeled, ("holdout", frozen)))
    assert (refused.state, refused.problem.code) == (JobState.FAILED, "may_have_trained")
