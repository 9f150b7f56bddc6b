"""``POST /selections/preview``: what a generation would select, before anything is trained."""

from fastapi import APIRouter

from service.problems import may_be
from service.state import Service
from understudy import pseudo_labels
from understudy.label_records import PreviewRequest, SelectionPreview
from understudy.pseudo_labels import Looking

router = APIRouter(tags=["pseudo-labels"])


@router.post("/selections/preview", responses=may_be(404))
async def preview(service: Service, request: PreviewRequest) -> SelectionPreview:
    """What these fields of a recipe would keep of the pseudo-labels that are published now. Nothing is changed.

    `precision` is estimated from how often the teacher was right on the holdout at each confidence: the
    unlabeled images are taken to be of the same kind as the holdout's, and `num_holdout` says how many those are.
    """

    def made(looking: Looking) -> SelectionPreview:
        return pseudo_labels.preview(looking, request)

    return await service.looker.look(made)
