"""Remote sources in the catalog, on both engines: one source, one sync at a time, and what counts as new."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from understudy.catalog import claims, jobs, sources
from understudy.catalog.tables import JobRow
from understudy.errors import LeaseLost, NotFound
from understudy.records import JobState
from understudy.store import Listed

URL = "s3://bucket/x/"
TAGGED = Listed("x/a", 10, "tag", 100.0)
DATED = Listed("x/b", 10, None, 100.0)
SILENT = Listed("x/c", None, None, None)


def taken(catalog, listed):
    """A sync that takes these in one job; gives its claim, its source, and that job's id."""
    job = sources.add(catalog, "photos", URL)
    claim = claims.claim(catalog, JobRow, job.id, lease_s=60)
    source = sources.get(catalog, job.params["source"])
    (child,) = sources.take(catalog, claim, source, [listed], name_jobs=lambda ids: {"after": listed[-1].key})
    return claim, source, child


def end(catalog, job_id, state):
    with catalog.write() as session:
        session.get_one(JobRow, job_id).state = state


def test_a_source_named_by_many_at_once_is_one_with_one_sync(catalog):
    """Its bucket and URL are a constraint, and its newest sync is looked at under a lock."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: sources.add(catalog, "photos", URL), range(8)))
    assert len({job.id for job in found}) == 1
    assert len(sources.page(catalog, after=None, limit=10)) == 1
    assert sources.add(catalog, "others", URL).id != found[0].id


def test_an_object_is_taken_when_its_job_has_succeeded_and_not_before(catalog):
    """Underway until then; new again if the job fails."""
    _, source, child = taken(catalog, [TAGGED])
    assert sources.objects_of(catalog, child) == [TAGGED]
    compared = sources.compare(catalog, source.id, [TAGGED])
    assert (compared.new, compared.num_unchanged, compared.num_underway) == ([], 0, 1)
    end(catalog, child, JobState.FAILED)
    assert sources.compare(catalog, source.id, [TAGGED]).new == [TAGGED]
    end(catalog, child, JobState.SUCCEEDED)
    assert sources.compare(catalog, source.id, [TAGGED]).num_unchanged == 1
    assert sources.get(catalog, source.id).objects.num_taken == 1


@pytest.mark.parametrize(
    ("listed", "is_new"),
    [
        (TAGGED, False),
        (Listed("x/a", 10, "tag", 999.0), False),  # written again, the same
        (Listed("x/a", 11, "tag", 100.0), True),
        (Listed("x/a", 10, "other", 100.0), True),
        (Listed("x/a", 10, None, 100.0), False),  # its server has stopped to say
        (DATED, False),
        (Listed("x/b", 10, None, 101.0), True),
        (Listed("x/b", 10, "tag", 100.0), False),
        (SILENT, True),
        (Listed("x/d", 10, "tag", 100.0), True),
    ],
)
def test_what_has_changed_is_new(catalog, listed, is_new):
    """By the entity tag, or by size and time; what nothing is known of is always new."""
    _, source, child = taken(catalog, [TAGGED, DATED, SILENT])
    end(catalog, child, JobState.SUCCEEDED)
    assert bool(sources.compare(catalog, source.id, [listed]).new) is is_new


def test_a_page_is_written_down_with_its_jobs_or_not_at_all(catalog):
    """A sync that has lost its claim opens nothing."""
    claim, source, child = taken(catalog, [TAGGED])
    assert jobs.get(catalog, claim.id).params["after"] == "x/a"
    assert jobs.get(catalog, child).params["sync"] == claim.id
    end(catalog, claim.id, JobState.QUEUED)
    before = len(jobs.recent(catalog, limit=100))
    with pytest.raises(LeaseLost):
        sources.take(catalog, claim, source, [[DATED]], name_jobs=lambda ids: {"after": "x/b"})
    assert len(jobs.recent(catalog, limit=100)) == before
    assert sources.compare(catalog, source.id, [DATED]).new == [DATED]
    assert jobs.get(catalog, claim.id).params["after"] == "x/a"


def test_what_could_not_be_fetched_is_new_again(catalog):
    """Though its job succeeds, with the reason in its receipt."""
    _, source, child = taken(catalog, [TAGGED, DATED])
    claim = claims.claim(catalog, JobRow, child, lease_s=60)
    assert sources.fetched(catalog, claim, [], lost=["x/a"]).params["uploads"] == []
    end(catalog, child, JobState.SUCCEEDED)
    assert sources.compare(catalog, source.id, [TAGGED, DATED]).new == [TAGGED]


def test_an_unknown_source_is_told_as_one(catalog):
    """By each who asks for it."""
    for ask in (sources.get, sources.sync):
        with pytest.raises(NotFound):
            ask(catalog, "none")
