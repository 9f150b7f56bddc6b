"""``DELETE /buckets/{name}``: recall what was ingested, and say which models learned from it."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from service import examples
from service.clients import Actor
from service.problems import may_be
from service.state import Service
from understudy import lineage
from understudy.catalog import buckets
from understudy.records import BUCKET_PATTERN, Recall

router = APIRouter(tags=["ingest"])


@router.delete(
    "/buckets/{name}", responses=may_be(404) | examples.of(200, examples.RECALL, "What was, or would be, removed.")
)
def delete(
    service: Service,
    actor: Actor,
    name: Annotated[str, Path(pattern=BUCKET_PATTERN, description="as GET /buckets lists it")],
    dry_run: Annotated[bool, Query(description="only say what would be removed, and which models it touches")] = False,
) -> Recall:
    """Delete a bucket: its images, shards and label sets, also while it is being ingested or labeled.

    When this answers, nothing finds its images any more, and what works on it stops; the objects follow within
    about a minute. What people said of its images in reviews goes with them. `models` were trained on pseudo-labels
    selected from it or on images of it that people had reviewed, and `descendants` were taught by those: they stay,
    and it is for you to decide on them. Exports that were made stay, too.
    """
    models, descendants = lineage.trained_on(service.catalog, service.store, buckets.folder(service.catalog, name))
    if dry_run:
        removed = buckets.extent(service.catalog, name)
    else:
        removed = buckets.delete_bucket(service.catalog, name, actor=actor)
    return Recall(
        bucket=name,
        dry_run=dry_run,
        num_images=removed.num_images,
        num_shards=removed.num_shards,
        num_bytes=removed.num_bytes,
        num_label_sets=removed.num_label_sets,
        num_jobs=removed.num_jobs,
        num_reviews=removed.num_reviews,
        models=tuple(models),
        descendants=tuple(descendants),
    )
