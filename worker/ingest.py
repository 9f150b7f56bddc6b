"""The unpack job of a bucket: every entry checked, the new images sealed into shards, all in the receipt.

Killed at any point and begun again, it comes to the same end: what an earlier attempt has sealed is
found in the catalog under this job's own name.
"""

from collections.abc import Iterable
from pathlib import Path

from understudy.catalog import jobs, shards
from understudy.catalog.claims import Claim
from understudy.catalog.shards import Known
from understudy.records import Job, Outcome, ReceiptEntry, ShardMember
from worker import candidates, receipts, uploads
from worker.candidates import Candidate
from worker.receipts import Receipt
from worker.resources import Resources
from worker.sealing import Sealer
from worker.uploads import Numbered


def ingest(resources: Resources, claim: Claim, job: Job, folder: Path) -> None:
    """Run the job to its end. Raises ArchiveRefused before anything is sealed, LeaseLost at any time."""
    # 1. Whether the uploads can be opened at all.
    sent = uploads.of_job(job)
    total = uploads.count(resources.store, sent)

    # 2. Each entry once, from the archive into a shard.
    receipt = Receipt()
    unpacking = _Unpacking(resources, claim, receipt, folder, bucket=job.bucket)
    try:
        checked = _check_all(claim, uploads.walk(resources.store, sent))
        for batch in candidates.batches(checked):
            unpacking.take(batch)
            jobs.progress(resources.catalog, claim, "unpack", len(receipt), total)
        unpacking.finish()
    finally:
        unpacking.close()

    # 3. The receipt, and with it the end.
    result = receipt.store(resources.store, claim)
    with resources.catalog.write() as session:
        jobs.succeed(session, claim, result)


def _check_all(claim: Claim, found: Iterable[object]) -> Iterable[Candidate | ReceiptEntry]:
    for item in found:
        claim.check()
        if isinstance(item, Numbered):  # a bucket has no classes: folders mean nothing
            yield candidates.check(item)


class _Unpacking:
    """The shard that is being filled, and which bytes this job has seen."""

    def __init__(
        self, resources: Resources, claim: Claim, receipt: Receipt, folder: Path, *, bucket: str | None
    ) -> None:
        self._catalog, self._job_id, self._receipt = resources.catalog, str(claim.id), receipt
        self._first: dict[str, int] = {}
        self._sealer = Sealer(resources, claim, folder, receipt, self._rejudge, split="unlabeled", bucket=bucket)

    def take(self, batch: list[Candidate | ReceiptEntry]) -> None:
        """Judge some entries, and collect the images among them that are new."""
        known = shards.known(self._catalog, {item.sha256 for item in batch if isinstance(item, Candidate)})
        for item in batch:
            if isinstance(item, ReceiptEntry):
                self._receipt.write(item)
                continue
            line = self._judge(item, known.get(item.sha256))
            self._receipt.write(line)
            if line.outcome is Outcome.ACCEPTED and item.sha256 not in known:
                self._sealer.add(item)

    def finish(self) -> None:
        """Seal what is left."""
        self._sealer.seal()

    def close(self) -> None:
        self._sealer.close()

    def _judge(self, candidate: Candidate, known: Known | None) -> ReceiptEntry:
        first = self._first.setdefault(candidate.sha256, candidate.index)
        return receipts.judge(
            candidate.index,
            candidate.name,
            candidate.sha256,
            job_id=self._job_id,
            known=known,
            first=None if first == candidate.index else first,
        )

    def _rejudge(self, index: int, member: ShardMember, known: Known | None) -> ReceiptEntry:
        return receipts.judge(index, member.name, member.sha256, job_id=self._job_id, known=known, first=None)
