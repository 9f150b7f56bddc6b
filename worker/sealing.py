"""Sealing: accepted images collected into shards, each made true by one transaction of the catalog.

The same for buckets, the labeled set and the holdout. An image that another job seals meanwhile is taken
out again, and its line in the receipt rewritten.
"""

from collections.abc import Callable
from pathlib import Path

from understudy import images, messages
from understudy.catalog import buckets, fingerprints, shards
from understudy.catalog.claims import Claim
from understudy.catalog.shards import AlreadyThere, Known
from understudy.records import ReceiptEntry, ShardMember
from understudy.shards import ShardWriter
from worker.candidates import Candidate
from worker.receipts import Receipt
from worker.resources import Resources

#: Writes the line of an image that was lost to another job: its index, its place in the shard, where it is now.
Rejudge = Callable[[int, ShardMember, Known | None], ReceiptEntry]


class Sealer:
    """Fills one shard after another in ``folder``, which its maker deletes. Close it, sealed or not."""

    def __init__(
        self,
        resources: Resources,
        claim: Claim,
        folder: Path,
        receipt: Receipt,
        rejudge: Rejudge,
        *,
        split: str,
        bucket: str | None = None,
    ) -> None:
        # Asked once an attempt: a bucket that is deleted ends it, and one that is made again has another folder.
        self._bucket_folder = None if bucket is None else buckets.folder(resources.catalog, bucket)
        self._resources, self._claim, self._folder = resources, claim, folder
        self._receipt, self._rejudge = receipt, rejudge
        self._split, self._bucket = split, bucket
        self._num_files = 0
        self._entries: list[int] = []
        self._fingerprints: dict[str, fingerprints.Known] = {}
        self.num_sealed = 0  #: shards so far
        self._writer = self._new_writer()

    def add(self, candidate: Candidate, class_name: str | None = None, *, resembles: str | None = None) -> None:
        """Take one more image, sealing what was collected before if the shard would become too large."""
        settings = self._resources.settings
        is_full = self._writer.num_images >= settings.shard_images
        is_heavy = self._writer.num_bytes + len(candidate.data) > settings.shard_bytes
        if self._entries and (is_full or is_heavy):
            self.seal()
        self._writer.add(
            candidate.data,
            sha256=candidate.sha256,
            name=candidate.name,
            facts=candidate.facts,
            class_name=class_name,
        )
        self._entries.append(candidate.index)
        self._fingerprints[candidate.sha256] = fingerprints.Known(candidate.fingerprint, resembles)

    def seal(self) -> None:
        """Seal what has been collected, and ring for its label set. Raises LeaseLost."""
        while self._entries:
            manifest = self._writer.seal(self._resources.store)
            try:
                sealed = shards.seal(self._resources.catalog, self._claim, manifest, self._entries, self._fingerprints)
            except AlreadyThere as there:
                self._take_out(there.sha256s)
                continue
            if sealed.label_task is not None:
                self._resources.ring(messages.LABEL, sealed.label_task)
            self._begin_anew().unlink()
            self._fingerprints = {}
            self.num_sealed += 1

    @property
    def pending(self) -> frozenset[int]:
        """The indexes of the entries that are collected and not sealed yet."""
        return frozenset(self._entries)

    def close(self) -> None:
        """Close the file that is being filled."""
        self._writer.close()

    def _take_out(self, lost: set[str]) -> None:
        known = shards.known(self._resources.catalog, lost)
        members, indexes = self._writer.members, self._entries
        path = self._begin_anew()
        with path.open("rb") as file:
            for member, index in zip(members, indexes, strict=True):
                if member.sha256 in lost:
                    del self._fingerprints[member.sha256]
                    self._receipt.write(self._rejudge(index, member, known.get(member.sha256)))
                    continue
                file.seek(member.offset)
                self._copy(file.read(member.num_bytes), member, index)
        path.unlink()

    def _copy(self, data: bytes, member: ShardMember, index: int) -> None:
        facts = images.Facts(member.width, member.height, member.format)
        self._writer.add(data, sha256=member.sha256, name=member.name, facts=facts, class_name=member.class_name)
        self._entries.append(index)

    def _begin_anew(self) -> Path:
        """Start an empty file; gives the one before, for the caller to delete."""
        before = self._path
        self._writer.close()
        self._entries = []
        self._num_files += 1
        self._writer = self._new_writer()
        return before

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._split}-{self._num_files}.tar"

    def _new_writer(self) -> ShardWriter:
        return ShardWriter(self._path, split=self._split, bucket=self._bucket, folder=self._bucket_folder)
