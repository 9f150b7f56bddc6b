import hashlib
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from understudy import shards
from understudy.catalog import Catalog, jobs
from understudy.catalog import shards as sealed
from understudy.records import JobKind, JobState, Outcome
from worker.checkers import Checkers
from worker.resources import Resources
from worker.unpack import unpack


def photo(seed: int) -> Image.Image:
    """Something with shapes in it, and different for every seed."""
    random, layers = np.random.default_rng(seed), np.zeros((96, 128, 3))
    for side in (3, 6, 12, 24, 48):  # coarse shapes strong and fine ones weak, as in photographs
        noise = Image.fromarray(random.integers(0, 256, size=(side, side, 3), dtype=np.uint8))
        layers += np.asarray(noise.resize((128, 96), Image.Resampling.BICUBIC)) / side**0.5
    return Image.fromarray((layers * 255 / layers.max()).astype(np.uint8))


def saved(image: Image.Image, image_format: str = "PNG", **how: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **how)
    return buffer.getvalue()


PHOTOS = [photo(seed) for seed in range(12)]
ORIGINALS = [saved(image) for image in PHOTOS]
COPIES = [saved(image.resize((90, 68)), "JPEG", quality=60) for image in PHOTOS]


@pytest.fixture
def unpacked(resources, send):
    def unpacked(*uploads, **options):
        job = send(*uploads, **options)
        unpack(resources, job.id)
        return jobs.get(resources.catalog, job.id)

    return unpacked


@pytest.fixture
def send_labeled(unpacked, pack_zip):
    """Folders of images, and the part of them that is frozen: some, or those that are sent as the holdout."""

    def send_labeled(labeled, holdout=None, fraction=0.0):
        packed = [
            (split, pack_zip({f"{name}/{n}.png": data for name, some in part.items() for n, data in enumerate(some)}))
            for split, part in (("labeled", labeled), ("holdout", holdout))
            if part
        ]
        return unpacked(*packed, kind=JobKind.LABELED, bucket=None, holdout_fraction=fraction, request={})

    return send_labeled


LABELED = {"cat": ORIGINALS[:2], "dog": ORIGINALS[2:4]}
HOLDOUT = {"cat": [ORIGINALS[4]], "dog": [ORIGINALS[5]]}


def inside(resources, split="unlabeled"):
    listed = [shards.read_manifest(resources.store, each.key) for each in sealed.of_split(resources.catalog, split)]
    return sorted(member.sha256 for manifest in listed for member in manifest.members)


def test_near_copies_are_kept_and_marked(unpacked, receipt_of, pack_zip):
    """With the image that they resemble: of the same shard, of an earlier one, and of another job."""
    files = [ORIGINALS[0], COPIES[0], ORIGINALS[1], ORIGINALS[2], COPIES[1], ORIGINALS[3]]
    first = unpacked(pack_zip({f"{n}.png": data for n, data in enumerate(files)}))
    lines = receipt_of(first)
    assert [line.outcome for line in lines] == [Outcome.ACCEPTED] * 6
    assert [line.resembles for line in lines] == [None, lines[0].sha256, None, None, lines[2].sha256, None]
    assert lines[1].detail == f"it resembles entry 0 of job {first.id}"
    assert first.result["near_duplicates"] == 2
    other = unpacked(COPIES[2])
    (line,) = receipt_of(other)
    assert (line.outcome, line.resembles) == (Outcome.ACCEPTED, lines[3].sha256)


def test_a_duplicate_names_its_first_copy(unpacked, receipt_of, pack_zip):
    """For programs, as job/index: in the same upload, and in another."""
    first = unpacked(pack_zip({"a": ORIGINALS[0], "b": ORIGINALS[0]}))
    second = unpacked(ORIGINALS[0])
    assert receipt_of(first)[1].copy_of == receipt_of(second)[0].copy_of == f"{first.id}/0"


def test_no_near_copy_of_a_holdout_image_gets_into_a_bucket(resources, unpacked, send_labeled, receipt_of, pack_zip):
    """It is a leak, as an exact one is, and its line names what it resembles."""
    assert send_labeled(LABELED, HOLDOUT).state is JobState.SUCCEEDED
    lines = receipt_of(unpacked(pack_zip({"a": ORIGINALS[4], "b": COPIES[4], "c": COPIES[0], "d": ORIGINALS[6]})))
    assert [line.outcome.value for line in lines] == ["holdout-leak", "holdout-leak", "accepted", "accepted"]
    assert lines[1].resembles == lines[0].sha256
    assert inside(resources) == sorted([lines[2].sha256, lines[3].sha256])


def test_no_near_copy_of_a_holdout_image_gets_into_the_labeled_set(resources, send_labeled, receipt_of):
    """Neither in the upload that brings the holdout, nor later."""
    first = send_labeled({"cat": [*ORIGINALS[:2], COPIES[4]], "dog": ORIGINALS[2:4]}, HOLDOUT)
    assert [line.outcome.value for line in receipt_of(first)] == [
        "accepted", "accepted", "holdout-leak", "accepted", "accepted", "accepted", "accepted",
    ]  # fmt: skip
    later = send_labeled({"cat": [COPIES[5], ORIGINALS[7]], "dog": [ORIGINALS[8]]})
    assert [line.outcome.value for line in receipt_of(later)] == ["holdout-leak", "accepted", "accepted"]
    assert later.result["classes"]["cat"] == {"labeled": 1, "holdout": 0}


