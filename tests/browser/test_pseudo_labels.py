"""The pseudo-labels' page: from the counts to the images, and to one image's probabilities."""

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from understudy.label_records import PreviewRequest

CELL = re.compile(r"[?&]class=\w+.*min_confidence=")


def test_a_cell_leads_to_its_images_and_one_of_them_to_its_probabilities(
    page: Page, house, shot: Callable[[str], None]
):
    """As many images as the cell says; the image tells what each teacher said."""
    page.goto("/pseudo-labels")
    cell = page.locator("svg.us-matrix a", has=page.locator("rect.cell")).last
    said = cell.get_attribute("aria-label")
    name, low, number = re.fullmatch(r"(\w+), ([\d.]+) to [\d.]+: (\d+) images?", said).groups()
    shot("pseudo-labels")
    cell.click()
    expect(page).to_have_url(CELL)
    expect(page.locator(".us-labeled .us-thumb")).to_have_count(min(60, int(number)))
    expect(page.locator(".us-caption .us-name").first).to_have_text(name)
    expect(page.get_by_role("combobox", name="Class", exact=True)).to_have_value(name)
    assert float(page.get_by_label("Confidence from").input_value()) == float(low)

    href = page.locator(".us-labeled .us-thumb").first.get_attribute("href")
    page.locator(".us-labeled .us-thumb").first.click()
    told = house.client.labels_of(href.rpartition("/")[2])
    plot = page.get_by_role("img", name=f"{told[-1].teacher}: {told[-1].label}")
    expect(plot).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(len(told))
    picture = page.locator(".us-image img")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(page.locator("#main").get_by_role("link", name="Try it")).to_have_attribute(
        "href", f"/try?sha256={told[-1].sha256}"
    )
    shot("pseudo-label")


def test_a_choice_is_in_the_address_and_opened_afresh_shows_the_same(page: Page, house):
    """Filled in as a form, read from the address alone."""
    page.goto("/pseudo-labels")
    page.get_by_label("Order").select_option("unsure")
    page.get_by_label("Confidence to").fill("0.999")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile("sort=unsure"))
    images = page.locator(".us-labeled .us-thumb")
    expect(images.first).to_be_visible()
    before = images.evaluate_all("every => every.map(each => each.getAttribute('href'))")
    address = page.url
    page.goto("/")
    page.goto(address)

    expect(images.first).to_be_visible()
    assert images.evaluate_all("every => every.map(each => each.getAttribute('href'))") == before
    asked = house.client.pseudo_labels(sort="confidence", order="asc", max_confidence=0.999, limit=60)
    assert [href.rpartition("/")[2] for href in before] == [each.sha256 for each in asked]
    expect(page.get_by_label("Order")).to_have_value("unsure")


def test_the_threshold_says_what_is_kept_and_dropped(page: Page, house):
    """As a selection's preview does; a step of the axis sets it."""
    page.goto("/pseudo-labels?threshold=0.5")
    expect(page.locator(".us-figure .us-value").first).not_to_have_text("–")
    page.locator("svg.us-matrix a", has=page.locator("title", has_text="Threshold 0.95")).dispatch_event("click")
    expect(page).to_have_url(re.compile("threshold=0.95"))
    told = house.client.preview(PreviewRequest(threshold=0.95))
    expect(page.locator(".us-figure .us-value").first).to_have_text(f"{told.num_candidates:,}")


def test_markup_in_the_address_is_words(page: Page):
    """A class of that name is refused in words, and looked for in vain."""
    page.goto("/pseudo-labels?class=%3Cimg+src%3Dx+onerror%3Ddocument.title%3D1%3E")
    expect(page.get_by_role("alert")).to_contain_text("<img src=x")
    page.goto("/pseudo-labels?find=%3Cimg+src%3Dx+onerror%3Ddocument.title%3D1%3E")
    expect(page.get_by_role("searchbox")).to_have_value("<img src=x onerror=document.title=1>")
    assert "Pseudo-labels" in page.title()
