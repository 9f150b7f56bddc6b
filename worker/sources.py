"""The jobs of remote sources: a sync lists what is new in pages, and fetch jobs bring it into the store.

Each page is one transaction: the jobs for its new objects, and how far the listing is. Fetched bytes are
frozen in the store before any is looked at, so that every attempt sees the same entries; from there on a
fetch job is an ingest.
"""

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from understudy import addresses, messages
from understudy.addresses import Source
from understudy.catalog import claims, jobs, sources
from understudy.catalog.claims import Claim
from understudy.errors import SourceAway, SourceRefused
from understudy.records import Job, Problem, RemoteSource, Upload
from understudy.store import ForeignStore, Listed, fetched_key
from worker import archives, entries
from worker.fetching import Answer, Fetcher
from worker.ingest import ingest
from worker.resources import Resources

log = logging.getLogger(__name__)

#: A fetch job's objects: as many as are brought back after a kill without regret, and what their receipt bears.
PART_OBJECTS, PART_BYTES = 256, 4 * 2**30
#: A sync names so many of its jobs in its result; the others are counted.
MAX_NAMED_JOBS = 1000


@dataclass(frozen=True)
class Tally:
    """How far a sync is; what it answers at its end."""

    listed: int = 0
    new: int = 0
    unchanged: int = 0
    underway: int = 0
    num_jobs: int = 0
    jobs: tuple[str, ...] = ()


# -- sync -----------------------------------------------------------------------------------------


def sync(resources: Resources, claim: Claim, job: Job, folder: Path) -> None:
    """Run a sync to its end, from where an earlier attempt was. Raises SourceRefused, SourceAway, LeaseLost."""
    job = jobs.get(resources.catalog, job.id)  # as the attempt before this one left it
    source = sources.get(resources.catalog, job.params["source"])
    so_far = job.params.get("tally", {})
    tally = Tally(**(so_far | {"jobs": tuple(so_far.get("jobs", ()))}))
    for page in _pages(resources, source, job.params.get("after")):
        claim.check()
        tally = _take(resources, claim, source, page, tally)
        jobs.progress(resources.catalog, claim, "list", tally.listed, None)
    with resources.catalog.write() as session:
        jobs.succeed(session, claim, {"source": source.id, **asdict(tally)})


def _pages(resources: Resources, source: RemoteSource, after: str | None) -> Iterator[list[Listed]]:
    at = addresses.parse(source.url, resources.settings.allowance)
    if not at.is_store:
        if after is None:  # there is one object only
            with _fetcher(resources).open(at) as answer:
                yield [answer.listed]
        return
    store = ForeignStore(at.scheme, at.host)
    if at.path and not at.path.endswith("/") and (found := store.find(at.path)) is not None:
        if after is None:
            yield [found]
        return
    yield from store.pages(at.path, after=after)


def _take(resources: Resources, claim: Claim, source: RemoteSource, page: list[Listed], tally: Tally) -> Tally:
    found = sources.compare(resources.catalog, source.id, page)
    parts = list(_parts(found.new))
    counted = replace(
        tally,
        listed=tally.listed + len(page),
        new=tally.new + len(found.new),
        unchanged=tally.unchanged + found.num_unchanged,
        underway=tally.underway + found.num_underway,
        num_jobs=tally.num_jobs + len(parts),
    )
    ids = sources.take(
        resources.catalog,
        claim,
        source,
        parts,
        name_jobs=lambda ids: {
            "after": page[-1].key,
            "tally": asdict(replace(counted, jobs=(*tally.jobs, *ids)[:MAX_NAMED_JOBS])),
        },
    )
    for job_id in ids:
        resources.ring(messages.UNPACK, job_id)
    return replace(counted, jobs=(*tally.jobs, *ids)[:MAX_NAMED_JOBS])


def _parts(new: list[Listed]) -> Iterator[list[Listed]]:
    part: list[Listed] = []
    num_bytes = 0
    for each in new:
        if part and (len(part) >= PART_OBJECTS or num_bytes + (each.num_bytes or 0) > PART_BYTES):
            yield part
            part, num_bytes = [], 0
        part.append(each)
        num_bytes += each.num_bytes or 0
    if part:
        yield part


# -- fetch ----------------------------------------------------------------------------------------


def fetch(resources: Resources, claim: Claim, job: Job, folder: Path) -> None:
    """Bring a job's objects into the store, unless an earlier attempt has, and ingest them."""
    job = jobs.get(resources.catalog, job.id)
    if "uploads" not in job.params:
        job = _bring(resources, claim, job)
    ingest(resources, claim, job, folder)


