"""``understudy review`` against a running service: in words, from a file, and one key an image."""

import hashlib
import json
import os
import subprocess
import sys
import termios
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from understudy.cli import review
from understudy.cli.review import Asking
from understudy.client import Client, RequestFailed
from understudy.errors import Refused
from understudy.review_records import ReviewOrder, Verdict
from understudy.testing import picture


@pytest.fixture
def names(opened: Any, teaching: Any) -> list[str]:
    """Four images of a bucket, the most uncertain first."""
    world = teaching(*opened)
    world.teacher()
    found = [picture(0, 3, seed=i, size=8) for i in range(4)]
    shard = world.shard("photos", found)
    world.label(shard, [[0.45 + i / 50, 0.4, 0.15 - i / 50] for i in range(4)])
    return [hashlib.sha256(data).hexdigest() for data in found]


@pytest.fixture
def run(run: Callable[..., Result], names: list[str]) -> Callable[..., Result]:
    """Run the command where these images are labeled."""
    return partial(run, "review")


@pytest.fixture
def press(url: str, monkeypatch: pytest.MonkeyPatch, names: list[str]) -> Iterator[Callable[..., str]]:
    """A person at the terminal who presses these keys, and names these classes where asked; gives what was shown."""
    with closing(Client(url)) as client:

        def press(keys: Iterable[str], *lines: str, by: ReviewOrder = ReviewOrder.UNCERTAIN) -> str:
            pressed, said = iter(keys), iter(lines)
            with review.console.capture() as shown:
                Asking(client, by, {}, lambda: next(pressed), lambda text: next(said)).run()
            return shown.get()

        yield press


def test_decisions_in_words_are_taken_together(run: Callable[..., Result], names: list[str]):
    """Shown as a table or as JSON, listed, undone; what is wrong with one of them is said before anything is sent."""
    made = run("--accept", names[0], "--reject", names[1], "--correct", f"{names[2]}=blue", "--json")
    told = json.loads(made.stdout)
    assert [(one["verdict"], one["class_name"]) for one in told] == [
        ("accept", "red"), ("reject", None), ("correct", "blue")
    ]  # fmt: skip
    shown = run("--list").stdout
    assert all(word in shown for word in (names[2][:16], "correct", "blue", "anonymous"))
    assert "yes" in run("--undo", told[0]["id"]).stdout
    assert names[0] in run("--queue").stdout
    assert len(json.loads(run("--queue", "--json", "--by", "audit").stdout)["items"]) == 2
    assert "--correct" in run("--correct", names[3]).output
    assert run("--accept", "x").exit_code == 2
    assert run("--list", "--audit").exit_code == 2
    assert isinstance(run("--accept", "0" * 64).exception, RequestFailed)


def test_decisions_from_a_file(run: Callable[..., Result], names: list[str], tmp_path: Path):
    """A CSV with a line an image; a class that nobody knows must be meant."""
    file = tmp_path / "said.csv"
    file.write_text(f"sha256,verdict,class_name\n{names[0]},accept,\n{names[1]},correct,mauve\n", encoding="utf-8")
    assert "is_new_class" in str(run("--from", file).exception)
    assert "mauve" in run("--from", file, "--new-class").stdout
    assert len(json.loads(run("--list", "--json").stdout)) == 2
    for text, error in (("a,b\n1,2\n", "needs sha256 and verdict"), ("\xff", "columns"), ("", "columns")):
        file.write_text(text, encoding="utf-8")
        assert error in str(run("--from", file).exception)
    file.write_bytes(b"sha256,verdict\n\xff,accept\n")
    assert isinstance(run("--from", file).exception, Refused)


def test_more_than_a_thousand_decisions_are_several_requests(url: str, names: list[str], monkeypatch: Any):
    """What was taken before one was refused is said, for it may be sent again."""
    monkeypatch.setattr(review, "MAX_REVIEWS", 2)
    decisions = [review.Decision(sha256=name, verdict=Verdict.ACCEPT) for name in (*names[:3], "0" * 64)]
    with Client(url) as client:
        assert len(review._sent(client, decisions[:3])) == 3
        with pytest.raises(RequestFailed, match="the first 2 decisions are written down"):
            review._sent(client, decisions)


def test_without_a_terminal_nothing_is_asked(run: Callable[..., Result]):
    """Wrong words, and what would do."""
    result = run()
    assert result.exit_code == 2
    assert "this is no terminal" in " ".join(result.output.replace("│", " ").split())


def test_one_key_an_image(press: Callable[..., str], url: str, names: list[str]):
    """Accept, correct by a digit, take it back and reject it, skip; then the queue has only what was skipped."""
    shown = press("a2urs?c", "bl", "nothing")

    with Client(url) as client:
        counts = {one.sha256: (one.verdict, one.class_name) for one in client.reviews(counting=True)}
        assert counts == {
            names[0]: (Verdict.ACCEPT, "red"), names[1]: (Verdict.REJECT, None), names[3]: (Verdict.CORRECT, "blue")
        }  # fmt: skip
        assert len(list(client.reviews())) == 4
        assert [item.sha256 for item in client.review_queue().items] == [names[2]]
    assert "45.0%  red" in shown
    assert "3 reviewed; that is all" in shown


def test_a_blind_audit_in_the_terminal(press: Callable[..., str], run: Callable[..., Result], names: list[str]):
    """No class is shown, none can be accepted unseen; afterwards the precision is known."""
    shown = press("acccrcq", "red", "mauve", "green", "blue", by=ReviewOrder.AUDIT)

    assert not any(f"%  {name}" in shown for name in ("red", "green", "blue"))
    assert "'mauve' is none: red, green, blue" in shown
    table = run("--audit").stdout
    assert "labels of" in table
    told = json.loads(run("--audit", "--json").stdout)
    assert (told["num_audited"], told["num_right"], told["num_rejected"]) == (4, 1, 1)


def test_the_end_of_a_conversation(press: Callable[..., str], names: list[str]):
    """There is nothing to undo at first; q ends it, and what was said stays."""
    assert "there is nothing to undo" in press("uq")
    assert "1 reviewed; `understudy review --list`" in press("aq")


def test_the_second_of_two_keys_at_once_is_for_an_image_that_nobody_has_seen(
    press: Callable[..., str], names: list[str]
):
    """So it counts for nothing; and an arrow, which comes as three, is not the first of them."""
    shown = press(["ra", "\x1b[A", "q"])
    assert ": reject\n" in shown  # as an outcome; among the keys a comma follows
    assert "1 reviewed;" in shown


def test_a_real_terminal(url: str, names: list[str], until: Callable[..., None]):
    """The command as people start it: it waits for keys, and each one is taken at once."""
    controller, terminal = os.openpty()
    command = [sys.executable, "-m", "understudy", "review", "--bucket", "photos", "--url", url]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True) as process:
        os.close(terminal)
        try:
            for said, key in ((names[0], b"a"), (f"accept as red\r\nphotos  {names[1]}", b"r"), (": reject\r\n", b"q")):
                shown = b""
                while b"q: end" not in shown:  # the last of what is shown before a key is waited for
                    shown += os.read(controller, 4096)
                assert said in shown.decode()
                until(lambda: not termios.tcgetattr(controller)[3] & termios.ICANON)  # keys from before are dropped
                os.write(controller, key)
            assert process.wait(60) == 0
        finally:
            process.kill()
    os.close(controller)
    with Client(url) as client:
        assert [one.verdict for one in client.reviews()] == [Verdict.REJECT, Verdict.ACCEPT]
