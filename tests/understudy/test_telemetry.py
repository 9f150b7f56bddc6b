"""Logging as a program sets it up: each test is a process of its own, for logging is one for a whole process."""

import json
import subprocess
import sys

import pytest

from understudy import telemetry


def lines_of(log_format: str, body: str) -> list[str]:
    """What a program that configures logging and runs ``body`` writes to standard error."""
    program = f"import logging\nfrom {telemetry.__name__} import configure_logging\n"
    program += f"configure_logging({log_format!r})\nlog = logging.getLogger('program')\n{body}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_text_is_a_line_an_event_for_people():
    """The time, the level, who says it, what."""
    (line,) = lines_of("text", "log.info('%d images', 3)\nlog.debug('not this')")

    assert line.split(" ", 1)[1] == "INFO program: 3 images"


def test_json_is_an_object_a_line_for_machines():
    """Every line is JSON of the same four keys, whatever the message holds."""
    (first, second) = map(json.loads, lines_of("json", "log.info('%d images', 3)\nlog.warning('two\\nlines: \\u00e9')"))

    assert {key: first[key] for key in ("level", "logger", "message")} == {
        "level": "info",
        "logger": "program",
        "message": "3 images",
    }
    assert first["at"].endswith("Z")
    assert (second["level"], second["message"]) == ("warning", "two\nlines: é")
    assert set(second) == {"at", "level", "logger", "message"}


def test_an_exception_is_part_of_its_line():
    """A traceback does not break a JSON line into many."""
    (event,) = map(json.loads, lines_of("json", "try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('no')"))

    assert event["message"] == "no"
    assert event["exception"].startswith("Traceback")
    assert event["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("chatty", ["httpx", "alembic.runtime.migration", "PIL.PngImagePlugin"])
def test_chatty_libraries_are_heard_only_when_something_is_wrong(chatty: str):
    """Their news is not ours; their warnings are."""
    lines = lines_of("text", f"chatty = logging.getLogger({chatty!r})\nchatty.info('news')\nchatty.warning('trouble')")

    assert [line.split(" ", 1)[1] for line in lines] == [f"WARNING {chatty}: trouble"]
