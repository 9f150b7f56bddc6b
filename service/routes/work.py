"""``GET /work`` and ``GET /label-sets``: who holds what, and where the labeling of every shard stands."""

from typing import Annotated

from fastapi import APIRouter, Query

from service import examples
from service.problems import may_be
from service.schemas import Page
from service.state import Service, State
from understudy.catalog import versions, work
from understudy.records import BUCKET_PATTERN
from understudy.work_records import Holding, LabelFault, ShardMap

router = APIRouter(tags=["jobs"])

#: As ``ShardMap.next`` has it: a bucket and a shard's id.
CURSOR_PATTERN = BUCKET_PATTERN.removesuffix("$") + r":[0-9]{1,18}$"

Teacher = Annotated[
    str | None,
    Query(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="a model version; without it, the champion"),
]


@router.get("/work", responses=examples.of(200, examples.WORK, "What is claimed at this moment."))
def held(service: Service, limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> Page[Holding]:
    """Every job and every label set that a program works on: who holds it, its last sign of life, and its lease.

    `is_stalled`: the lease has lapsed without an end, so its holder has died or hangs; another takes it soon.
    """
    return Page(items=work.holdings(service.catalog, limit=limit))


@router.get(
    "/label-sets", responses=may_be(404) | examples.of(200, examples.SHARD_MAP, "The counts, and a part of the map.")
)
def shard_map(
    service: Service,
    version: Teacher = None,
    bucket: Annotated[str | None, Query(pattern=BUCKET_PATTERN, description="only of this bucket")] = None,
    cursor: Annotated[str | None, Query(pattern=CURSOR_PATTERN, description="`next` of the part before")] = None,
    limit: Annotated[int, Query(ge=1, le=20_000, description="shards in this part, at most")] = 5000,
) -> ShardMap:
    """Where a teacher's labeling of the unlabeled shards stands: a letter a shard, bucket by bucket."""
    after = None
    if cursor is not None:
        name, _, shard = cursor.rpartition(":")
        after = (name, int(shard))
    return work.shard_map(service.catalog, _version(service, version), bucket=bucket, after=after, limit=limit)


@router.get("/label-sets/failed", responses=may_be(404))
def failed(
    service: Service, version: Teacher = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> Page[LabelFault]:
    """Shards that a teacher could not label, and why, the newest first. They are tried again after a while."""
    return Page(items=work.label_faults(service.catalog, _version(service, version), limit=limit))


def _version(service: State, asked: str | None) -> str | None:
    """The version that was asked for, or the champion; None before the first. Raises NotFound."""
    if asked is not None:
        return versions.get(service.catalog, asked).id
    champion = versions.champion(service.catalog)
    return champion.version if champion else None
