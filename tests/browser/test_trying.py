"""The page to try an image on."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from understudy.testing import picture


def test_an_image_is_answered_by_the_champion_and_beside_it_by_any_version(
    page: Page, house, shot: Callable[[str], None]
):
    """As the service answers, with the version that did; the others are chosen by a link."""
    image = picture(1, 3, seed=90_000, size=16, noise=60)
    said = house.client.classify(image)
    page.goto("/try")
    page.get_by_label("Choose an image").set_input_files({"name": "one.png", "mimeType": "image/png", "buffer": image})
    page.wait_for_url("**/try?image=*")
    champion = page.locator(".us-answers-now")
    expect(champion.locator("h2")).to_have_text(said.model)
    expect(champion.locator(".us-best dt")).to_have_text(said.predictions[0].label or "")
    expect(champion).to_contain_text("answered in")
    assert page.locator("img.us-tried").evaluate("image => image.decode().then(() => image.naturalWidth)") == 16

    other = next(model.id for model in house.client.models() if model.id != said.model)
    page.goto(f"{page.url}&with={other}")
    beside = page.locator(".us-answer", has=page.get_by_role("heading", name=other))
    expect(beside).to_contain_text("of loading")
    expect(beside.locator(".us-bars dt")).to_have_count(3)
    shot("try")
    page.get_by_role("link", name=other).click()
    expect(beside).to_have_count(0)


def test_an_ingested_image_is_tried_by_its_link(page: Page, house):
    """And what is no image is refused in words, as is one that is held no more."""
    (label,) = house.client.pseudo_labels(limit=1)
    page.goto(f"/try?sha256={label.sha256}")
    expect(page.locator(".us-answers-now .us-best dt")).to_have_text(label.label)
    page.get_by_label("Choose an image").set_input_files(
        {"name": "one.png", "mimeType": "image/png", "buffer": b"<script>"}
    )
    expect(page.get_by_role("alert")).to_contain_text("not an image")
    page.goto("/try?image=nothing")
    expect(page.locator(".us-nothing")).to_contain_text("held no more")
