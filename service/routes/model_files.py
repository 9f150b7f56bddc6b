"""``/models/{version}/files``: a model's artifact, card and weights to take away, downloaded with byte ranges."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from service import examples, ranges
from service.problems import may_be
from service.schemas import Page
from service.state import Service
from understudy import registry
from understudy.catalog import versions
from understudy.errors import NotFound
from understudy.records import NAME_PATTERN, ModelFile
from understudy.store import model_key

router = APIRouter(tags=["models"])

Version = Annotated[str, Path(pattern=NAME_PATTERN, description="as GET /models names it")]


@router.get(
    "/models/{version}/files", responses=may_be(404) | examples.of(200, examples.MODEL_FILES, "What there is of it.")
)
def files(service: Service, version: Version) -> Page[ModelFile]:
    """The files of a model: `model.onnx` takes pixels and gives probabilities, `card.json` says how, and the weights."""
    return Page(items=registry.files(service.store, versions.get(service.catalog, version).card))


@router.get("/models/{version}/files/{name}", responses=may_be(404, 416) | ranges.FILE, response_class=Response)
def download(
    service: Service,
    version: Version,
    name: Annotated[str, Path(pattern=NAME_PATTERN, description="as the list of files has it")],
    range: ranges.Range = None,
) -> Response:
    """Download one file, or one range of its bytes."""
    found = registry.files(service.store, versions.get(service.catalog, version).card)
    file = next((file for file in found if file.name == name), None)
    if file is None:
        raise NotFound(f"model {version} has no file {name!r}; GET /models/{version}/files lists them")
    return ranges.answer(service.store, model_key(version, name), file.num_bytes, file.sha256, range)
