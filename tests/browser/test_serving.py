"""The page of serving."""

import time
from collections.abc import Callable

from playwright.sync_api import Page, expect

from dashboard.traffic import parsed
from understudy.records import DeploymentKind, DeploymentRequest, DeploymentState
from understudy.testing import picture


def test_a_request_is_counted_while_one_looks(page: Page, house, shot: Callable[[str], None]):
    """The number of requests rises by those that are made, and their latency has a figure."""
    image = picture(0, 3, seed=1, size=16)
    house.client.classify(image)
    before = round(sum(parsed(house.client.metrics(), time.time()).answers.values()))
    page.goto("/serving")
    total = page.locator(".us-figure").filter(has_text="requests in all").locator(".us-value")
    expect(total).to_have_text(f"{before:,}")
    for _ in range(3):
        house.client.classify(image)
    expect(total).to_have_text(f"{before + 3:,}")
    expect(page.locator(".us-figure").filter(has_text="p50").locator(".us-value")).to_contain_text("ms")
    expect(page.locator(".us-marquee")).to_contain_text(house.client.champion().id)
    expect(page.get_by_role("img", name="Requests a second").locator("svg path").first).to_be_attached()
    shot("serving")


def test_a_shadow_is_seen_and_taken_off(page: Page, house):
    """With what was asked of it; it ends with a reason."""
    challenger = next(model.id for model in house.client.models() if not model.is_champion)
    asked = DeploymentRequest(version=challenger, kind=DeploymentKind.SHADOW, share=1.0)
    deployment = house.client.deploy(asked)
    page.goto("/serving")
    line = page.get_by_role("row").filter(has_text="shadow, 100 %")
    expect(line).to_contain_text("active")
    line.get_by_role("button", name=f"End the shadow of {challenger}").click()
    page.get_by_role("dialog").get_by_role("textbox", name="Reason").fill("seen enough")
    page.get_by_role("dialog").get_by_role("button", name="End").click()
    expect(line).to_contain_text("seen enough")
    assert house.client.deployment(deployment.id).state == DeploymentState.ENDED