def test_a_part_that_is_frozen_leaves_no_copy_of_it_to_train(resources, send_labeled, receipt_of):
    """Whichever of a pair is frozen, the other does not train."""
    done = send_labeled({"cat": [*ORIGINALS[:4], *COPIES[:4]], "dog": ORIGINALS[6:10]}, fraction=0.25)
    frozen, labeled = inside(resources, "holdout"), inside(resources, "labeled")
    lines = {line.sha256: line for line in receipt_of(done)}
    leaks = [line for line in lines.values() if line.outcome is Outcome.HOLDOUT_LEAK]
    assert {line.resembles for line in leaks} <= set(frozen)
    pairs = list(zip(list(lines)[:4], list(lines)[4:8], strict=True))
    crossing = [pair for pair in pairs if set(pair) & set(frozen) and set(pair) & set(labeled)]
    assert (len(frozen), crossing) == (3, [])


def test_what_is_frozen_later_must_not_resemble_what_trains(send_labeled, receipt_of):
    """The copy that came first stays where it is; the new one is not frozen."""
    send_labeled(LABELED, HOLDOUT)
    later = send_labeled({}, {"cat": [COPIES[0], ORIGINALS[9]], "dog": [ORIGINALS[10]]})
    assert [line.outcome.value for line in receipt_of(later)] == ["holdout-leak", "accepted", "accepted"]
    assert "an image that trains" in receipt_of(later)[0].detail


def test_an_image_of_a_bucket_that_a_later_holdout_resembles_does_not_train(resources, unpacked, send_labeled):
    """It is there already, and stays; no pseudo-label of it is selected."""
    unpacked(COPIES[4], ORIGINALS[6])
    copy, other = (hashlib.sha256(data).hexdigest() for data in (COPIES[4], ORIGINALS[6]))
    send_labeled(LABELED, HOLDOUT)
    barred = sealed.human_labeled(resources.catalog)
    assert copy in barred
    assert other not in barred
    assert copy in inside(resources)


def test_clients_at_once_with_near_copies_and_leaks(catalog, local_store, worker_settings, pack_zip, send_to, checkers):
    """On both databases: each image once, every copy of the holdout refused, and the outcomes sum up."""
    url = catalog._engine.url.render_as_string(hide_password=False)
    own = [
        Resources(
            Catalog(url), local_store, worker_settings, lambda task, work_id: None, checkers if not n else Checkers(1)
        )
        for n in range(2)
    ]
    labeled = [
        (split, pack_zip({f"{name}/{n}.png": data for name, some in part.items() for n, data in enumerate(some)}))
        for split, part in (("labeled", LABELED), ("holdout", HOLDOUT))
    ]
    first = send_to(own[0], *labeled, kind=JobKind.LABELED, bucket=None, request={})
    unpack(own[0], first.id)
    files = [ORIGINALS[6], COPIES[6], COPIES[4], ORIGINALS[7], ORIGINALS[5], COPIES[7]]
    sent = [send_to(r, pack_zip({f"{n}": data for n, data in enumerate(files)})) for r in own]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda pair: unpack(pair[0], pair[1].id), zip(own, sent, strict=True)))
    results = [jobs.get(catalog, job.id).result for job in sent]
    assert [(r["entries"], r["holdout-leak"], r["quarantined"]) for r in results] == [(6, 2, 0)] * 2
    assert sum(r["accepted"] for r in results) == 4 == len(set(inside(own[0])))
    assert sum(r["duplicate"] for r in results) == 4
    own[1].checkers.close()
    for each in own:
        each.catalog.close()


def test_many_copies_are_compared_with_one(resources, unpacked, receipt_of, send_labeled, pack_zip):
    """The first stands for all of them; a holdout that resembles it bars all of them from training."""
    copies = [saved(PHOTOS[4].resize((100 + n, 75 + n)), "JPEG", quality=70) for n in range(6)]
    job = unpacked(pack_zip({f"{n}": data for n, data in enumerate([*copies, ORIGINALS[6]])}))
    lines = receipt_of(job)
    assert {line.resembles for line in lines[1:6]} == {lines[0].sha256}
    send_labeled(LABELED, HOLDOUT)
    barred = sealed.human_labeled(resources.catalog)
    assert {line.sha256 for line in lines[:6]} <= barred
    assert lines[6].sha256 not in barred


def test_a_copy_that_becomes_a_holdout_image_is_found_by_itself(unpacked, send_labeled, receipt_of):
    """Though another stood for it in its bucket."""
    unpacked(COPIES[4], ORIGINALS[4])
    assert send_labeled(LABELED, HOLDOUT).state is JobState.SUCCEEDED
    again = unpacked(saved(PHOTOS[4], "JPEG", quality=50))
    assert receipt_of(again)[0].outcome is Outcome.HOLDOUT_LEAK