def _bring(resources: Resources, claim: Claim, job: Job) -> Job:
    at = addresses.parse(job.params["url"], resources.settings.allowance)
    listed = sources.objects_of(resources.catalog, job.id)
    uploads, lost = [], []
    for index, each in enumerate(listed):
        claim.check()
        key = fetched_key(job.id, claim.attempt, index)
        try:
            upload = _bring_one(resources, claim, at, each, key)
        except SourceRefused as refused:
            upload = _refused(each, Problem(code=refused.code, detail=str(refused)))
            lost.append(each.key)
        except SourceAway as away:
            if not _is_last(resources, claim):
                raise
            upload = _refused(each, Problem(code=away.code, detail=f"{away}; the next sync tries again"))
            lost.append(each.key)
        uploads.append(upload)
        jobs.progress(resources.catalog, claim, "fetch", index + 1, len(listed))
    return sources.fetched(resources.catalog, claim, uploads, lost=lost)


def _is_last(resources: Resources, claim: Claim) -> bool:
    """Whether the job fails if this attempt does; one bad object must not fail its whole part."""
    return claim.attempt >= claims.MAX_ATTEMPTS


def _bring_one(resources: Resources, claim: Claim, at: Source, listed: Listed, key: str) -> Upload:
    refusal = _refuse_name(listed.key)
    if refusal is None and listed.num_bytes is not None and listed.num_bytes > resources.settings.source_bytes:
        refusal = _too_large(listed.num_bytes, resources.settings.source_bytes)
    if refusal is None and listed.num_bytes == 0:  # also what stores keep for a folder, which cannot be fetched
        refusal = Problem(code="empty", detail="the object is empty: 0 bytes")
    if refusal is not None:
        return _refused(listed, refusal)
    with _answer(resources, at, listed) as answer:
        pieces = _Pieces(answer.pieces, claim, resources.settings.source_bytes)
        if (refusal := pieces.begin(listed.num_bytes)) is None:
            try:
                resources.store.pour(key, pieces)
            except _TooLarge as too_large:
                refusal = too_large.problem
    if refusal is not None:
        return _refused(listed, refusal)
    return Upload(key=key, name=listed.key[:1000], num_bytes=pieces.num_bytes, is_fetched=True)


class _TooLarge(Exception):
    """Ends the writing of an object; never seen outside."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class _Pieces:
    """An object's bytes on their way into the store: within the limit for what they begin like."""

    def __init__(self, pieces: Iterator[bytes], claim: Claim, max_bytes: int) -> None:
        self._pieces, self._claim, self._max_bytes = pieces, claim, max_bytes
        self.num_bytes = 0

    def begin(self, said_bytes: int | None) -> Problem | None:
        """Read the head, which says what it is: only archives may be larger than an image."""
        head = b""
        while len(head) < _HEAD_BYTES and (piece := next(self._pieces, None)) is not None:
            head += piece
        if not archives.is_archive(head):
            self._max_bytes = min(self._max_bytes, entries.MAX_ENTRY_BYTES)
        self._pieces = itertools.chain([head], self._pieces)
        if said_bytes is not None and said_bytes > self._max_bytes:
            return _too_large(said_bytes, self._max_bytes)
        return None

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._claim.check()
            self.num_bytes += len(piece)
            if self.num_bytes > self._max_bytes:
                raise _TooLarge(_too_large(self.num_bytes, self._max_bytes))
            yield piece


_HEAD_BYTES = 512


@contextmanager
def _answer(resources: Resources, at: Source, listed: Listed) -> Iterator[Answer]:
    if at.is_store:
        yield Answer(listed, ForeignStore(at.scheme, at.host).chunks(listed.key))
        return
    with _fetcher(resources).open(at) as answer:
        yield answer


def _fetcher(resources: Resources) -> Fetcher:
    return Fetcher(resources.settings.allowance)


def _refuse_name(key: str) -> Problem | None:
    """What is not worth fetching, by its name: left behind by a system, or a pickle."""
    return entries.refuse_name(key.rpartition("/")[2] or "-") if not entries.is_junk(key) else _JUNK


_JUNK = Problem(code="not_an_image", detail="a file that an operating system left behind")


def _refused(listed: Listed, problem: Problem) -> Upload:
    return Upload(key="", name=listed.key[:1000], num_bytes=0, is_fetched=True, problem=problem)


def _too_large(num_bytes: int, limit: int) -> Problem:
    detail = f"the object has {num_bytes:,} bytes or more; at most {limit:,} are taken of what it is"
    return Problem(code="too_large", detail=detail)
