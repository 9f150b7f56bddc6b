"""The page of a comparison: the gate's certificate, the images, and overruling the verdict."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from understudy.generation_records import PairOutcome
from understudy.records import GenerationRequest, ModelVersion, VersionState

#: It must be shown as it is, and never run.
REASON = "<img src=x onerror=document.title='run'> we sell none of these"


@pytest.fixture
def refused(house) -> Iterator[ModelVersion]:
    """A version that the gate refused. At the end the champion is who it was."""
    champion = house.client.champion().id
    yield next(each for each in reversed(house.client.models()) if each.state == VersionState.REFUSED)
    if house.client.champion().id != champion:
        house.client.rollback(champion, reason="as it was")
    house.client.wait_until_serving(champion)


def test_the_certificate_has_the_verdict_and_every_rule(
    page: Page, house, refused: ModelVersion, shot: Callable[[str], None]
):
    """With the numbers of the report, and the paired counts as a square."""
    report = house.client.generation(refused.generation).report
    page.goto(f"/compare?challenger={refused.id}")
    certificate = page.get_by_role("region", name="Report of the gate")
    expect(certificate.get_by_role("img", name="refused")).to_be_visible()
    expect(certificate).to_contain_text(f"{refused.id} is not promoted over {report.champion.version}")
    for rule in report.rules:
        expect(certificate.get_by_role("row").filter(has_text=rule.sentence)).to_contain_text(rule.name)
    expect(page.locator("td.us-won")).to_contain_text(f"{report.gain.only_challenger_right:,}")
    expect(page.locator("td.us-lost")).to_contain_text(f"{report.gain.only_champion_right:,}")
    shot("compare")


@pytest.fixture
def poor(house) -> ModelVersion:
    """A version that the champion is told apart from: it has hardly learned."""
    request = GenerationRequest(recipe="tiny", overrides={"student_steps": 2, "warmup_steps": 0, "size": 16})
    opened = house.client.wait_for_generation(house.client.generate(request).number)
    return house.client.model(opened.version)


def test_the_images_that_tell_two_apart_are_those_of_the_counts(page: Page, house, poor: ModelVersion):
    """As many thumbnails as are counted, each of them loaded, and those of one class at its address."""
    champion = house.client.generation(poor.generation).report.champion.version
    counted = house.client.comparison(poor.id, champion)
    assert counted.lost > 0
    page.goto(f"/compare?challenger={poor.id}")
    expect(page.locator("figure.us-pair")).to_have_count(min(20, counted.won) + min(20, counted.lost))
    for image in page.locator("figure.us-pair img").all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("image => image.naturalWidth") > 0
    one = max(counted.classes, key=lambda each: each.lost).name
    page.goto(f"/compare?challenger={poor.id}&class={one}")
    of_class = [
        image
        for outcome in (PairOutcome.WON, PairOutcome.LOST)
        for image in house.client.compared_images(poor.id, champion, outcome=outcome, class_name=one)
    ]
    assert {image.truth for image in of_class} <= {one}
    expect(page.locator("figure.us-pair")).to_have_count(len(of_class))


def test_what_was_refused_is_promoted_with_a_reason_and_rolled_back(
    page: Page, house, refused: ModelVersion, shot: Callable[[str], None]
):
    """No reason, no promotion; both changes stand in the history with who and why, markup as text."""
    before = house.client.champion().id
    page.goto(f"/compare?challenger={refused.id}")
    page.get_by_role("button", name="Promote against the verdict").click()
    dialog = page.get_by_role("dialog")
    sure = dialog.get_by_role("button", name="Promote against the verdict")
    expect(sure).to_be_disabled()
    dialog.get_by_role("textbox", name="Reason").fill(REASON)
    sure.click()
    expect(page.get_by_text(f"{refused.id} serves")).to_be_visible()
    expect(page.locator(".us-against")).to_contain_text(REASON)

    page.goto("/serving")
    page.get_by_role("button", name=f"Serve again: {before}").click()
    page.get_by_role("dialog").get_by_role("textbox", name="Reason").fill("we do sell them")
    page.get_by_role("dialog").get_by_role("button", name="Serve again").click()
    newest = page.get_by_role("row").filter(has_text="we do sell them")
    expect(newest).to_contain_text(before)
    expect(newest).to_contain_text("serves")
    expect(page.get_by_role("row").filter(has_text=REASON)).to_contain_text(refused.id)
    assert [each.version for each in house.client.champions()[:2]] == [before, refused.id]
    assert "run" not in page.title()
    shot("champions")


def test_the_first_teacher_has_a_certificate_and_no_champion(page: Page, house):
    """It was held to guessing."""
    first = house.client.generation(0).version
    page.goto(f"/compare?challenger={first}")
    expect(page.get_by_role("region", name="Report of the gate")).to_contain_text("better-than-guessing")
