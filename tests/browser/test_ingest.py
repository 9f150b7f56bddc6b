"""The ingest page: what is dropped is accounted for, and a bucket can be taken back."""

import io
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from understudy.testing import picture

#: As the names of strangers' files may be.
MARKUP = "<img src=x onerror=document.title='run'>.png"

_AS_DROPPED = """([name, bytes]) => {
    const dropped = new DataTransfer();
    dropped.items.add(new File([new Uint8Array(bytes)], name));
    return dropped;
}"""


@pytest.fixture
def deleted_after(house):
    """Buckets that a test made: gone after it."""
    made: list[str] = []
    yield made.append
    for name in made:
        if name in [bucket.name for bucket in house.client.buckets()]:
            house.client.delete_bucket(name)


def number_of(figure: Locator) -> int:
    """The number of a figure."""
    return int(figure.locator(".us-value").inner_text().replace(",", ""))


def test_a_dropped_archive_has_a_receipt_whose_parts_sum_to_its_entries(
    page: Page, house, archive: Callable[..., io.BytesIO], deleted_after, shot: Callable[[str], None]
):
    """Names with markup are text, a duplicate leads to its first copy, and the bucket is deleted where it is listed."""
    deleted_after("dropped")
    twice = picture(0, 3, seed=70_000, size=16, noise=60)
    packed = archive(12, first_seed=70_001, also={"first.png": twice, "twice.png": twice, MARKUP: b"no picture"})
    page.goto("/ingest")
    page.get_by_label("Bucket").first.fill("dropped")
    dropped = page.evaluate_handle(_AS_DROPPED, ["holiday.zip", list(packed.getvalue())])
    page.dispatch_event("form.us-drop", "drop", {"dataTransfer": dropped})

    page.wait_for_url("**/ingest?job=*")
    receipt = page.locator(".us-receipt")
    expect(receipt.get_by_text("succeeded")).to_be_visible()
    expect(receipt.locator("h2")).to_have_text("holiday.zip → dropped")
    figures = receipt.locator(".us-figure")
    *parts, entries = [number_of(figures.nth(i)) for i in range(figures.count())]
    assert (sum(parts), entries) == (15, 15)
    pieces = receipt.locator(".us-bar > div")
    assert [pieces.nth(i).get_attribute("title") for i in range(3)] == [
        "13 accepted",
        "1 there already",
        "1 quarantined",
    ]
    expect(page.locator(".us-card .us-name")).to_have_text(MARKUP)
    expect(page.locator(".us-card figcaption")).to_contain_text("not_an_image")
    assert page.title() == "Ingest · Understudy"
    shot("receipt")

    page.get_by_role("link", name="entry 0").click()
    expect(page.get_by_role("heading", name="Entry 0")).to_be_visible()
    expect(page.locator(".us-card .us-name").first).to_have_text("first.png")

    page.get_by_role("button", name="Delete dropped").click()
    expect(page.get_by_role("alertdialog")).to_contain_text("13 images in 1 shard")
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("button", name="Delete dropped")).to_have_count(0)
    assert "dropped" not in [bucket.name for bucket in house.client.buckets()]


def test_several_files_are_one_upload(page: Page, house, deleted_after):
    """Chosen together they have one receipt, and it is a download."""
    deleted_after("several")
    page.goto("/ingest?bucket=several")
    files = [
        {"name": f"{i}.png", "mimeType": "image/png", "buffer": picture(0, 3, seed=80_000 + i, size=16, noise=60)}
        for i in range(3)
    ]
    page.get_by_label("Choose files").set_input_files(files)
    page.wait_for_url("**/ingest?job=*")
    expect(page.locator(".us-receipt").get_by_text("entries in all")).to_be_visible()
    assert number_of(page.locator(".us-receipt .us-figure").last) == 3
    link = page.get_by_role("link", name="Receipt as CSV").get_attribute("href")
    answer = httpx.get(f"{house.url}{link}", trust_env=False)
    assert answer.headers["content-disposition"].startswith("attachment")
    assert [line.split(",")[1] for line in answer.text.splitlines()] == ["name", "0.png", "1.png", "2.png"]


def test_a_bucket_needs_a_name_and_what_the_service_refuses_is_said(page: Page, house):
    """Nothing is sent to no bucket; and nothing is taken from another site's page."""
    page.goto("/ingest")
    empty = {"name": "a.zip", "mimeType": "application/zip", "buffer": b"PK"}
    for name in ("", "Not A Name"):
        page.get_by_label("Bucket").first.fill(name)
        page.get_by_label("Choose files").set_input_files(empty)
        expect(page.locator(".us-sent-words")).to_contain_text("Name a bucket first")
    answer = httpx.post(f"{house.url}/ingest/send?bucket=street", content=b"PK", trust_env=False)
    assert answer.status_code == 403


def test_a_source_that_may_not_be_asked_is_refused_in_words(page: Page):
    """The service says why; the page stays as it is."""
    page.goto("/ingest?bucket=street")
    page.get_by_text("Or take what lies elsewhere").click()
    page.get_by_label("URL").fill("ftp://example.org/photos")
    page.get_by_role("button", name="Take these").click()
    expect(page.locator(".q-notification")).to_contain_text("ftp")
