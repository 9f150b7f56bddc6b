"""Many images at once: several are chosen, and one thing is said of all of them, or nothing of any."""

import asyncio
from collections.abc import Callable, Collection, Sequence

from nicegui import ui
from nicegui.events import GenericEventArguments

from dashboard import frame, words
from dashboard.frame import View
from dashboard.review.feed import Feed
from dashboard.review.search import keycap, search
from understudy.errors import UnderstudyError
from understudy.review_records import QueueItem

#: Images in sight; as many are asked for when these are done.
PART = 60


class Grid:
    """The images of one open page, which of them are chosen, and what was said last."""

    def __init__(self, view: View, feed: Feed) -> None:
        self._view, self._feed = view, feed
        self._tiles: dict[str, tuple[QueueItem, ui.element]] = {}
        self._chosen: set[str] = set()
        self._last = ""  #: chosen, from where shift reaches
        self._done: list[tuple[list[int], list[QueueItem]]] = []
        self._num_said = 0
        with frame.panel(classes="us-bulk"):
            self._head = frame.element("div", "us-row")
            with self._head:
                self._actions()
        self._place = frame.element("div", "us-thumbs us-tiles", role="group", aria_label="Images to choose from")
        self._below = frame.element("div", "us-live")

    def open(self, items: Sequence[QueueItem]) -> None:
        """Show the first images."""
        self._show(items)

    def _actions(self) -> None:
        self._count = frame.element("div", "us-count", role="status")
        for label, key, kind, handler in (
            ("Accept", "a", "us-do us-main", self._accept),
            ("Reject", "r", "us-do", self._reject),
            ("Choose all", "e", "us-do", self._choose_all),
            ("Choose none", "n", "us-do", self._choose_none),
            ("Undo the last", "u", "us-do", self._undo),
        ):
            with frame.element("button", kind, type="button", data_key=key) as button:
                frame.text(label)
                keycap(key)
            button.on("click", handler)
        with frame.element("div", "us-grow"):
            search(self._feed.classes, self._correct, label="Correct to")

    def _show(self, items: Sequence[QueueItem], *, first: bool = False) -> None:
        for at, item in enumerate(items):
            with self._place:
                tile = frame.element(
                    "button", "us-tile", type="button", aria_pressed="false", data_sha256=item.sha256,
                )  # fmt: skip
            with tile:
                frame.thumbnail(item.sha256, size=160)
                with frame.element("span", "us-rv-caption"):
                    frame.text(item.label, "us-rv-name")
                    frame.text(words.percent(item.confidence, 0), "us-soft")
                if item.previous_label not in (None, item.label):
                    frame.text(f"was {item.previous_label}", "us-rv-was")
            tile.on("click", lambda event, sha256=item.sha256: self._choose(sha256, event), ["shiftKey"])
            self._tiles[item.sha256] = (item, tile)
            if first:
                tile.move(self._place, at)
        self._tell()

    # -- choosing -------------------------------------------------------------------------------

    def _choose(self, sha256: str, event: GenericEventArguments) -> None:
        """This one, or no more; with shift, all from the one before to this one."""
        reach = [sha256]
        if event.args.get("shiftKey") and self._last in self._tiles and sha256 in self._tiles:
            every = [str(tile.props["data-sha256"]) for tile in self._place.default_slot.children]
            ends = sorted((every.index(self._last), every.index(sha256)))
            reach = every[ends[0] : ends[1] + 1]
            self._chosen.update(reach)
        else:
            self._chosen ^= {sha256}
        self._last = sha256
        self._mark(reach)

    def _choose_all(self) -> None:
        self._chosen = set(self._tiles)
        self._mark(self._tiles)

    def _choose_none(self) -> None:
        self._chosen.clear()
        self._mark(self._tiles)

    def _mark(self, some: Collection[str]) -> None:
        for sha256 in some:
            tile = self._tiles[sha256][1]
            tile.props["aria-pressed"] = "true" if sha256 in self._chosen else "false"
        self._tell()

    def _tell(self) -> None:
        num = len(self._chosen)
        said = f" · {self._num_said:,} done" if self._num_said else ""
        self._count.clear()
        with self._count:
            frame.text(f"{words.plural(num, 'image')} chosen{said}")
        self._below.clear()
        if not self._tiles:
            with self._below:
                frame.nothing("Nothing is left to review here.")

    # -- saying ---------------------------------------------------------------------------------

    async def _accept(self) -> None:
        await self._say(lambda item: item.label, False)

    async def _reject(self) -> None:
        await self._say(lambda item: None, False)

    def _correct(self, name: str, is_new: bool) -> None:
        ui.timer(0, lambda: self._say(lambda item: name, is_new), once=True)

    async def _say(self, class_of: Callable[[QueueItem], str | None], is_new: bool) -> None:
        chosen = [item for sha256, (item, _) in self._tiles.items() if sha256 in self._chosen]
        if not chosen:
            ui.notify("Choose images first: click one, shift-click the last of a row of them.", type="info")
            return
        decisions = [self._feed.decision(item, class_of(item), is_new=is_new) for item in chosen]
        said = f"{words.plural(len(chosen), 'image')} reviewed."
        reviews = await frame.act(self._view, lambda client: client.review(decisions), said)
        if reviews is None:
            await self._look_again(chosen)
            return
        self._done.append(([each.id for each in reviews], chosen))
        self._num_said += len(chosen)
        self._remove(chosen)
        if len(self._tiles) < PART // 3 and not self._feed.is_over:
            try:
                self._show(await self._feed.more(PART))
            except UnderstudyError as error:
                ui.notify(str(error), type="negative")

    def _remove(self, items: Sequence[QueueItem]) -> None:
        for item in items:
            self._tiles.pop(item.sha256)[1].delete()
            self._chosen.discard(item.sha256)
        self._tell()

    async def _look_again(self, items: Sequence[QueueItem]) -> None:
        """After a refusal, nothing of which was written: the labels may be others by now."""
        try:
            seen = await asyncio.gather(*(self._feed.again(item) for item in items))
        except UnderstudyError:
            return  # what refused the first has been said
        for item, now in zip(items, seen, strict=True):
            if now is None or (now.label, now.confidence) != (item.label, item.confidence):
                self._remove([item])
                self._show([now] if now else [], first=True)

    async def _undo(self) -> None:
        if not self._done:
            ui.notify("Nothing was said here that could be undone.", type="info")
            return
        ids, items = self._done[-1]
        said = f"Undone: {words.plural(len(items), 'image')} as before."
        if await frame.act(self._view, lambda client: client.undo_reviews(ids), said) is None:
            return
        self._done.pop()
        self._num_said -= len(items)
        self._show(items, first=True)
        self._chosen = {item.sha256 for item in items}
        self._mark(self._tiles)
