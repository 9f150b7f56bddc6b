"""``/reviews``: what people say of pseudo-labels: which to look at, their decisions, and how right the labels are."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool

from service import examples
from service.clients import Actor
from service.problems import RESPONSES, may_be
from service.routes.pseudo_labels import Bucket, Teacher
from service.schemas import Page
from service.state import Service
from understudy import reviewing
from understudy.catalog import reviews
from understudy.pseudo_labels import Looking
from understudy.review_records import Audit, Review, ReviewOrder, ReviewQueue, ReviewRequest, ReviewUndo, Verdict
from understudy.reviewing import Asked

router = APIRouter(prefix="/reviews", tags=["reviews"])

Threshold = Annotated[
    float | None,
    Query(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="least confidence of the labels that are audited; without it, that of the teacher's recipe",
    ),
]


@router.get(
    "/queue", responses=may_be(404) | examples.of(200, examples.REVIEW_QUEUE, "Some of them; `next` asks for more.")
)
async def queue(
    service: Service,
    by: Annotated[
        ReviewOrder,
        Query(
            description="what helps most: labels that hardly lead the second class, labels that the teacher before saw "
            "otherwise, or a blind sample of what a selection would take"
        ),
    ] = ReviewOrder.UNCERTAIN,
    teacher: Teacher = None,
    bucket: Bucket = None,
    class_name: Annotated[
        str | None, Query(alias="class", max_length=255, description="only of this label; not of an audit")
    ] = None,
    threshold: Threshold = None,
    seed: Annotated[int, Query(ge=0, lt=2**31, description="of an audit: another draws another sample")] = 0,
    cursor: Annotated[str | None, Query(max_length=2000, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ReviewQueue:
    """Images that nobody has reviewed, what helps most first; what is reviewed meanwhile is not told again.

    Classes and buckets take turns, so that one that the teacher is very unsure of hides no other. A page may be
    shorter than `limit` though there is a next one. Of an audit neither label nor confidence is told: say the class
    of each image with `is_audit`, and leave none out.
    """
    asked = Asked(by, teacher, bucket, class_name, threshold, seed)
    return await service.looker.look(partial(reviewing.queue, asked=asked, cursor=cursor, limit=limit))


@router.post(
    "", responses=RESPONSES | may_be(404, 409) | examples.of(200, examples.REVIEWS, "A review each, in their order.")
)
async def decide(service: Service, actor: Actor, request: ReviewRequest) -> Page[Review]:
    """Say of up to 1,000 images what they are; all of it is written down, or nothing.

    It outranks every teacher: no selection takes the teacher's label of a reviewed image. What is accepted or
    corrected joins the labeled set of the next generation; what is rejected trains nothing. A correction to the
    label itself is an acceptance. The same decision sent twice is one review; another one of the same image counts
    instead, and undoing it restores the first.
    """
    written = await service.looker.look(partial(reviewing.decide, request=request, actor=actor))
    return Page(items=written)


@router.post(
    "/undo", responses=RESPONSES | may_be(404) | examples.of(200, examples.UNDONE_REVIEWS, "They count no more.")
)
async def undo(service: Service, request: ReviewUndo) -> Page[Review]:
    """Have reviews count no more, all of them or none; what was said of the images before counts again.

    A generation that has its plan keeps to it; the next one has what counts then.
    """
    return Page(items=await run_in_threadpool(reviews.undo, service.catalog, request.ids))


@router.get("", responses=examples.of(200, examples.REVIEWS, "The newest first."))
def log(
    service: Service,
    sha256: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="only of this image")] = None,
    verdict: Annotated[Verdict | None, Query(description="only with this verdict")] = None,
    audit: Annotated[bool | None, Query(description="only of audits, or only others")] = None,
    counting: Annotated[
        bool | None, Query(description="true: only what counts now; false: only what was undone or said anew since")
    ] = None,
    cursor: Annotated[str | None, Query(pattern=r"^[1-9][0-9]{0,8}$", description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[Review]:
    """Every review, the undone ones too; those of deleted buckets are gone."""
    found = reviews.page(
        service.catalog,
        before=None if cursor is None else int(cursor),
        limit=limit + 1,
        sha256=sha256,
        verdict=verdict,
        is_audit=audit,
        is_counting=counting,
    )
    return Page(items=found[:limit], next=str(found[limit - 1].id) if len(found) > limit else None)


@router.get(
    "/audit", responses=may_be(404) | examples.of(200, examples.AUDIT, "What is known by what was audited so far.")
)
async def audit(service: Service, teacher: Teacher = None, threshold: Threshold = None) -> Audit:
    """How right a teacher's pseudo-labels are from a confidence on, by its blind audit alone, with exact 95 % intervals.

    What was audited from a higher confidence on is no uniform sample of these labels, and not counted.
    """

    def counted(looking: Looking) -> Audit:
        return reviewing.audit(looking, teacher=teacher, threshold=threshold)

    return await service.looker.look(counted)
