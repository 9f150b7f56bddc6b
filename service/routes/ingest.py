"""``POST /ingest`` and ``GET /buckets``: unlabeled images in, and what has come in so far."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from service import examples, uploads
from service.clients import Actor
from service.idempotency import IdempotencyKey, key_of
from service.problems import RESPONSES, may_be
from service.schemas import Page
from service.state import Service
from understudy.catalog import shards
from understudy.records import BUCKET_PATTERN, BucketSummary, Job, JobKind

router = APIRouter(tags=["ingest"])

_BYTES = {"type": "string", "format": "binary", "minLength": 1}
UPLOAD_BODIES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": _BYTES},
            "application/zip": {"schema": _BYTES},
            "application/x-tar": {"schema": _BYTES},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
                    },
                    "required": ["file"],
                }
            },
        },
    }
}


@router.post(
    "/ingest",
    status_code=202,
    openapi_extra=UPLOAD_BODIES,
    responses=RESPONSES
    | may_be(409)
    | examples.of(202, examples.QUEUED_JOB, "The bytes are safe; a job works on them."),
)
async def ingest(
    request: Request,
    response: Response,
    service: Service,
    actor: Actor,
    bucket: Annotated[
        str, Query(pattern=BUCKET_PATTERN, description="where the images go; made if new", examples=["holiday-photos"])
    ],
    key: IdempotencyKey = None,
) -> Job:
    """Take unlabeled images: a zip or tar as the raw body, or archives and image files as multipart.

    Answers as soon as the bytes are safe, with a job that unpacks and labels them. Its receipt accounts
    for every entry; see `GET /jobs/{id}` and `GET /jobs/{id}/receipt`.
    """
    job = await uploads.receive(
        request, service, JobKind.INGEST, bucket=bucket, params={}, split="unlabeled", key=key_of(actor, "ingest", key)
    )
    response.headers["Location"] = f"/jobs/{job.id}"
    return job


@router.get("/buckets", responses=examples.of(200, examples.BUCKETS, "By name."))
def buckets(service: Service) -> Page[BucketSummary]:
    """Every bucket, with how many images it holds and how many of them the champion has labeled."""
    return Page(items=shards.buckets(service.catalog))
