"""``/sources``: what lies in other stores and on other servers, named here and fetched by workers.

Nothing is connected to here, not even to see whether a name exists.
"""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Path, Query, Response

from service import examples
from service.problems import RESPONSES, may_be
from service.schemas import Page
from service.state import Service, State
from understudy import addresses, messages
from understudy.addresses import Source
from understudy.catalog import sources
from understudy.errors import SourceRefused
from understudy.records import NAME_PATTERN, Job, RemoteSource, SourceRequest

router = APIRouter(prefix="/sources", tags=["ingest"])

Id = Annotated[str, Path(pattern=NAME_PATTERN, description="as `GET /sources` names it")]


@router.post(
    "",
    status_code=202,
    responses=RESPONSES | examples.of(202, examples.SYNC_JOB, "Workers list it and fetch what is new."),
)
def add(service: Service, response: Response, request: SourceRequest) -> Job:
    """Take unlabeled images from `s3://bucket/prefix`, `gs://bucket/prefix` or `https://host/file`.

    Answers with a sync: a job that lists the source and opens further jobs, each with a receipt, for what is
    new. The same URL and bucket again is another sync of the same source. Credentials are never in the URL, but
    in the workers' environment; private addresses are refused. Needs the scope `admin`, because workers may
    read what the client may not.
    """
    source = addresses.parse(request.url, service.settings.allowance)
    _refuse_own_store(source, service.settings.store_url)
    return _begun(service, response, sources.add(service.catalog, request.bucket, source.url))


@router.post(
    "/{source_id}/sync", status_code=202, responses=examples.of(202, examples.SYNC_JOB, "It takes what is new.")
)
def sync(service: Service, response: Response, source_id: Id) -> Job:
    """Look for what is new in a source. While a sync is waiting or running, that one is the answer."""
    return _begun(service, response, sources.sync(service.catalog, source_id))


@router.get("", responses=examples.of(200, examples.SOURCES, "By their ids."))
def page(
    service: Service,
    cursor: Annotated[str | None, Query(pattern=NAME_PATTERN, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[RemoteSource]:
    """Every source that was ever named, with the job of its newest sync."""
    found = list(sources.page(service.catalog, after=cursor, limit=limit + 1))
    return Page(items=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@router.get("/{source_id}", responses=may_be(404) | examples.of(200, examples.SOURCE, "As it stands."))
def one(service: Service, source_id: Id) -> RemoteSource:
    """One source, and how many of its objects are taken, underway, or failed."""
    return sources.get(service.catalog, source_id)


def _begun(service: State, response: Response, job: Job) -> Job:
    service.bell.submit(messages.ring, service.queue, messages.UNPACK, job.id)
    response.headers["Location"] = f"/jobs/{job.id}"
    return job


def _refuse_own_store(source: Source, store_url: str) -> None:
    """Shards that are ingested make shards; and what the holdout is, no client shall choose to train on."""
    own = urlsplit(store_url)
    prefix = own.path.strip("/")
    is_own_bucket = (source.scheme, source.host) == (own.scheme, own.netloc)
    if is_own_bucket and (source.path.startswith(prefix) or prefix.startswith(source.path.strip("/"))):
        raise SourceRefused(f"{source.url} is where Understudy keeps its own files", code="own_store")
