"""``GET /pseudo-labels``: what the teachers said of the unlabeled images, page by page and in numbers."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query

from service import examples
from service.problems import may_be
from service.schemas import Page
from service.state import Service
from understudy import pseudo_labels
from understudy.label_records import LabelFacets, LabelOrder, LabelSort, PseudoLabel
from understudy.pseudo_labels import Filters, Looking
from understudy.records import BUCKET_PATTERN

router = APIRouter(tags=["pseudo-labels"])

Teacher = Annotated[
    str | None,
    Query(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="a model version; without it, the champion"),
]
Bucket = Annotated[str | None, Query(pattern=BUCKET_PATTERN, description="only of this bucket")]


def _bound(what: str) -> Any:
    return Query(ge=0, le=1, allow_inf_nan=False, description=what)


@router.get(
    "/pseudo-labels",
    responses=may_be(404) | examples.of(200, examples.PSEUDO_LABELS, "Some of them; `next` asks for more."),
)
async def some(
    service: Service,
    teacher: Teacher = None,
    bucket: Bucket = None,
    class_name: Annotated[str | None, Query(alias="class", max_length=255, description="only of this label")] = None,
    min_confidence: Annotated[float | None, _bound("only of a label at least so probable")] = None,
    max_confidence: Annotated[float | None, _bound("only of a label at most so probable")] = None,
    min_margin: Annotated[float | None, _bound("only of a label that leads the second by at least so much")] = None,
    max_margin: Annotated[float | None, _bound("only of a label that leads the second by at most so much")] = None,
    changed: Annotated[
        bool | None, Query(description="whether the teacher before saw another class; images it never saw are neither")
    ] = None,
    sha256: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="only of this image")] = None,
    sort: Annotated[LabelSort, Query(description="what to put in order")] = LabelSort.CONFIDENCE,
    order: Annotated[LabelOrder, Query(description="the largest first, or the smallest")] = LabelOrder.DESC,
    cursor: Annotated[str | None, Query(max_length=1000, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[PseudoLabel]:
    """Pseudo-labels of one teacher, sorted by confidence, by margin (label less second class) or changed first.

    A cursor goes on with the same teacher, sort and order. What is published between two pages neither repeats
    nor hides what was there before.
    """
    filters = Filters(
        teacher, bucket, class_name, min_confidence, max_confidence, min_margin, max_margin, changed, sha256
    )
    items, following = await service.looker.look(
        partial(pseudo_labels.page, filters=filters, sort=sort, order=order, cursor=cursor, limit=limit)
    )
    return Page(items=items, next=following)


@router.get("/pseudo-labels/facets", responses=may_be(404))
async def facets(
    service: Service,
    teacher: Teacher = None,
    bucket: Bucket = None,
    with_changed: Annotated[
        bool, Query(description="count too what the teacher before saw otherwise, whose labels are read besides")
    ] = False,
) -> LabelFacets:
    """How many pseudo-labels there are, by class and confidence (bins of 0.05), by bucket and by teacher."""

    def counted(looking: Looking) -> LabelFacets:
        return pseudo_labels.facets(looking, teacher=teacher, bucket=bucket, with_changed=with_changed)

    return await service.looker.look(counted)
