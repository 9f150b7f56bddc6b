"""One image at a time. Whoever says what it is sees the next at once; what was said is sent beside it, in its order."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from nicegui import background_tasks, ui
from nicegui.events import GenericEventArguments

from dashboard import frame, words
from dashboard.frame import View
from dashboard.review.feed import Feed, keys_of
from dashboard.review.search import keycap, search
from understudy.client import RequestFailed
from understudy.errors import UnderstudyError
from understudy.review_records import MAX_REVIEWS, Decision, QueueItem, Review, Verdict

#: Images that are loaded before it is their turn.
AHEAD = 8
#: Asked for at a time, and asked again when fewer than half of them wait.
PART = 48
#: Classes of which an image's probability is drawn; all, where there are ten at most.
NUM_BARS, ALL_BARS = 6, 10
#: Buttons of an audit; a class beyond them is named by its beginning.
NUM_BUTTONS = 30
#: What was said last, in sight.
STRIP = 12
#: An image of few pixels is not drawn so large that nobody knows it.
_TINY = "(event) => event.target.classList.toggle('us-tiny', event.target.naturalWidth < 64)"
#: Refusals after which it makes no sense to show the image again: somebody said it otherwise, or it is gone.
SETTLED = ("already_labeled", "not_labeled", "not_in_audit", "not_found", "image_not_found")


@dataclass(eq=False)
class Said:
    """What was said of an image here."""

    item: QueueItem
    decision: Decision | None  #: None: it was skipped
    review: Review | None = None  #: None: not written (yet)
    problem: str = ""
    is_undone: bool = False

    @property
    def word(self) -> str:
        if self.decision is None:
            return "skipped"
        return "rejected" if self.decision.class_name is None else self.decision.class_name


class Desk:
    """The images of one open page, and what was said of them."""

    def __init__(self, view: View, feed: Feed, changed: Callable[[], Awaitable[None]]) -> None:
        self._view, self._feed, self._changed = view, feed, changed
        self._waiting: deque[QueueItem] = deque()
        self._cards: dict[str, tuple[QueueItem, ui.element]] = {}
        self._said: list[Said] = []
        self._pending: list[Said] = []  #: said, and not sent yet
        self._in_order, self._is_asking = asyncio.Lock(), False
        self._away: Exception | None = None
        self._stack = frame.element("div", "us-stack")
        self._end = frame.element("div", "us-rv-end", aria_live="polite")
        with frame.panel(classes="us-session"):
            self._figures = frame.element("div", "us-figures", aria_live="polite")
            with frame.element("div", "us-rv-strip"):
                with frame.element("button", "us-do", type="button", data_key="u") as self._undoing:
                    frame.text("Undo the last")
                    keycap("u")
                self._strip = frame.element("div", "us-past-ones")
        self._undoing.on("click", self._undo_last)
        self._told: list[tuple[str, str, str, str]] | None = None
        ui.on("us-say", self._take)

    def open(self, items: Sequence[QueueItem]) -> None:
        """Show the first images."""
        self._waiting.extend(items)
        self._fill()
        self._tell()

    # -- what is in sight -----------------------------------------------------------------------

    def _fill(self) -> None:
        while self._waiting and len(self._cards) < AHEAD:
            self._put(self._waiting.popleft())
        if len(self._waiting) < PART // 2 and not self._feed.is_over and not self._is_asking:
            self._is_asking = True
            background_tasks.create(self._ask_on())
        self._end.clear()
        with self._end:
            if self._away is not None:
                frame.problem(self._away)
            elif not self._feed.is_over:
                frame.text("Looking for more …", "us-soft")
            else:
                frame.nothing(self._nothing())

    def _nothing(self) -> str:
        if self._said:
            return "That was all of it. Images that were skipped are asked again when the page is opened anew."
        if self._feed.by == "disagreement":
            return "No image was called otherwise by the teacher before."
        return "Nothing is left to review here."

    def _put(self, item: QueueItem, *, at: int = -1) -> None:
        if item.sha256 in self._cards:
            return
        with self._stack:
            card = frame.element("article", "us-one us-panel", data_sha256=item.sha256)
        self._cards[item.sha256] = (item, card)
        with card:
            self._draw(item)
        if at >= 0:
            card.move(self._stack, min(at, len(self._cards) - 1))

    def _draw(self, item: QueueItem) -> None:
        with frame.element("div", "us-look"):
            image = frame.element("img", src=f"/picture/{item.sha256}?size=480", alt="The image to review")
            image.on("load", js_handler=_TINY)
            frame.text(f"{item.bucket} · {item.teacher} · {item.sha256[:12]}", "us-origin us-soft")
        with frame.element("div", "us-rv-answers"):
            if self._feed.is_audit:
                frame.text("Which class is it?", tag="h2")
                self._buttons(item)
            else:
                self._question(item)
                self._bars(item)
            with frame.element("div", "us-row"):
                if not self._feed.is_audit:
                    self._button("Accept", "a", "us-do us-main", "Enter")
                self._button("Reject", "r", "us-do")
                if not self._feed.is_audit:
                    self._button("Skip", "s", "us-do")
            search(self._feed.classes, lambda name, is_new: self._say(item.sha256, name, is_new=is_new))

    def _question(self, item: QueueItem) -> None:
        with frame.element("div"):
            frame.text(item.label, "us-label", "h2")
            lead = "" if item.margin is None else f", {100 * item.margin:.0f} points ahead of the second class"
            frame.text(f"says the teacher, {words.percent(item.confidence)} sure{lead}", "us-soft", "p")
            if item.previous_label is not None and item.previous_label != item.label:
                frame.text(f"The teacher before said {item.previous_label}", "us-rv-was", "p")

    def _bars(self, item: QueueItem) -> None:
        num = ALL_BARS if len(self._feed.classes) <= ALL_BARS else NUM_BARS
        shown = item.classes[:num]
        keys = keys_of([one.label for one in shown], self._feed.classes)
        with frame.element("div", "us-choices", role="group", aria_label="The teacher's classes"):
            for one in shown:
                with self._choice(one.label, keys.get(one.label)):
                    frame.text(words.percent(one.probability), "us-soft us-rv-share")
                    with frame.element("span", "us-gauge", aria_hidden="true"):
                        ui.element("span").style(f"width: {100 * one.probability:.2f}%")

    def _buttons(self, item: QueueItem) -> None:
        shown = self._feed.classes[:NUM_BUTTONS]
        keys = keys_of(shown, self._feed.classes)
        with frame.element("div", "us-choices us-rv-plain", role="group", aria_label="Classes"):
            for name in shown:
                self._choice(name, keys.get(name))

    def _choice(self, name: str, key: str | None) -> ui.element:
        said = key or f"class {name}"
        with frame.element("button", "us-choice", type="button", data_key=said) as button:
            if key:
                keycap(key)
            frame.text(name, "us-rv-name")
        return button

    def _button(self, label: str, key: str, classes: str, shown: str = "") -> None:
        with frame.element("button", classes, type="button", data_key=key):
            frame.text(label)
            keycap(shown or key)

    # -- what is said ---------------------------------------------------------------------------

    def _take(self, event: GenericEventArguments) -> None:
        """A button of an image, by hand or by key."""
        sha256, key = str(event.args.get("sha256")), str(event.args.get("key"))
        if sha256 not in self._cards:
            return
        item, _ = self._cards[sha256]
        if key == "s":
            self._keep(Said(item, None))
        elif key == "a":
            self._say(sha256, item.label)
        elif key == "r":
            self._say(sha256, None)
        else:
            self._say(sha256, self._class_of(item, key))

    def _class_of(self, item: QueueItem, key: str) -> str:
        if key.startswith("class "):
            return key.removeprefix("class ")
        names = self._feed.classes if self._feed.is_audit else [one.label for one in item.classes[:ALL_BARS]]
        return next(name for name, own in keys_of(names, self._feed.classes).items() if own == key)

    def _say(self, sha256: str, class_name: str | None, *, is_new: bool = False) -> None:
        if sha256 not in self._cards:
            return
        item, _ = self._cards[sha256]
        said = Said(item, self._feed.decision(item, class_name, is_new=is_new))
        self._pending.append(said)
        self._keep(said)
        background_tasks.create(self._send())

    def _keep(self, said: Said) -> None:
        _, card = self._cards.pop(said.item.sha256)
        card.delete()
        self._said.append(said)
        self._fill()
        self._tell()

    async def _send(self) -> None:
        """Send what waits, in one request; if that is refused, one by one, so that each has its own answer."""
        async with self._in_order:
            some, self._pending = self._pending[:MAX_REVIEWS], self._pending[MAX_REVIEWS:]
            if some and not await self._written(some, is_last_try=len(some) == 1):
                for said in some:
                    await self._written([said], is_last_try=True)
        if some:
            self._tell()
            await self._changed()

    async def _written(self, some: Sequence[Said], *, is_last_try: bool) -> bool:
        decisions = [said.decision for said in some if said.decision is not None]
        try:
            reviews = await self._view.ask(lambda client: client.review(decisions))
        except UnderstudyError as error:
            if is_last_try:
                await self._refused(some[0], error)
            return False
        for said, review in zip(some, reviews, strict=True):
            said.review = review
        return True

    async def _refused(self, said: Said, error: UnderstudyError) -> None:
        """Say why, and show the image again, as its teacher sees it by now: nothing that was said is lost unseen."""
        said.problem = str(error)
        self._warn(error)
        if error.code in SETTLED or (isinstance(error, RequestFailed) and error.status == 404):
            return
        item: QueueItem | None = said.item
        if error.code == "label_changed":
            try:
                item = await self._feed.again(said.item)
            except UnderstudyError as other:
                self._warn(other)
        if item is not None:
            self._put(item, at=1)  # not under the finger that is about to say something of the one in sight

    def _undo(self, said: Said) -> None:
        """Show the image again, and have what was said of it count no more."""
        if said.is_undone:
            return
        said.is_undone = True
        self._put(said.item, at=0)
        self._tell()
        if said in self._pending:
            self._pending.remove(said)
            return
        background_tasks.create(self._take_back(said))

    async def _take_back(self, said: Said) -> None:
        async with self._in_order:
            if said.review is not None:
                ids = [said.review.id]
                try:
                    await self._view.ask(lambda client: client.undo_reviews(ids))
                except UnderstudyError as error:
                    said.is_undone = False
                    self._warn(error)
        self._tell()
        await self._changed()

    def _undo_last(self) -> None:
        if last := next((each for each in reversed(self._said) if not each.is_undone and not each.problem), None):
            self._undo(last)

    async def _ask_on(self) -> None:
        try:
            self._waiting.extend(await self._feed.more(PART))
            self._away = None
        except UnderstudyError as error:
            self._away = error
            await asyncio.sleep(frame.EVERY_S)
        self._is_asking = False
        if not self._stack.is_deleted:
            self._fill()

    def _warn(self, error: Exception) -> None:
        if self._stack.is_deleted:
            return
        with self._stack:
            ui.notify(str(error), type="negative", multi_line=True, timeout=8000, close_button="Close")

    # -- what was said --------------------------------------------------------------------------

    def _tell(self) -> None:
        """Only what has become another is drawn anew: a button that somebody is about to press stays."""
        now = [(each.item.sha256, each.word, str(each.is_undone), each.problem) for each in self._said]
        if self._strip.is_deleted or now == self._told:
            return
        self._told = now
        counting = [each for each in self._said if not each.is_undone and not each.problem]
        self._undoing.props["disabled"] = not counting
        self._figures.clear()
        with self._figures:
            for name, number in self._counts(counting):
                frame.figure(f"{number:,}", name)
        self._strip.clear()
        with self._strip:
            for said in reversed(self._said[-STRIP:]):
                self._past(said)

    def _counts(self, counting: Sequence[Said]) -> list[tuple[str, int]]:
        def num(*verdicts: Verdict | None) -> int:
            return sum((each.decision.verdict if each.decision else None) in verdicts for each in counting)

        if self._feed.is_audit:
            return [("answered", num(Verdict.CORRECT)), ("of no class", num(Verdict.REJECT))]
        named = {Verdict.ACCEPT: "accepted", Verdict.CORRECT: "corrected", Verdict.REJECT: "rejected", None: "skipped"}
        return [(name, num(verdict)) for verdict, name in named.items()]

    def _past(self, said: Said) -> None:
        state = "us-undone" if said.is_undone else "us-failed" if said.problem else ""
        with frame.element("figure", f"us-past {state}", title=said.problem):
            frame.thumbnail(said.item.sha256, size=96)
            frame.text(
                "undone" if said.is_undone else "refused" if said.problem else said.word, "us-rv-name", "figcaption"
            )
            if not state:
                undo = frame.element("button", "us-undo", type="button", aria_label=f"Undo: {said.word}", title="Undo")
                with undo:
                    ui.icon("undo").props["aria-hidden"] = "true"
                undo.on("click", lambda: self._undo(said))
