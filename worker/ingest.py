"""The unpack job of a bucket: every entry checked, the new images sealed into shards, all in the receipt.

Killed at any point and begun again, it comes to the same end: what an earlier attempt has sealed is
found in the catalog under this job's own name.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from understudy.catalog import jobs, shards
from understudy.catalog.claims import Claim
from understudy.catalog.shards import Known
from understudy.quarantine import Quarantine
from understudy.records import Job, Outcome, ReceiptEntry, ShardMember
from worker import candidates, receipts, uploads
from worker.ahead import ahead
from worker.candidates import Candidate, Found, Unused
from worker.entries import Folder
from worker.receipts import Receipt
from worker.resemblance import Resemblance
from worker.resources import Resources
from worker.sealing import Sealer
from worker.uploads import Numbered


def ingest(resources: Resources, claim: Claim, job: Job, folder: Path) -> None:
    """Run the job to its end. Raises ArchiveRefused before anything is sealed, LeaseLost at any time."""
    # 1. Whether the uploads can be opened at all.
    sent = uploads.of_job(job)
    total = uploads.count(resources.store, sent)

    with closing(Receipt(folder)) as receipt:
        # 2. Each entry once, from the archive into a shard.
        unpacking = _Unpacking(resources, claim, receipt, folder, bucket=job.bucket)
        try:
            checked = candidates.check(resources.checkers, _of_images(claim, uploads.walk(resources.store, sent)))
            batches = candidates.batches(found for found in checked if not isinstance(found, Folder))
            with ahead(batches) as coming:  # while a shard is sealed, the next images are read and decoded
                for batch in coming:
                    unpacking.take(batch)
                    jobs.progress(resources.catalog, claim, "unpack", unpacking.num_taken, total)
            unpacking.finish()
        finally:
            unpacking.close()

        # 3. The receipt, and with it the end.
        result = receipt.store(resources.store, claim)
    with resources.catalog.write() as session:
        jobs.succeed(session, claim, result)


def _of_images(claim: Claim, found: Iterable[Numbered | Folder]) -> Iterator[Numbered]:
    for item in found:
        claim.check()
        if isinstance(item, Numbered):  # a bucket has no classes: folders mean nothing
            yield item


class _Unpacking:
    """The shard that is being filled, and which bytes are in it."""

    def __init__(
        self, resources: Resources, claim: Claim, receipt: Receipt, folder: Path, *, bucket: str | None
    ) -> None:
        self._catalog, self._job_id, self._receipt = resources.catalog, str(claim.id), receipt
        self._first: dict[str, int] = {}
        self._quarantine = Quarantine(resources.store, self._job_id)
        self._resemblance = Resemblance(resources.catalog, self._job_id)
        self._sealer = Sealer(resources, claim, folder, receipt, self._rejudge, split="unlabeled", bucket=bucket)
        self._num_sealed = 0
        self.num_taken = 0  #: entries so far

    def take(self, batch: list[Found]) -> None:
        """Judge some entries, and collect the images among them that are new."""
        self._forget_sealed()
        self.num_taken += len(batch)
        images = [item for item in batch if isinstance(item, Candidate)]
        known = shards.known(self._catalog, {image.sha256 for image in images})
        self._resemblance.look_up(image for image in images if image.sha256 not in self._first)
        for item in batch:
            if isinstance(item, Unused):
                self._quarantine.keep(item.line.index, item.data)
                self._receipt.write(item.line)
                continue
            line = self._judge(item, known.get(item.sha256))
            self._receipt.write(line)
            if line.outcome is Outcome.ACCEPTED and item.sha256 not in known:
                self._first[item.sha256] = item.index
                if line.resembles is None:
                    self._resemblance.add(item)
                self._sealer.add(item, resembles=line.resembles)

    def finish(self) -> None:
        """Seal what is left."""
        self._sealer.seal()

    def close(self) -> None:
        self._sealer.close()

    def _forget_sealed(self) -> None:
        """What is sealed is found in the catalog from now on."""
        if self._sealer.num_sealed != self._num_sealed:
            self._num_sealed, pending = self._sealer.num_sealed, self._sealer.pending
            self._first = {sha256: index for sha256, index in self._first.items() if index in pending}
            self._resemblance.keep(self._first)

    def _judge(self, candidate: Candidate, known: Known | None) -> ReceiptEntry:
        line = receipts.judge(
            candidate.index,
            candidate.name,
            candidate.sha256,
            job_id=self._job_id,
            known=known,
            first=self._first.get(candidate.sha256),
        )
        if line.outcome is not Outcome.ACCEPTED:
            return line
        return self._resemblance.marked(line, candidate, is_sealed=known is not None)

    def _rejudge(self, index: int, member: ShardMember, known: Known | None) -> ReceiptEntry:
        return receipts.judge(index, member.name, member.sha256, job_id=self._job_id, known=known, first=None)
