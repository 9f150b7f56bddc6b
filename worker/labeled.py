"""The unpack job of a labeled set: folders are classes, and a part is frozen as the holdout.

First everything is looked at, and the set is refused as a whole if it cannot make a training set and a
holdout; only then is anything sealed. How a class is named is the sender's business; what an archive is,
others know.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from understudy import lineage
from understudy.catalog import fingerprints, generations, jobs, shards
from understudy.catalog.claims import Claim
from understudy.catalog.shards import Known
from understudy.errors import LabeledSetRefused
from understudy.fingerprints import Fingerprints
from understudy.images import Facts
from understudy.records import GenerationRequest, Job, Outcome, ReceiptEntry, ShardMember, Upload
from worker import candidates, entries, uploads
from worker.candidates import Candidate, Found, Unused
from worker.entries import Folder
from worker.receipts import Receipt, is_own, place
from worker.resources import Resources
from worker.sealing import Sealer
from worker.uploads import Numbered

Split = Literal["labeled", "holdout"]

#: As long as the catalog's column.
MAX_CLASS_CHARACTERS = 255
#: Of each class of the first labeled set, if nobody said otherwise.
DEFAULT_HOLDOUT_FRACTION = 0.2
#: Entries between two signs of progress.
PROGRESS_ENTRIES = 64


@dataclass(frozen=True)
class _Image:
    """What is remembered of an image between the walks: all but its bytes."""

    index: int
    name: str
    sha256: str
    class_name: str
    split: Split  #: as sent; after the split, where it is put
    facts: Facts
    fingerprint: bytes


@dataclass
class _Findings:
    """What the first walk found."""

    images: list[_Image] = field(default_factory=list)
    lines: list[ReceiptEntry] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)  #: paths


def unpack_labeled(resources: Resources, claim: Claim, job: Job, folder: Path) -> None:
    """Run the job to its end. Raises LabeledSetRefused or ArchiveRefused before anything is sealed, and LeaseLost."""
    sent = uploads.of_job(job)

    # 1. Look at everything.
    findings = _look(resources, claim, sent)

    _refuse_parts(findings)

    with closing(Receipt(folder)) as receipt:
        _take(resources, claim, job, folder, findings, receipt)


def _take(resources: Resources, claim: Claim, job: Job, folder: Path, findings: _Findings, receipt: Receipt) -> None:
    """All that comes after looking."""
    sent = uploads.of_job(job)

    # 2. Which images are new.
    known = _known(resources, findings)
    before = _Before.of(resources, known, job.id)
    new = _judge(findings, known, job.id, receipt)
    learned = _learned(resources, shards.known(resources.catalog, {image.sha256 for image in new}))

    # 3. Refuse the set as a whole, while nothing is sealed.
    _refuse_folders(findings)
    _refuse_classes(new, before)
    if not any(upload.split == "holdout" for upload in sent):
        new = _split(new, known, learned, before, fraction=_fraction(job, before))
    _refuse_halves(new, before)

    new = _without_leaks(resources, new, job.id, known, learned, receipt)
    _refuse_halves(new, before)

    # 4. Seal, the holdout first: an image of it must never be in a labeled shard before it is known as frozen.
    for split in ("holdout", "labeled"):
        chosen = {image.index: image for image in new if image.split == split and image.sha256 not in known}
        _seal(resources, claim, sent, folder, receipt, split, chosen)

    # 5. The receipt, and with it the end; the first labeled set also opens generation 0.
    _finish(resources, claim, job, receipt, new)


def _look(resources: Resources, claim: Claim, sent: list[Upload]) -> _Findings:
    total, findings = uploads.count(resources.store, sent), _Findings()
    num_done = 0
    for item in candidates.check(resources.checkers, _checking(claim, uploads.walk(resources.store, sent))):
        if isinstance(item, Folder):
            findings.folders.add(_path(item.name))
            continue
        _note(findings, item)
        num_done += 1
        if num_done % PROGRESS_ENTRIES == 0:
            jobs.progress(resources.catalog, claim, "unpack", num_done, total)
    return findings


def _checking(claim: Claim, found: Iterable[Numbered | Folder]) -> Iterator[Numbered | Folder]:
    for item in found:
        claim.check()
        yield item


def _note(findings: _Findings, checked: Found) -> None:
    name = checked.line.name if isinstance(checked, Unused) else checked.name
    if entries.folder_of(name) and not entries.is_junk(name):
        findings.folders.add(_path(name, is_file=True))
    if isinstance(checked, Unused):
        findings.lines.append(checked.line)
    elif not checked.folder:
        detail = "a labeled image lies in a folder that names its class; this one lies in none"
        findings.lines.append(candidates.quarantined(checked.index, checked.name, "no_class", detail))
    else:
        split: Split = "holdout" if checked.split == "holdout" else "labeled"
        image = _Image(
            checked.index, checked.name, checked.sha256, checked.folder, split, checked.facts, checked.fingerprint
        )
        findings.images.append(image)


def _refuse_parts(findings: _Findings) -> None:
    """A part of a set would be frozen as if it were the whole."""
    if broken := next((line for line in findings.lines if line.name == entries.REST_OF_ARCHIVE), None):
        raise LabeledSetRefused(
            f"{broken.name!r}: {broken.detail}; a labeled set is taken whole or not at all, so send it again",
            code=broken.reason,
        )


def _learned(resources: Resources, found: dict[str, Known]) -> dict[str, int]:
    """Those of these images that are in buckets and that a student may have learned from, and in which generation."""
    unlabeled = [sha256 for sha256, known in found.items() if known.split == "unlabeled"]
    return lineage.learned(resources.catalog, resources.store, unlabeled, spool=resources.settings.spool)


def _path(name: str, *, is_file: bool = False) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    return str(path.parent if is_file else path)


def _known(resources: Resources, findings: _Findings) -> dict[str, Known]:
    """Where a human has labeled these already. One that is in a bucket only is new: a human label outranks."""
    found = shards.known(resources.catalog, {image.sha256 for image in findings.images})
    return {sha256: known for sha256, known in found.items() if known.split != "unlabeled"}


@dataclass(frozen=True)
class _Before:
    """How many images of each class other jobs have sealed."""

    labeled: Counter[str]
    holdout: Counter[str]

    @classmethod
    def of(cls, resources: Resources, known: dict[str, Known], job_id: str) -> "_Before":
        """What is in the catalog, less what an earlier attempt at this job has put there."""
        own = Counter((k.split, k.class_name) for k in known.values() if k.job_id == job_id)

        def others(split: str) -> Counter[str]:
            counts = shards.class_counts(resources.catalog, split)
            return Counter({name: n - own[split, name] for name, n in counts.items() if n > own[split, name]})

        return cls(others("labeled"), others("holdout"))


def _judge(findings: _Findings, known: dict[str, Known], job_id: str, receipt: Receipt) -> list[_Image]:
    """Write the lines so far; gives the images that are new: first in the upload, and labeled by no other job."""
    new = []
    for line in findings.lines:
        receipt.write(line)
    frozen = {image.sha256 for image in findings.images if image.split == "holdout"}
    first: dict[tuple[str, Split], _Image] = {}
    class_of: dict[str, _Image] = {}
    for image in findings.images:
        _refuse_contradiction(class_of.setdefault(image.sha256, image), image)
        earlier = first.setdefault((image.sha256, image.split), image)
        line = _line(image, known.get(image.sha256), job_id, earlier, is_frozen=image.sha256 in frozen)
        receipt.write(line)
        if line.outcome is Outcome.ACCEPTED:
            new.append(image)
    return new


def _refuse_contradiction(one: _Image, other: _Image) -> None:
    if one.class_name != other.class_name:
        raise LabeledSetRefused(
            f"{one.name!r} and {other.name!r} are the same image under two classes, "
            f"{one.class_name!r} and {other.class_name!r}; remove one of them",
            code="contradicting_labels",
        )


def _line(image: _Image, known: Known | None, job_id: str, earlier: _Image, *, is_frozen: bool) -> ReceiptEntry:
    def line(outcome: Outcome, detail: str | None = None, copy_of: str | None = None) -> ReceiptEntry:
        return ReceiptEntry(
            index=image.index, name=image.name, outcome=outcome, detail=detail, sha256=image.sha256, copy_of=copy_of
        )

    if known is not None and is_own(known, job_id, image.index):
        return line(Outcome.ACCEPTED)
    if is_frozen and image.split == "labeled":
        return line(Outcome.HOLDOUT_LEAK, "it is in the holdout of this upload")
    if earlier is not image:
        return line(Outcome.DUPLICATE, f"the same as entry {earlier.index} of this upload", f"{job_id}/{earlier.index}")
    if known is None or known.job_id == job_id:
        return line(Outcome.ACCEPTED)
    return _line_of_known(image.index, image.name, image.sha256, image.split, known)


def _line_of_known(index: int, name: str, sha256: str, split: str, known: Known) -> ReceiptEntry:
    is_leak = known.split == "holdout" and split == "labeled"
    where = "in the holdout" if known.split == "holdout" else "in the labeled set"
    return ReceiptEntry(
        index=index,
        name=name,
        outcome=Outcome.HOLDOUT_LEAK if is_leak else Outcome.DUPLICATE,
        detail=f"it is {where} already, as {known.class_name!r}: entry {known.entry} of job {known.job_id}",
        sha256=sha256,
        copy_of=place(known),
    )


def _without_leaks(
    resources: Resources,
    new: list[_Image],
    job_id: str,
    sealed: Collection[str],
    learned: Mapping[str, int],
    receipt: Receipt,
) -> list[_Image]:
    """The images without near copies across the holdout's border, whose lines say that they leak.

    No holdout has what a student may have learned from in a bucket, or a near copy of that. What another job has sealed stays on its side, so that the image sent now is the one to go. Within an
    upload the holdout stays whole, and its copies do not train. What an earlier attempt has sealed is judged already.
    """
    taken = {image.sha256 for image in new}
    found = fingerprints.resembled(resources.catalog, {image.sha256: image.fingerprint for image in new})
    there = shards.known(resources.catalog, {each.sha256 for some in found.values() for each in some} - taken)
    others = {sha256: known for sha256, known in there.items() if known.job_id != job_id}
    held = {sha256 for sha256, known in others.items() if known.split == "holdout"}
    trains = {sha256 for sha256, known in others.items() if known.split == "labeled"} | _learned(
        resources, others
    ).keys()

    def leak(image: _Image, across: set[str]) -> str | None:
        if image.sha256 in sealed:
            return None
        return next((each.sha256 for each in found.get(image.sha256, []) if each.sha256 in across), None)

    leaks: dict[int, ReceiptEntry] = {}
    frozen = Fingerprints()
    for image in new:
        if image.split == "holdout" and image.sha256 in learned:
            leaks[image.index] = _line_of_learned(image, learned[image.sha256])
        elif image.split == "holdout" and (other := leak(image, trains)):
            leaks[image.index] = _line_of_leak(image, other)
        elif image.split == "holdout":
            frozen.add(image.sha256, image.fingerprint)
    for image in new:
        if image.split == "labeled":
            near = frozen.nearest(image.sha256, image.fingerprint) if image.sha256 not in sealed else None
            if other := near.sha256 if near is not None else leak(image, held):
                leaks[image.index] = _line_of_leak(image, other)
    for image in new:
        if image.index in leaks:
            receipt.write(leaks[image.index])
    return [image for image in new if image.index not in leaks]


def _line_of_learned(image: _Image, generation: int) -> ReceiptEntry:
    return ReceiptEntry(
        index=image.index,
        name=image.name,
        outcome=Outcome.HOLDOUT_LEAK,
        detail=f"it is in a bucket, and the student of generation {generation} learned from it, or may yet",
        sha256=image.sha256,
    )


def _line_of_leak(image: _Image, other: str) -> ReceiptEntry:
    is_frozen = image.split == "holdout"
    detail = (
        f"it resembles an image that trains ({other}), so it cannot be in the holdout"
        if is_frozen
        else f"it resembles an image of the holdout ({other})"
    )
    return ReceiptEntry(
        index=image.index,
        name=image.name,
        outcome=Outcome.HOLDOUT_LEAK,
        detail=detail,
        sha256=image.sha256,
        resembles=other,
    )


def _fraction(job: Job, before: _Before) -> float:
    """What was asked for; else a share of the first set, and of later ones nothing: the holdout is frozen."""
    asked = job.params.get("holdout_fraction")
    if asked is not None:
        return float(asked)
    return 0.0 if before.holdout else DEFAULT_HOLDOUT_FRACTION


def _split(
    new: list[_Image], known: dict[str, Known], learned: Collection[str], before: _Before, *, fraction: float
) -> list[_Image]:
    """Freeze a fraction of each class: the first by sha-256, so that any attempt freezes the same.

    What students have learned from stays in the labeled set as long as there is another. What an earlier attempt has sealed stays where it is, whatever other jobs have taken away meanwhile.
    """
    if fraction == 0.0:
        return new
    of_class: defaultdict[str, list[_Image]] = defaultdict(list)
    for image in new:
        of_class[image.class_name].append(image)
    frozen: set[int] = set()
    for name, images in sorted(of_class.items()):
        images.sort(key=lambda image: (image.sha256 in learned, _sealed_rank(known.get(image.sha256)), image.sha256))
        frozen |= {image.index for image in images[: _num_frozen(name, len(images), before, fraction)]}
    return [replace(image, split="holdout") if image.index in frozen else image for image in new]


def _sealed_rank(known: Known | None) -> int:
    return 1 if known is None else {"holdout": 0, "labeled": 2}[known.split]


def _num_frozen(class_name: str, num_images: int, before: _Before, fraction: float) -> int:
    if num_images >= 2:
        return min(max(1, round(num_images * fraction)), num_images - 1)
    if before.holdout[class_name] and before.labeled[class_name]:
        return 0
    raise LabeledSetRefused(
        f"class {class_name!r} has one image, which cannot be in the labeled set and in the holdout; "
        f"send two or more of each class, or a holdout of your own",
        code="too_few_images",
    )


def _refuse_folders(findings: _Findings) -> None:
    usable = {image.class_name for image in findings.images}
    if empty := sorted({PurePosixPath(path).name for path in _leaves(findings.folders)} - usable):
        raise LabeledSetRefused(
            f"{_named(empty)} without a single image that can be used; remove the folder or fill it", code="empty_class"
        )
    if long := sorted(name for name in usable if len(name) > MAX_CLASS_CHARACTERS):
        raise LabeledSetRefused(
            f"the class name {long[0][:40]!r}… has {len(long[0])} characters; at most {MAX_CLASS_CHARACTERS} are taken",
            code="bad_class_name",
        )


def _refuse_classes(new: list[_Image], before: _Before) -> None:
    classes = before.labeled.keys() | {image.class_name for image in new}
    if len(classes) < 2:
        raise LabeledSetRefused(
            f"all images are of one class ({', '.join(classes) or 'none lies in a folder'}); "
            f"put the images of two or more classes into a folder each",
            code="one_class",
        )
    if before.labeled and (unknown := sorted(classes - before.labeled.keys())):
        raise LabeledSetRefused(
            f"{_named(unknown)} not among the classes of the labeled set ({', '.join(sorted(before.labeled))}); "
            f"a new class needs a new installation, because every model so far lacks it",
            code="unknown_class",
        )


def _refuse_halves(new: list[_Image], before: _Before) -> None:
    labeled = before.labeled + Counter(image.class_name for image in new if image.split == "labeled")
    holdout = before.holdout + Counter(image.class_name for image in new if image.split == "holdout")
    if missing := sorted(labeled.keys() - holdout.keys()):
        raise LabeledSetRefused(
            f"{_named(missing)} in the labeled set but not in the holdout; every class must be in both",
            code="class_without_holdout",
        )
    if missing := sorted(holdout.keys() - labeled.keys()):
        raise LabeledSetRefused(
            f"{_named(missing)} in the holdout but not in the labeled set; every class must be in both",
            code="class_without_labels",
        )


def _leaves(folders: Iterable[str]) -> set[str]:
    """Folders without folders in them: the others only group classes."""
    shown = {path for path in folders if not entries.is_junk(path) and PurePosixPath(path).name not in ("", ".", "..")}
    parents = {str(parent) for path in shown for parent in PurePosixPath(path).parents}
    return shown - parents


def _named(classes: list[str]) -> str:
    names = ", ".join(repr(name) for name in classes[:10]) + (", …" if len(classes) > 10 else "")
    return f"class {names} is" if len(classes) == 1 else f"classes {names} are"


def _seal(
    resources: Resources,
    claim: Claim,
    sent: list[Upload],
    folder: Path,
    receipt: Receipt,
    split: str,
    chosen: dict[int, _Image],
) -> None:
    if not chosen:
        return

    def rejudge(index: int, member: ShardMember, known: Known | None) -> ReceiptEntry:
        assert known is not None, "what conflicts was labeled by another job"
        return _line_of_known(index, member.name, member.sha256, split, known)

    sealer = Sealer(resources, claim, folder, receipt, rejudge, split=split)
    num_done = 0
    try:
        for item in uploads.walk(resources.store, sent):
            claim.check()
            if isinstance(item, Folder) or item.index not in chosen:
                continue
            sealer.add(_again(item, chosen[item.index]), chosen[item.index].class_name)
            num_done += 1
            if num_done % PROGRESS_ENTRIES == 0:
                jobs.progress(resources.catalog, claim, f"seal {split}", num_done, len(chosen))
        sealer.seal()
    finally:
        sealer.close()


def _again(item: Numbered, image: _Image) -> Candidate:
    """An image of the first walk with its bytes, which have not changed."""
    sha256 = hashlib.sha256(item.entry.data).hexdigest()
    assert sha256 == image.sha256, "the same bytes as on the first walk: an upload is never changed"
    return Candidate(
        item.index, item.entry.name, item.entry.folder, item.split, item.entry.data, sha256, image.facts,
        fingerprint=image.fingerprint,
    )  # fmt: skip


def _finish(resources: Resources, claim: Claim, job: Job, receipt: Receipt, new: list[_Image]) -> None:
    accepted = receipt.accepted()
    classes: dict[str, dict[str, int]] = {}
    for image in new:
        counts = classes.setdefault(image.class_name, {"labeled": 0, "holdout": 0})
        counts[image.split] += image.index in accepted
    result: dict[str, Any] = receipt.store(resources.store, claim)
    result["classes"] = dict(sorted(classes.items()))
    with resources.catalog.write() as session:
        request = GenerationRequest(**job.params.get("request") or {})
        number = generations.open_in(session, request) if generations.needs_first(session) else None
        jobs.succeed(session, claim, result | {"generation": number})
