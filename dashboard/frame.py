"""What is around every page, and the few ways in which pages ask, show and act.

A page is a function of a ``View``: the system, and what the address says. Whatever people choose on a page is in its
address too, so every view is a link.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from nicegui import ui

from dashboard.sessions import COOKIE, Sessions, System, needs_key
from understudy.client import Client
from understudy.errors import UnderstudyError

T = TypeVar("T")

#: Quasar's own colours, where its elements ask for one; ours are in static/look.css.
COLOURS = {"primary": "#8c1c3b", "positive": "#2a7d6f", "negative": "#b3261e", "warning": "#b97900", "info": "#40618f"}
#: A page that asks more than a moment's work of the service is still answered; NiceGUI's own limit is three seconds.
RESPONSE_TIMEOUT_S = 30.0
#: What changes is looked at anew this often while a page is open.
EVERY_S = 2.0

_HEAD = '<link rel="stylesheet" href="/static/look.css"><script src="/static/send.js" defer></script>'


@dataclass(frozen=True)
class View:
    """What a page is of."""

    system: System
    path: str
    parts: Mapping[str, str] = field(default_factory=dict)  #: of the path: ``/generations/{number}``
    query: Mapping[str, str] = field(default_factory=dict)

    async def ask(self, question: Callable[[Client], T]) -> T:
        """Ask the service. Raises UnderstudyError."""
        return await self.system.ask(question)

    def link(self, **changed: object) -> str:
        """The address of this page with other choices; None takes a choice away."""
        chosen = dict(self.query) | changed
        return address(self.path, **chosen)

    def go(self, **changed: object) -> None:
        """Show this page with other choices."""
        ui.navigate.to(self.link(**changed))


def address(path: str, **chosen: object) -> str:
    """The address of a page with these choices; None and nothing are no choice."""
    said = {name: str(value) for name, value in chosen.items() if value is not None and value != ""}
    return f"{path}?{urlencode(said)}" if said else path


@dataclass(frozen=True)
class Page:
    """One page: where it is, what it is called, and what builds it."""

    path: str
    title: str
    build: Callable[[View], Awaitable[None]]
    icon: str = ""  #: of Material Icons; none: it is not in the menu


def serve(every: Sequence[Page], sessions: Sessions) -> None:
    """Make addresses of pages. Those with an icon are in the menu of all, in this order."""
    ui.add_head_html(_HEAD, shared=True)
    menu = [page for page in every if page.icon]
    for page in every:
        _serve(page, menu, sessions)


def _serve(page: Page, menu: Sequence[Page], sessions: Sessions) -> None:
    @ui.page(page.path, title=f"{page.title} · Understudy", response_timeout=RESPONSE_TIMEOUT_S)
    async def shown(request: Request) -> Response | None:
        system = sessions.of(request.cookies)
        view = View(system, request.url.path, dict(request.path_params), dict(request.query_params))
        with _around(page, menu, is_known=COOKIE in request.cookies):
            try:
                await page.build(view)
            except UnderstudyError as error:
                if needs_key(error):
                    return RedirectResponse(f"/login?next={quote(view.link(), safe='')}", status_code=303)
                problem(error)
        return None


@contextmanager
def _around(page: Page, menu: Sequence[Page], *, is_known: bool) -> Iterator[None]:
    ui.colors(**COLOURS)
    link("Skip to the page", "#main", "us-skip")
    with element("header", "us-side"):
        link("Understudy", "/", "us-brand")
        with element("nav", aria_label="Pages"):
            for each in menu:
                here = {"aria_current": "page"} if _is_within(page, each) else {}
                with element("a", href=each.path, **here):
                    ui.icon(each.icon).props["aria-hidden"] = "true"
                    text(each.title)
        with element("div", "us-foot"):
            _theme()
            if is_known:
                with element("form", method="post", action="/logout"), element("button", type="submit"):
                    text("Leave")
    with element("main", id="main", tabindex="-1"):
        yield


def _is_within(page: Page, entry: Page) -> bool:
    return page.path == entry.path or (entry.path != "/" and page.path.startswith(f"{entry.path}/"))


def _theme() -> None:
    """Light or dark: as the system has it, until somebody says otherwise; the browser remembers that."""
    dark = ui.dark_mode(None)
    ui.on("us-theme", lambda event: dark.set_value(event.args))
    ui.run_javascript(
        "const kept = localStorage.getItem('understudy-theme'); if (kept) emitEvent('us-theme', kept === 'dark')"
    )

    def change(value: bool | None) -> None:
        dark.set_value(value)
        ui.run_javascript(f"localStorage.setItem('understudy-theme', '{'dark' if value else 'light'}')")

    with element("div", "us-theme", role="group", aria_label="Colours"):
        ui.button(icon="light_mode", on_click=lambda: change(False)).props("flat dense aria-label=Light")
        ui.button(icon="dark_mode", on_click=lambda: change(True)).props("flat dense aria-label=Dark")


# -- showing ----------------------------------------------------------------------------------------


def element(tag: str, classes: str = "", **attributes: object) -> ui.element:
    """An element of the page. ``aria_label`` is the attribute ``aria-label``; a value is a value, whatever is in it."""
    made = ui.element(tag).classes(classes)
    for name, value in attributes.items():
        made.props[name.rstrip("_").replace("_", "-")] = value
    return made


def text(words: object, classes: str = "", tag: str = "span") -> ui.element:
    """Words as they are: whatever a user named something, it is shown, never read as markup."""
    return ui.html(str(words), sanitize=escape, tag=tag).classes(classes)


def heading(title: str, said: str = "") -> None:
    """The head of a page."""
    with element("div", "us-heading"):
        text(title, tag="h1")
        if said:
            text(said, "us-soft", "p")


@contextmanager
def panel(title: str = "", said: str = "", classes: str = "") -> Iterator[ui.element]:
    """A part of a page, under a title of its own."""
    with element("section", f"us-panel {classes}") as section:
        if title:
            text(title, tag="h2")
        if said:
            text(said, "us-soft", "p")
        yield section


def figure(value: object, label: str, classes: str = "") -> None:
    """A number and what it counts."""
    with element("div", f"us-figure {classes}"):
        text(value, "us-value")
        text(label, "us-soft")


def badge(words: object, kind: str = "") -> None:
    """A state in a word: kind is good, bad, busy, or nothing."""
    text(words, f"us-badge us-{kind}" if kind else "us-badge")


def link(words: object, to: str, classes: str = "") -> None:
    """A link to another view."""
    with element("a", classes, href=to):
        text(words)


def nothing(words: str, command: str = "") -> None:
    """What stands where there is nothing yet: why, and what brings something."""
    with element("div", "us-nothing"):
        text(words, tag="p")
        if command:
            text(command, tag="code")


def problem(error: Exception) -> None:
    """What the service refused, or that it does not answer."""
    with element("div", "us-problem", role="alert"):
        text(error)


@contextmanager
def table(*columns: str) -> Iterator[None]:
    """A table of rows; a column whose name ends in ``#`` holds numbers."""
    with element("div", "us-scroll"), element("table", "us-table"):
        with element("thead"), element("tr"):
            for name in columns:
                text(name.removesuffix("#"), "us-right" if name.endswith("#") else "", "th")
        with element("tbody"):
            yield


