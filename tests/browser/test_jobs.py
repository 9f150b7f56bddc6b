"""The page of jobs and workers."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from understudy.records import JobKind


def test_finished_jobs_are_listed_with_what_became_of_them(page: Page, house, shot: Callable[[str], None]):
    """All of them, and of one kind where that is asked for; the choice is in the address."""
    page.goto("/jobs")
    rows = page.locator(".us-panel", has=page.get_by_role("heading", name="Jobs", exact=True)).locator("tbody tr")
    jobs = house.client.jobs()
    expect(rows).to_have_count(len(jobs))
    first = next(job for job in reversed(jobs) if job.kind == JobKind.INGEST)
    expect(rows.filter(has_text=first.id)).to_contain_text("60 accepted, 1 quarantined")
    shot("jobs")

    page.get_by_role("group", name="By kind").get_by_role("link", name="labeled").click()
    expect(rows).to_have_count(1)
    assert page.url.endswith("/jobs?kind=labeled")
    expect(rows.get_by_role("link", name="labeled")).to_have_attribute("href", f"/ingest?job={jobs[-1].id}")


def test_every_shard_is_a_square_by_its_state(page: Page, house):
    """As many as there are, of the champion's; each bucket leads to its pseudo-labels."""
    page.goto("/jobs")
    shards = house.client.shard_map()
    assert shards.num_shards > 0
    expect(page.locator(".us-squares i")).to_have_count(shards.num_shards)
    expect(page.locator(".us-squares i.d")).to_have_count(shards.num_done)
    expect(page.get_by_role("link", name="street", exact=True)).to_have_attribute(
        "href", "/pseudo-labels?bucket=street"
    )
