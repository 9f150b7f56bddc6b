"""With a key that may only look: every page opens, and what it may not do is refused in words and undone in sight."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from dashboard.pages import EVERY
from understudy import settings
from understudy.catalog import Catalog, keys
from understudy.records import KeyScope
from understudy.settings import DashboardSettings, ServiceSettings, Settings
from understudy.testing import free_port


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code < 500
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def guarded(house, until: Callable[..., None]) -> Iterator[str]:
    """A second service on the same data, which asks for keys, and its dashboard; gives the dashboard's address."""
    chosen = settings.read(Settings, data=house.stack.data, catalog_url="", store_url="", broker_url="")
    asked = settings.read(ServiceSettings, **chosen.model_dump(), host="127.0.0.1", port=free_port(), keys="required")
    service_url = f"http://127.0.0.1:{asked.port}"
    shown = settings.read(
        DashboardSettings, **chosen.model_dump(), host="127.0.0.1", port=free_port(), service_url=service_url
    )
    url = f"http://127.0.0.1:{shown.port}"
    with ExitStack() as stack:
        for program, of in (("service", asked), ("dashboard", shown)):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-m", program], env=of.environment(), stderr=subprocess.DEVNULL)
            )
            stack.callback(process.kill)
        until(lambda: answers(f"{service_url}/readyz") and answers(f"{url}/login"))
        yield url


@pytest.fixture(scope="module")
def key(house) -> str:
    """Of somebody who may ask for classes."""
    chosen = settings.read(Settings, data=house.stack.data, catalog_url="", store_url="", broker_url="")
    with closing(Catalog(chosen.catalog_url)) as catalog:
        return keys.create(catalog, name="visitor", scopes=[KeyScope.CLASSIFY])[1]


@pytest.fixture
def visitor(guarded: str, key: str, browser: Browser, until: Callable[..., None]) -> Iterator[Page]:
    """A page that was opened with that key, by the form that stands before every page."""
    context = browser.new_context(base_url=guarded, viewport={"width": 1280, "height": 860})
    opened = context.new_page()

    def is_in() -> bool:  # a key that was made this moment counts half a second later
        opened.goto("/review")
        opened.get_by_label("API key").fill(key)
        opened.get_by_role("button", name="Go on").click()
        return "/login" not in opened.url

    until(is_in)
    yield opened
    context.close()


def test_every_page_opens(visitor: Page):
    """As with any key: reading is open to all."""
    for path in (page.path for page in EVERY if "{" not in page.path):
        visitor.goto(path)
        expect(visitor.locator("h1")).to_be_visible()
        expect(visitor.get_by_role("alert")).to_have_count(0)


def test_a_review_is_refused_in_words_and_the_image_comes_back(visitor: Page, house):
    """The key that would be needed is named; nothing is written down."""
    visitor.goto("/review")
    visitor.wait_for_function("() => window.usReview")
    sha256 = visitor.locator(".us-one:visible").get_attribute("data-sha256")
    visitor.keyboard.press("r")
    expect(visitor.get_by_text("needs a key with the scope admin")).to_be_visible()
    expect(visitor.locator(".us-past").first).to_contain_text("refused")
    expect(visitor.locator(".us-one").nth(1)).to_have_attribute("data-sha256", sha256)  # after the one in sight
    assert next(house.client.reviews(sha256=sha256, limit=1), None) is None


def test_the_loop_is_not_paused(visitor: Page, house):
    """The button is there, and says why it does nothing."""
    visitor.goto("/")
    visitor.get_by_role("button", name="Pause").click()
    visitor.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(visitor.get_by_text("needs a key with the scope admin")).to_be_visible()
    assert not house.client.loop().paused
