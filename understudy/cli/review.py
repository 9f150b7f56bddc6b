"""``understudy review``: say of pseudo-labels what is right, one key an image, or many at once from words or a file."""

import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from understudy.cli.labels import Bucket, Teacher
from understudy.cli.options import AsJson, Key, Url, examples
from understudy.cli.output import console, say, show_json
from understudy.client import DEFAULT_URL, Client, RequestFailed
from understudy.errors import Refused
from understudy.review_records import (
    MAX_REVIEWS,
    Audit,
    AuditedClass,
    Decision,
    QueueItem,
    Review,
    ReviewOrder,
    ReviewQueue,
)

app = typer.Typer()

#: Images that are asked for at a time: what others review meanwhile is seen at the next page.
PAGE_ITEMS = 50
#: A file's columns; all but the first two may be missing.
COLUMNS = ("sha256", "verdict", "class_name", "teacher")
#: Classes that have a digit as their key.
NUM_DIGITS = 9


def _images(what: str) -> Any:
    return typer.Option(metavar="SHA256", show_default=False, help=what)


@app.command(
    epilog=examples(
        "understudy review --queue --by disagreement",
        "understudy review --correct 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08=owl",
        "understudy review --audit --json",
    )
)
def review(
    by: Annotated[ReviewOrder, typer.Option(help="What to look at first; an audit is blind.")] = ReviewOrder.UNCERTAIN,
    bucket: Bucket = None,
    class_name: Annotated[str | None, typer.Option("--class", help="Only of this label.", show_default=False)] = None,
    teacher: Teacher = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of an audit. Default: the recipe's.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="With --list or --queue: at most so many.")] = 20,
    accept: Annotated[list[str] | None, _images("The label of this image is right; may be repeated.")] = None,
    reject: Annotated[list[str] | None, _images("This image is of no class, or of no use; may be repeated.")] = None,
    correct: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHA256=CLASS", help="This image is of another class; may be repeated.", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--from", exists=True, dir_okay=False, help="CSV with sha256, verdict, class_name.")
    ] = None,
    new_class: Annotated[bool, typer.Option("--new-class", help="Classes that nobody knows are meant.")] = False,
    undo: Annotated[list[int] | None, typer.Option(metavar="ID", help="This review counts no more.")] = None,
    as_queue: Annotated[bool, typer.Option("--queue", help="Show what would be asked, and ask nothing.")] = False,
    as_list: Annotated[bool, typer.Option("--list", help="Show what was said, the newest first.")] = False,
    as_audit: Annotated[bool, typer.Option("--audit", help="Show how right the labels are, by the audit.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Say of pseudo-labels what is right: what a person says outranks any teacher.

    Without words it asks in the terminal, one key an image: accept, correct, reject, skip, undo. With --accept,
    --reject, --correct or --from it takes the decisions from there, all of them or none.
    """
    decisions = _decisions(accept, reject, correct, file, teacher=teacher, is_new_class=new_class)
    modes = [bool(decisions), bool(undo), as_queue, as_list, as_audit]
    if sum(modes) > 1:
        raise typer.BadParameter("decisions, --undo, --queue, --list and --audit exclude each other; give one")
    with Client(url, key=key) as client:
        if decisions:
            _show_reviews(_sent(client, decisions), as_json)
        elif undo:
            _show_reviews(client.undo_reviews(undo), as_json)
        elif as_list:
            _show_reviews(list(client.reviews(limit=limit)), as_json)
        elif as_audit:
            _show_audit(client.audit(teacher=teacher, threshold=threshold), as_json)
        else:
            filters = {"bucket": bucket, "class_name": class_name, "teacher": teacher, "threshold": threshold}
            if as_queue or as_json:
                _show_queue(client.review_queue(by, limit=limit, **filters), as_json)
                return
            if not sys.stdin.isatty():
                raise typer.BadParameter(
                    "this is no terminal to ask in; give --accept, --reject, --correct or --from, or --queue to look"
                )
            Asking(client, by, filters, typer.getchar, typer.prompt).run()


# -- decisions in words ---------------------------------------------------------------------------


def _decisions(
    accept: Sequence[str] | None,
    reject: Sequence[str] | None,
    correct: Sequence[str] | None,
    file: Path | None,
    *,
    teacher: str | None,
    is_new_class: bool,
) -> list[Decision]:
    rows = [{"sha256": sha256, "verdict": "accept"} for sha256 in accept or ()]
    rows += [{"sha256": sha256, "verdict": "reject"} for sha256 in reject or ()]
    for words in correct or ():
        sha256, is_there, class_name = words.partition("=")
        if not is_there:
            raise typer.BadParameter(f"--correct {words!r} is not SHA256=CLASS")
        rows.append({"sha256": sha256, "verdict": "correct", "class_name": class_name})
    rows += [] if file is None else _rows(file)
    common = {"teacher": teacher} if teacher else {}
    made = []
    for number, row in enumerate(rows, 1):
        is_new = is_new_class and row["verdict"] == "correct"
        try:
            made.append(Decision.model_validate(common | row | {"is_new_class": is_new}))
        except ValidationError as error:
            faults = "; ".join(e["msg"] for e in error.errors())
            raise typer.BadParameter(f"decision {number} ({', '.join(row.values())[:100]}): {faults}") from error
    return made


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            names = reader.fieldnames or ()
            if not {"sha256", "verdict"} <= set(names) or not set(names) <= set(COLUMNS):
                raise Refused(
                    f"{file} has the columns {', '.join(map(str, names)) or '(none)'}; it needs sha256 and verdict, and "
                    f"may have {', '.join(COLUMNS[2:])}",
                    code="bad_file",
                )
            return [{name: value for name, value in row.items() if name in COLUMNS and value} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"{file} is no CSV in UTF-8: {error}", code="bad_file") from error


def _sent(client: Client, decisions: Sequence[Decision]) -> list[Review]:
    """In requests of a thousand, each of which is taken whole or not at all; sent again, what was taken stays one."""
    made: list[Review] = []
    for at in range(0, len(decisions), MAX_REVIEWS):
        try:
            made += client.review(decisions[at : at + MAX_REVIEWS])
        except RequestFailed as failed:
            if not made:
                raise
            raise RequestFailed(
                f"{failed}; the first {len(made)} decisions are written down, and may be sent again",
                code=failed.code,
                status=failed.status,
            ) from failed
    return made


# -- one key an image -----------------------------------------------------------------------------


@dataclass
class Asking:
    """A conversation with a person: an image, a key, a decision."""

    client: Client
    by: ReviewOrder
    filters: dict[str, Any]
    key: Callable[[], str]  #: waits for one
    prompt: Callable[[str], str]  #: asks for a line
    _made: list[Review] = field(default_factory=list)  #: that can be undone still
    _undone: list[QueueItem] = field(default_factory=list)  #: to be asked again at once
    _asked: dict[str, QueueItem] = field(default_factory=dict)
    _classes: tuple[str, ...] = ()

    def run(self) -> None:
        """Ask until the queue has ended or the person has; every decision is written down at once."""
        cursor: str | None = None
        while True:
            page = self.client.review_queue(self.by, limit=PAGE_ITEMS, cursor=cursor, **self.filters)
            self._classes = self._classes or self._classes_of(page.teacher)
            for item in page.items:
                is_over = self._ask(page, item)
                while self._undone and not is_over:
                    is_over = self._ask(page, self._undone.pop())
                if is_over:
                    say(f"{len(self._made)} reviewed; `understudy review --list` shows them")
                    return
            if (cursor := page.next) is None:
                say(f"{len(self._made)} reviewed; that is all")
                return

    def _ask(self, page: ReviewQueue, item: QueueItem) -> bool:
        """One image, until there is a decision, or it is skipped; whether the person wants to end."""
        self._asked[item.sha256] = item
        shown = item.classes[:NUM_DIGITS] if self.by != ReviewOrder.AUDIT else ()
        _show_item(item)
        while True:
            pressed = _first(self.key()).lower()
            if pressed in ("q", "\x03", "\x04", "\x1b"):
                return True
            if pressed in ("s", " "):
                return False
            if pressed == "u":
                if self._undo():
                    self._undone.insert(0, item)
                    return False
                continue
            if (decision := self._decision(page, item, pressed, [one.label for one in shown])) is None:
                continue
            try:
                (made,) = self.client.review([decision])
            except RequestFailed as failed:
                say(f"  not taken: {failed}")
                if failed.status in (404, 409):  # somebody was first, or the image is gone
                    return False
                continue
            self._made.append(made)
            say(f"  {made.id}: {made.verdict}" + (f" as {made.class_name}" if made.class_name else ""))
            return False

    def _decision(self, page: ReviewQueue, item: QueueItem, pressed: str, shown: Sequence[str]) -> Decision | None:
        """What a key means; None: nothing, or nothing yet."""
        about: dict[str, Any] = {"sha256": item.sha256, "teacher": item.teacher}
        if self.by == ReviewOrder.AUDIT:
            about |= {"is_audit": True, "audit_threshold": page.audit_threshold}
        if pressed in ("a", "\r", "\n") and item.label is not None:
            return Decision(**about, verdict="accept", class_name=item.label)
        if pressed == "r":
            return Decision(**about, verdict="reject")
        if pressed.isdigit() and 1 <= int(pressed) <= len(shown):
            return Decision(**about, verdict="correct", class_name=shown[int(pressed) - 1])
        if pressed == "c" and (class_name := self._named()) is not None:
            return Decision(**about, verdict="correct", class_name=class_name)
        if pressed != "c":
            say(f"  {_keys(is_blind=self.by == ReviewOrder.AUDIT, num=len(shown))}")
        return None

    def _named(self) -> str | None:
        """A class by its name, or by a beginning that no other has. None: it is none."""
        said = self.prompt("  class").strip()
        fitting = [name for name in self._classes if name.lower().startswith(said.lower())]
        if said in self._classes:
            return said
        if said and len(fitting) == 1:
            return fitting[0]
        say(f"  {said!r} is {'one of several' if fitting else 'none'}: {', '.join(fitting or self._classes)}")
        return None

    def _undo(self) -> bool:
        if not self._made:
            say("  there is nothing to undo")
            return False
        last = self._made.pop()
        self.client.undo_reviews([last.id])
        self._undone.append(self._asked[last.sha256])
        say(f"  {last.id}: undone")
        return True

    def _classes_of(self, teacher: str) -> tuple[str, ...]:
        return next((one.card.classes for one in self.client.models() if one.id == teacher), ())


def _first(pressed: str) -> str:
    """One key: what was pressed at once with it was pressed before its outcome was seen. Arrows and the like are whole."""
    return pressed if pressed.startswith("\x1b") else pressed[:1]


def _keys(*, is_blind: bool, num: int) -> str:
    words = ["c: name its class", "r: reject", "s: skip", "u: undo", "q: end"]
    if not is_blind:
        words.insert(0, f"a: accept, 1-{num}: it is that class")
    return ", ".join(words)


def _show_item(item: QueueItem) -> None:
    say(f"{item.bucket}  {item.sha256}")
    for number, one in enumerate(item.classes[:NUM_DIGITS], 1):
        say(f"  {number}  {one.probability:6.1%}  {one.label}")
    if item.previous_label is not None and item.previous_label != item.label:
        say(f"     {item.previous_teacher} saw {item.previous_label}")
    say(f"  {_keys(is_blind=item.label is None, num=min(NUM_DIGITS, len(item.classes)))}")


# -- what is shown --------------------------------------------------------------------------------


def _show_reviews(found: Sequence[Review], as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    table = Table("review", "image", "verdict", "class", "label was", "confidence", "by", "audit", "undone")
    for one in found:
        _plain(table, one.id, one.sha256[:16], one.verdict, one.class_name, one.label, f"{one.confidence:.3f}",
               one.actor, "yes" if one.is_audit else "", "yes" if one.undone_at is not None else "")  # fmt: skip
    console.print(table)


def _show_queue(page: ReviewQueue, as_json: bool) -> None:
    if as_json:
        show_json(page)
        return
    table = Table("image", "bucket", "label", "confidence", "margin", "before")
    for one in page.items:
        confidence, margin = (None if value is None else f"{value:.3f}" for value in (one.confidence, one.margin))
        _plain(table, one.sha256, one.bucket, one.label, confidence, margin, one.previous_label)
    console.print(table)


def _show_audit(told: Audit, as_json: bool) -> None:
    if as_json:
        show_json(told)
        return
    table = Table("class", "audited", "right", "precision", "95 % interval")
    rows: list[tuple[str, AuditedClass | Audit]] = [*told.per_class.items(), ("all", told)]
    for name, one in rows:
        precision = f"{one.precision:.1%}" if one.precision is not None else None
        interval = f"{one.interval.low:.1%} to {one.interval.high:.1%}" if one.interval is not None else None
        _plain(table, name, one.num_audited, one.num_right, precision, interval)
    table.title = f"labels of {told.teacher} from {told.threshold:g} on; {told.num_rejected} are of no class"
    console.print(table)


def _plain(table: Table, *cells: Any) -> None:
    table.add_row(*("" if cell is None else str(cell).replace("[", "\\[") for cell in cells))
