"""The loop's page, and what is around every page."""

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect

from dashboard.pages import EVERY

PATHS = [page.path for page in EVERY if "{" not in page.path]


def test_the_loop_shows_the_champion_and_every_generation(page: Page, house, shot: Callable[[str], None]):
    """The version in the middle of the picture serves, and each generation is a line."""
    page.goto("/")
    champion = house.client.champion().id
    expect(page.locator("svg.us-loop .core")).to_have_text(champion)
    for generation in house.client.generations():
        expect(page.get_by_role("link", name=f"Generation {generation.number}", exact=True)).to_be_visible()
    expect(page.locator("svg.us-loop")).to_contain_text("60 in 1 bucket")
    shot("loop")


@pytest.mark.parametrize("path", PATHS)
def test_every_page_stands_in_the_menu_and_has_a_head(page: Page, path: str, shot: Callable[[str], None]):
    """By its own address, without a fault; what it is about is its first heading."""
    page.goto(path)
    expect(page.locator("h1")).to_be_visible()
    expect(page.locator("nav a[aria-current]")).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_count(0)
    shot(f"page{path.replace('/', '-')}")


def test_the_keyboard_reaches_the_page_past_the_menu(page: Page):
    """The first tab stop leads to the page; the menu's entries follow it."""
    page.goto("/")
    expect(page.locator("h1")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator(".us-skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


def test_dark_is_remembered(page: Page):
    """Also when the page is opened again."""
    page.goto("/")
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("body.body--dark")).to_be_visible()
    page.reload()
    expect(page.locator("body.body--dark")).to_be_visible()


def test_the_services_front_leads_here(house):
    """Who opens the service's address sees the pages; who names the dashboard otherwise is a stranger."""
    front = httpx.get(house.stack.url, trust_env=False)
    assert (front.status_code, front.headers["location"]) == (307, house.url)
    answer = httpx.get(house.url, trust_env=False)
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert httpx.get(house.url, headers={"Host": "elsewhere.example"}, trust_env=False).status_code == 400
