"""``GET /images``: the bytes of an accepted image, and what every teacher says of it."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response

from service.problems import may_be
from service.schemas import Page
from service.state import Service, State
from understudy import images, pseudo_labels, shards
from understudy.catalog import label_sets
from understudy.errors import NotFound
from understudy.label_records import PseudoLabel
from understudy.records import ShardMember

router = APIRouter(tags=["images"])

TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
#: An image never changes under its name. Strangers sent it: a browser shall take it for nothing but a picture.
HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The encoded bytes, as they were sent; with `size`, a JPEG.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in TYPES.values()},
    },
    304: {"description": "The client has it already (`If-None-Match`)."},
}

Sha256 = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="of the image's bytes, as receipts name it")]


@router.get("/images/{sha256}", response_class=Response, responses=ANSWERS | may_be(404))
def image(
    service: Service,
    sha256: Sha256,
    size: Annotated[int | None, Query(ge=16, le=1024, description="pixels of the longer side, at most")] = None,
    if_none_match: Annotated[str | None, Header(max_length=1000)] = None,
) -> Response:
    """An accepted image, unlabeled or labeled, as it was sent; with `size` a thumbnail of it."""
    tag = f'"{sha256}{f"-{size}" if size else ""}"'
    headers = HEADERS | {"ETag": tag}
    where, member = _found(service, sha256)
    if if_none_match is not None and tag in [each.strip().removeprefix("W/") for each in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    try:
        data = service.store.get_range(where, member.offset, member.num_bytes)
    except FileNotFoundError as error:
        raise _gone(sha256) from error
    if size is not None:
        return Response(images.thumbnail(data, size), headers=headers, media_type="image/jpeg")
    return Response(data, headers=headers, media_type=TYPES.get(member.format, "application/octet-stream"))


def _found(service: State, sha256: str) -> tuple[str, ShardMember]:
    """The shard of an image, and where in it the image lies. Raises NotFound."""
    try:
        manifest = shards.read_manifest(service.store, label_sets.shard_of(service.catalog, sha256))
    except FileNotFoundError as error:
        raise _gone(sha256) from error
    member = next((one for one in manifest.members if one.sha256 == sha256), None)
    if member is None:
        raise _gone(sha256)
    return manifest.key, member


def _gone(sha256: str) -> NotFound:
    return NotFound(
        f"image {sha256} is in the catalog, but its shard is not in the store: it is being deleted, or lost"
    )


@router.get("/images/{sha256}/labels", responses=may_be(404))
async def of_image(service: Service, sha256: Sha256) -> Page[PseudoLabel]:
    """What every teacher says of an image: a human's image, or one that waits for its label, has none."""
    return Page(items=await service.looker.look(partial(pseudo_labels.of_image, sha256=sha256)))
