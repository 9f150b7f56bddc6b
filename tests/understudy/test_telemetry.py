"""Logging as a program sets it up: each test is a process of its own, for logging is one for a whole process."""

import datetime
import json
import subprocess
import sys
import time
from typing import Any

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
    at = datetime.datetime.strptime(first["at"], "%Y-%m-%dT%H:%M:%S.%f%z")
    assert abs((datetime.datetime.now(datetime.UTC) - at).total_seconds()) < 60
    assert len(first["at"]) == len("2026-11-21T09:30:00.123Z")
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


def test_what_is_given_as_extra_is_part_of_its_line():
    """Fields of an event are keys of its object; they cannot replace the first four."""
    (event,) = map(json.loads, lines_of("json", "log.info('x', extra={'model': 'g0', 'level': 'mine', 'path': log})"))

    assert (event["model"], event["level"]) == ("g0", "info")
    assert isinstance(event["path"], str)  # what JSON does not know is written as Python would


@pytest.mark.parametrize(("log_format", "expected"), [("text", "INFO program: x [mine]"), ("json", "mine")])
def test_a_line_carries_the_request_that_it_was_written_for(log_format: str, expected: str):
    """And one that was written for none has no such field."""
    body = "from understudy.telemetry import request_id\nlog.info('before')\nrequest_id.set('mine')\nlog.info('x')"
    before, line = lines_of(log_format, body)

    if log_format == "json":
        assert json.loads(line)["request_id"] == expected
        assert "request_id" not in json.loads(before)
    else:
        assert line.endswith(expected)
        assert before.endswith("before")


def test_fields_of_the_whole_process_are_on_every_line():
    """Such as the process, where several write into one log."""
    (event,) = map(json.loads, lines_of("json", "configure_logging('json', process=7)\nlog.info('x')"))

    assert event["process"] == 7


def test_warnings_and_the_last_exception_are_json_too():
    """Whoever reads the log as JSON need not expect anything else."""
    program = "from understudy.telemetry import configure_logging\nconfigure_logging('json')\n"
    program += "import warnings\nwarnings.warn('old', stacklevel=1)\n1 / 0"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    warned, ended = map(json.loads, done.stderr.splitlines())

    assert done.returncode == 1
    assert (warned["logger"], warned["level"]) == ("py.warnings", "warning")
    assert (ended["level"], ended["message"]) == ("critical", "ends with ZeroDivisionError: division by zero")
    assert ended["exception"].startswith("Traceback")


def attributes_of(span: Any) -> dict[str, Any]:
    """The attributes of a span as it came to the collector."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_a_span_goes_to_the_collector_with_its_children(collector: tuple[str, list[Any]]):
    """Names, attributes and who belongs to whom; a failed one says so; stopping sends what is left."""
    url, spans = collector
    stop = telemetry.start_tracing(url, "program")
    try:
        with telemetry.span("request", images=2) as outer:
            outer.set(**{"http.route": "/classify"})
            outer.rename("POST /classify")
            outer.fail("500")
            with pytest.raises(ZeroDivisionError), telemetry.span("decode"):
                raise ZeroDivisionError
    finally:
        stop()

    decode, request = spans
    assert (decode.name, request.name) == ("decode", "POST /classify")
    assert decode.parent_span_id == request.span_id
    assert attributes_of(request) == {"images": 2, "http.route": "/classify", "error.type": "500"}
    assert decode.status.code == request.status.code == 2  # an error
    assert not telemetry.is_tracing()


@pytest.mark.parametrize(
    ("traceparent", "is_taken"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", True),
        ("00-zz-b7ad6b7169203331-01", False),
        ("", False),
    ],
)
def test_a_request_from_outside_goes_on_with_its_trace(
    collector: tuple[str, list[Any]], traceparent: str, is_taken: bool
):
    """W3C traceparent; one that is broken begins a trace of our own."""
    url, spans = collector
    stop = telemetry.start_tracing(f"{url}/v1/traces", "program")
    with telemetry.span("request", incoming={"traceparent": traceparent}):
        pass
    stop()

    (span,) = spans
    assert span.kind == span.SPAN_KIND_SERVER
    assert (span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c") is is_taken
    assert (span.parent_span_id.hex() == "b7ad6b7169203331") is is_taken


def test_log_lines_name_their_span(collector: tuple[str, list[Any]]):
    """So that one finds the trace of a line, and the lines of a trace."""
    body = f"from understudy import telemetry\nstop = telemetry.start_tracing({collector[0]!r}, 'x')\n"
    body += "with telemetry.span('work'):\n    log.info('x')\nstop()"
    (event,) = map(json.loads, lines_of("json", body))
    (span,) = collector[1]

    assert (event["trace_id"], event["span_id"]) == (span.trace_id.hex(), span.span_id.hex())


def test_a_collector_that_is_away_does_not_hold_up_the_end():
    """What could not be sent is lost; the program ends all the same."""
    body = "from understudy import telemetry\nstop = telemetry.start_tracing('http://127.0.0.1:9', 'x')\n"
    began = time.monotonic()
    lines_of("text", body + "with telemetry.span('work'):\n    pass\nstop()")

    assert time.monotonic() - began < 30


def test_a_missing_package_is_refused_with_what_to_install():
    """Whoever asked for traces must not go without them silently."""
    body = "import sys\nsys.modules['opentelemetry.sdk.trace'] = None\nfrom understudy import errors, telemetry\n"
    body += (
        "try:\n    telemetry.start_tracing('http://c:4318', 'x')\nexcept errors.SettingsRefused as e:\n    log.info(e)"
    )
    (line,) = lines_of("text", body)

    assert "http://c:4318" in line
    assert "pip install 'understudy[otel]'" in line


def test_a_span_is_free_when_no_traces_are_asked_for():
    """Nothing of OpenTelemetry is even loaded, and all that one does with a span does nothing."""
    body = "import sys\nfrom understudy.telemetry import span\nwith span('work', images=1) as one:\n    one.set(a=1)\n"
    body += (
        "    one.rename('x')\n    one.fail('y')\nlog.info([m for m in sys.modules if m.startswith('opentelemetry')])"
    )

    assert lines_of("text", body)[0].endswith("program: []")
