"""The queue, a part at a time, and what a word or a key says of an image."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from dashboard.frame import View
from understudy.client import Client
from understudy.label_records import PseudoLabel
from understudy.review_records import Decision, QueueItem, ReviewQueue, Verdict

#: What the address says and the queue is asked for.
FILTERS = {"bucket": "bucket", "class": "class_name", "teacher": "teacher", "threshold": "threshold"}
AUDIT = "audit"
#: Classes that a beginning is completed to.
MAX_MATCHES = 6
#: As the service lets classes be called.
MAX_CLASS_NAME = 255


@dataclass
class Feed:
    """The images that are to be reviewed, what helps most first."""

    view: View
    by: str
    classes: Sequence[str] = ()  #: the teacher's, in order
    audit_threshold: float | None = None
    is_over: bool = False  #: the queue has no more
    teacher: str | None = None
    _cursor: str | None = None
    _told: set[str] = field(default_factory=set)

    @property
    def is_audit(self) -> bool:
        return self.by == AUDIT

    async def open(self, num: int) -> list[QueueItem]:
        """The first images, and the classes of the teacher who is asked about. Raises UnderstudyError.

        One that the address names comes before all, also if it has been reviewed; an audit, which is drawn, has none.
        """
        items = await self.more(num)
        if (named := self.view.query.get("sha256")) and not self.is_audit:
            labels = await self.view.ask(lambda client: client.labels_of(named))
            first = [_item(label) for label in labels if label.teacher == self.teacher][-1:]
            self._told.update(item.sha256 for item in first)
            items = [*first, *(item for item in items if item.sha256 != named)]
        audit = await self.view.ask(lambda client: client.audit(teacher=self.teacher, threshold=self.audit_threshold))
        self.classes = tuple(audit.per_class)
        return items

    async def more(self, num: int) -> list[QueueItem]:
        """The next images: some at least, unless there are none. Raises UnderstudyError."""
        found: list[QueueItem] = []
        while not found and not self.is_over:
            queue = await self.view.ask(lambda client: self._ask(client, num))
            self.teacher, self.audit_threshold = queue.teacher, queue.audit_threshold
            self._cursor, self.is_over = queue.next, queue.next is None
            found = [item for item in queue.items if item.sha256 not in self._told]
            self._told.update(item.sha256 for item in found)
        return found

    async def again(self, item: QueueItem) -> QueueItem | None:
        """An image as its teacher sees it by now; None: it has no label of it any more. Raises UnderstudyError."""
        labels = await self.view.ask(lambda client: client.labels_of(item.sha256))
        for label in labels:
            if label.teacher == item.teacher and label.bucket == item.bucket:
                return _item(label)
        return None

    def _ask(self, client: Client, num: int) -> ReviewQueue:
        asked = {name: self.view.query[word] for word, name in FILTERS.items() if self.view.query.get(word)}
        if not self.is_audit:
            asked.pop("threshold", None)
        elif "class_name" in asked:
            del asked["class_name"]
        return client.review_queue(self.by, limit=num, cursor=self._cursor, **asked)

    def decision(self, item: QueueItem, class_name: str | None, *, is_new: bool = False) -> Decision:
        """That an image is of a class; None: of none. To say the teacher's own class is to accept its label."""
        is_right = not self.is_audit and class_name == item.label
        verdict = Verdict.REJECT if class_name is None else Verdict.ACCEPT if is_right else Verdict.CORRECT
        return Decision(
            sha256=item.sha256,
            verdict=verdict,
            class_name=class_name,
            is_new_class=is_new,
            teacher=item.teacher,
            is_audit=self.is_audit,
            audit_threshold=self.audit_threshold if self.is_audit else None,
        )


def _item(label: PseudoLabel) -> QueueItem:
    of_both = QueueItem.model_fields.keys() & PseudoLabel.model_fields.keys()
    return QueueItem(**label.model_dump(include=set(of_both)))


def keys_of(names: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Class → the key that says it: classes that are digits are their own keys, others are 1 to 9 in the order given."""
    if classes and all(len(name) == 1 and name in "0123456789" for name in classes):
        return {name: name for name in names}
    return {name: str(number) for number, name in enumerate(names[:9], 1)}


def matches(said: str, classes: Sequence[str]) -> list[str]:
    """The classes that a beginning may mean, the likeliest first: itself, what begins so, what has it, what resembles it."""
    word = said.strip().casefold()
    if not word:
        return []

    def rank(name: str) -> int:
        folded = name.casefold()
        return 0 if folded == word else 1 if folded.startswith(word) else 2 if word in folded else 3

    found = sorted((name for name in classes if rank(name) < 3), key=lambda name: (rank(name), name))
    close = difflib.get_close_matches(said.strip(), classes, n=2) if not found else []
    return (found or close)[:MAX_MATCHES]


def meant(said: str, classes: Sequence[str]) -> str | None:
    """The class that Enter takes for a beginning; None: nothing begins so or has it, so a person has to choose."""
    found = matches(said, classes)
    return found[0] if found and said.strip().casefold() in found[0].casefold() else None