@contextmanager
def row() -> Iterator[None]:
    """A row of a table."""
    with element("tr"):
        yield


@contextmanager
def cell(classes: str = "") -> Iterator[None]:
    """A cell of a row."""
    with element("td", classes):
        yield


def thumbnail(sha256: str, *, size: int = 160, alt: str = "") -> ui.element:
    """An image that was ingested. It is loaded when it comes into sight."""
    described = alt or f"image {sha256[:12]}"
    return element("img", src=f"/picture/{sha256}?size={size}", alt=described, loading="lazy", decoding="async")


async def live(
    fetch: Callable[[], Awaitable[T]], draw: Callable[[T], Any], *, every_s: float = EVERY_S
) -> Callable[[], Awaitable[None]]:
    """Draw what is fetched, now, and again whenever it has become another; gives what looks at once.

    While the service does not answer, what was drawn last stays, under a line that says so. Raises UnderstudyError
    for the first fetch.
    """
    said, place = element("div", "us-said"), element("div", "us-live")
    drawn: list[T] = [await fetch()]
    with place:
        draw(drawn[0])

    async def look() -> None:
        said.clear()
        try:
            fetched = await fetch()
        except UnderstudyError as error:
            with said:
                problem(error)
            return
        if fetched != drawn[0]:
            drawn[0] = fetched
            place.clear()
            with place:
                draw(fetched)

    ui.timer(every_s, look, immediate=False)
    return look


async def act(view: View, question: Callable[[Client], T], said: str) -> T | None:
    """Do something that a button asks for, and say that it is done; None: it was refused, and that is said."""
    shown = ui.context.client  # the button itself may be drawn anew meanwhile
    try:
        answer = await view.ask(question)
    except UnderstudyError as error:
        with shown:
            ui.notify(str(error), type="negative", multi_line=True, timeout=8000, close_button="Close")
        return None
    with shown:
        ui.notify(said, type="positive")
    return answer
