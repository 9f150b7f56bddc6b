"""The map of shards and who holds what, over real HTTP."""

import httpx
import pytest

from understudy.client import Client
from understudy.records import JobKind, JobState


@pytest.fixture
def claimed(http: httpx.Client) -> str:
    """The id of a job that nobody works on; there is no worker here."""
    return str(http.post("/ingest", params={"bucket": "b"}, content=b"PK" * 100).json()["id"])


def test_the_map_of_nothing_is_empty_and_an_unknown_version_is_a_404(http: httpx.Client, url: str):
    """Before the first promotion there is no teacher."""
    with Client(url) as client:
        seen = client.shard_map()
        assert (seen.version, seen.num_shards, seen.strips) == (None, 0, ())
        assert (client.work(), client.failed_labels()) == ([], [])
    for path in ("/label-sets", "/label-sets/failed"):
        missing = http.get(path, params={"version": "g0099-ffffff"})
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert http.get("/label-sets", params={"cursor": "no cursor"}).status_code == 422


def test_jobs_are_listed_by_kind_and_state(claimed: str, url: str):
    """A filter that nothing fits gives nothing."""
    with Client(url) as client:
        assert [job.id for job in client.jobs(kind=JobKind.INGEST, state=JobState.QUEUED)] == [claimed]
        assert client.jobs(kind=JobKind.EXPORT) == client.jobs(state=JobState.FAILED) == []
