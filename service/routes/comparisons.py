"""``GET /comparisons``: two versions on the same holdout images, counted and image by image."""

from typing import Annotated

from fastapi import APIRouter, Query

from service import examples
from service.problems import may_be
from service.schemas import Page
from service.state import Service, State
from understudy import comparing
from understudy.catalog import versions
from understudy.comparing import Pair
from understudy.generation_records import ComparedImage, Comparison, PairOutcome
from understudy.records import VersionId

router = APIRouter(prefix="/comparisons", tags=["models"])

#: More images than any holdout has.
MAX_CURSOR = 10**9

Challenger = Annotated[VersionId, Query(description="a version", examples=["g0002-1b9c44"])]
Champion = Annotated[VersionId, Query(description="the version to compare it with", examples=["g0001-8f2c1a"])]


@router.get("", responses=may_be(404) | examples.of(200, examples.COMPARISON, "The counts."))
def comparison(service: Service, challenger: Challenger, champion: Champion) -> Comparison:
    """How two versions did on the same holdout images: right and wrong, by class, and the mistakes that differ most.

    404 if the two were not measured on the same holdout: those that the gate compared were.
    """
    return comparing.comparison(_pair(service, challenger, champion))


@router.get("/images", responses=may_be(404))
def compared_images(
    service: Service,
    challenger: Challenger,
    champion: Champion,
    outcome: Annotated[PairOutcome | None, Query(description="`won`: only the challenger is right")] = None,
    class_name: Annotated[
        str | None, Query(alias="class", max_length=255, description="only images of this class")
    ] = None,
    cursor: Annotated[int, Query(ge=0, le=MAX_CURSOR, description="`next` of the page before")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[ComparedImage]:
    """The holdout images that two versions were both asked, with the answers; `GET /images/{sha256}` shows them."""
    found = comparing.images(
        service.store,
        _pair(service, challenger, champion),
        outcome=outcome,
        class_name=class_name,
        offset=cursor,
        limit=limit + 1,
    )
    return Page(items=found[:limit], next=str(cursor + limit) if len(found) > limit else None)


def _pair(service: State, challenger: str, champion: str) -> Pair:
    both = (versions.get(service.catalog, version) for version in (challenger, champion))
    return comparing.find(service.store, *both)
