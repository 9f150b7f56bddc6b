"""Near copies among the images of an upload: kept but marked, or refused if what they resemble is in the holdout.

What an image resembles is what came before it: in the catalog, or in the shard that is being filled.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from understudy.catalog import Catalog, fingerprints, shards
from understudy.catalog.shards import Known
from understudy.fingerprints import Fingerprints
from understudy.records import Outcome, ReceiptEntry
from worker import receipts
from worker.candidates import Candidate

ANIMATED = "animated: its first frame is taken"


@dataclass(frozen=True)
class _Copy:
    """What an image resembles, and where that came in."""

    sha256: str
    distance: int
    known: Known


class Resemblance:
    """What the images of one job resemble."""

    def __init__(self, catalog: Catalog, job_id: str) -> None:
        self._catalog, self._job_id = catalog, job_id
        self._pending = Fingerprints()
        self._of_pending: dict[str, tuple[int, bytes]] = {}
        self._copies: dict[str, list[_Copy]] = {}

    def look_up(self, candidates: Iterable[Candidate]) -> None:
        """Find in the catalog what some images resemble, before they are judged one after another."""
        asked = {candidate.sha256: candidate.fingerprint for candidate in candidates}
        found = fingerprints.resembled(self._catalog, asked)
        known = shards.known(self._catalog, {each.sha256 for some in found.values() for each in some})
        self._copies = {
            sha256: [_Copy(e.sha256, e.distance, known[e.sha256]) for e in some if e.sha256 in known]
            for sha256, some in found.items()
        }

    def marked(self, line: ReceiptEntry, candidate: Candidate, *, is_sealed: bool) -> ReceiptEntry:
        """The line of an image that is new, with what it resembles; a leak if that is in the holdout."""
        copies = [copy for copy in self._copies.get(candidate.sha256, []) if not self._is_later(copy, line.index)]
        if not is_sealed and (frozen := next((copy for copy in copies if copy.known.split == "holdout"), None)):
            detail = f"it resembles an image of the holdout ({frozen.distance} of 256 signs differ)"
            return line.model_copy(
                update={
                    "outcome": Outcome.HOLDOUT_LEAK,
                    "detail": detail,
                    "copy_of": receipts.place(frozen.known),
                    "resembles": frozen.sha256,
                }
            )
        details = [ANIMATED] if candidate.is_animated else []
        resembles = copies[0].sha256 if copies else None
        if copies:
            details.append(f"it resembles entry {copies[0].known.entry} of job {copies[0].known.job_id}")
        elif near := self._pending.nearest(candidate.sha256, candidate.fingerprint):
            resembles = near.sha256
            details.append(f"it resembles entry {self._of_pending[near.sha256][0]} of job {self._job_id}")
        return line.model_copy(update={"detail": "; ".join(details) or None, "resembles": resembles})

    def keep(self, sha256s: Collection[str]) -> None:
        """Forget all but these: the others are in the catalog now."""
        self._of_pending = {sha256: self._of_pending[sha256] for sha256 in sha256s if sha256 in self._of_pending}
        self._pending = Fingerprints((sha256, fingerprint) for sha256, (_, fingerprint) in self._of_pending.items())

    def add(self, candidate: Candidate) -> None:
        """From now on, images may resemble this one."""
        if candidate.fingerprint:
            self._of_pending[candidate.sha256] = (candidate.index, candidate.fingerprint)
            self._pending.add(candidate.sha256, candidate.fingerprint)

    def _is_later(self, copy: _Copy, index: int) -> bool:
        """Sealed by an earlier attempt at this very job, though it comes behind: it resembles us, not we it."""
        return copy.known.job_id == self._job_id and copy.known.entry >= index
