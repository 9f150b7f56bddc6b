"""A real browser before a real system that has turned once: started once for all the tests in this folder.

Every page is held to what holds for all: nothing is loaded from anywhere else, and no script fails.
"""

import io
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from understudy import local
from understudy.client import Client
from understudy.local import Stack
from understudy.records import GenerationRequest
from understudy.testing import free_port, picture, zipped

CLASSES = ("amber", "jade", "lilac")
#: Any of these draws the pages. Debian's is a package: apt-get install chromium.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: Where pictures of the pages are kept; not in the repository.
SCREENSHOTS = Path(__file__).parents[2] / "screenshots"
#: A page on a machine that is busy with other tests is there within this time.
PATIENCE_MS = 30_000
#: Little enough to take seconds.
TURN = GenerationRequest(recipe="tiny", overrides={"teacher_steps": 40, "student_steps": 40, "size": 16})
#: What is on the quarantined entry's name, and must never run.
MARKUP = "<img src=x onerror=document.title='run'>.png"


@dataclass(frozen=True)
class House:
    """A running system, and what is in it: generation 0 promoted, one bucket labeled, generation 1 judged."""

    stack: Stack
    client: Client

    @property
    def url(self) -> str:
        return self.stack.dashboard_url


@pytest.fixture(scope="session")
def archive() -> Callable[..., io.BytesIO]:
    """An archive of coloured pictures: in a folder a class, or in none; one more that is none, if wanted."""

    def made(
        count: int, *, first_seed: int, in_folders: bool = False, also: dict[str, bytes] | None = None
    ) -> io.BytesIO:
        files = dict(also or {})
        for i in range(count):
            c, seed = i % len(CLASSES), first_seed + i
            folder = f"{CLASSES[c]}/" if in_folders else ""
            files[f"{folder}{seed}.png"] = picture(c, len(CLASSES), seed=seed, size=16, noise=60)
        return zipped(files)

    return made


@pytest.fixture(scope="session")
def house(archive: Callable[..., io.BytesIO]) -> Iterator[House]:
    """The system of all these tests. What a test changes, the next one finds changed."""
    with (
        tempfile.TemporaryDirectory(prefix="understudy-") as folder,
        local.running(Path(folder) / "data", port=free_port(), on_line=_told) as stack,
        Client(stack.url) as client,
    ):
        client.wait_for_job(client.labeled(archive(90, first_seed=0, in_folders=True), request=TURN).id)
        client.wait_for_generation(0)
        sent = archive(60, first_seed=1000, also={MARKUP: b"no picture"})
        client.wait_for_job(client.ingest("street", sent).id)
        client.wait_for_generation(client.generate(TURN).number)
        yield House(stack, client)


def _told(name: str, line: str) -> None:
    print(f"{name}: {line}")


@pytest.fixture(scope="module")
def browser(pytestconfig: pytest.Config) -> Iterator[Browser]:
    """The system's Chromium, without a window. Closed after each file: its event loop would stand in others' way."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        give_up = pytest.fail if pytestconfig.getoption("--browser") else pytest.skip
        give_up(f"there is no browser here: none of {', '.join(BROWSERS)} (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(house: House, browser: Browser) -> Iterator[Page]:
    """An empty page at the dashboard's address. At the end: nothing came from elsewhere, and no script failed."""
    faults: list[str] = []

    def said(message: ConsoleMessage) -> None:
        # A page that is left while it is loading says so; that is nobody's fault.
        if message.type == "error" and "net::ERR_ABORTED" not in message.text:
            faults.append(f"console: {message.text}")

    def asked(request: Request) -> None:
        if not request.url.startswith((house.url, house.url.replace("http", "ws", 1), "data:", "blob:")):
            faults.append(f"from elsewhere: {request.url}")

    context = browser.new_context(base_url=house.url, viewport={"width": 1280, "height": 860}, color_scheme="light")
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    opened = context.new_page()
    opened.on("console", said)
    opened.on("request", asked)
    opened.on("pageerror", lambda error: faults.append(f"script: {error}"))
    yield opened
    context.close()
    assert not faults, faults


@pytest.fixture
def shot(page: Page) -> Callable[[str], None]:
    """Keep a picture of the page under a name."""

    def kept(name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{re.sub('[^a-z0-9-]', '-', name)}.png")

    return kept
