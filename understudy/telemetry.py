"""What a program says about itself: log lines for people or machines, and traces for a collector.

Both are one for a whole process and set up at its entry point. The only door to OpenTelemetry, which is imported when
traces are asked for and not before.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import understudy
from understudy.errors import SettingsRefused

if TYPE_CHECKING:
    from opentelemetry.trace import Span as OpenTelemetrySpan
    from opentelemetry.trace import Tracer

#: The request that is being answered; its log lines carry it. None: there is none.
#: ``run_in_threadpool`` and new tasks take it along, ``run_in_executor`` does not.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

#: What every record has; whatever else is on one was given as ``extra``.
_ORDINARY = {*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName", "color_message"}

#: Where a collector takes traces, below its address.
_TRACES_PATH = "/v1/traces"
#: One attempt to send spans, and all of them together when the program stops, may take this long.
_EXPORT_TIMEOUT_S, _FLUSH_S = 5.0, 3.0

Attribute = str | bool | int | float

_tracer: "Tracer | None" = None  # None: no traces were asked for


class _JsonFormatter(logging.Formatter):
    """An object a line: when, how bad, who, what; then the request, the span, and what was given as ``extra``."""

    def __init__(self, always: Mapping[str, object]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "at": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
        }
        for name, value in vars(record).items():
            if name not in _ORDINARY and value is not None:
                event.setdefault(name, value)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=False, default=str)


class _TextFormatter(logging.Formatter):
    """The time, the level, who says it, what; then the request in brackets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        request = getattr(record, "request_id", None)
        return f"{line} [{request}]" if request else line


def with_context(record: logging.LogRecord) -> bool:
    """Put on a record what it was written for: the request, and the span if there is one."""
    if not hasattr(record, "request_id"):
        record.request_id = request_id.get()
    if _tracer is not None:
        from opentelemetry import trace

        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id, record.span_id = trace.format_trace_id(context.trace_id), f"{context.span_id:016x}"
    return True


def configure_logging(log_format: str, **always: object) -> None:
    """Set up logging for this process: ``text`` or ``json``; JSON lines have the fields ``always`` too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(with_context)
    handler.setFormatter(_JsonFormatter(always) if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("httpx", "alembic", "kombu", "PIL", "onnx_ir", "onnxscript"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if log_format == "json":  # what Python itself would print over many lines
        logging.captureWarnings(True)
        sys.excepthook = _log_the_end


def _log_the_end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger(__name__).critical("ends with %s: %s", kind.__name__, error, exc_info=(kind, error, traceback))


class Span:
    """A piece of work on a trace. This one, the only kind while no traces are asked for, keeps nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        """The end of the work; an exception on its way out is noted, and goes on."""

    def set(self, **attributes: Attribute) -> None:
        """Say more about the work. Names with dots: ``set(**{"http.route": route})``."""

    def rename(self, name: str) -> None:
        """Give it the name that was not known when it began."""

    def fail(self, why: str) -> None:
        """Mark it as failed, by ``error.type``."""


class _Recorded(Span):
    def __init__(self, opened: "AbstractContextManager[OpenTelemetrySpan]") -> None:
        self._opened = opened

    def __enter__(self) -> Self:
        self._span = self._opened.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._opened.__exit__(*raised)

    def set(self, **attributes: Attribute) -> None:
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, why: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", why)
        self._span.set_status(StatusCode.ERROR)


_NOTHING = Span()


def span(name: str, *, incoming: Mapping[str, str] | None = None, **attributes: Attribute) -> Span:
    """A piece of work, to be used in a ``with``; free when no traces are asked for.

    It is a child of the span around it. ``incoming`` are the headers of a request from outside: then it is the
    server's side of that request, on the client's trace if they name one (W3C ``traceparent``).
    """
    if _tracer is None:
        return _NOTHING
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if incoming is None:
        return _Recorded(_tracer.start_as_current_span(name, attributes=attributes))
    parent = TraceContextTextMapPropagator().extract(incoming)
    return _Recorded(_tracer.start_as_current_span(name, parent, SpanKind.SERVER, attributes))


def is_tracing() -> bool:
    """Whether spans are kept."""
    return _tracer is not None


def start_tracing(endpoint: str, program: str) -> Callable[[], None]:
    """Send spans to a collector from now on; call the answer at the end, which sends what is left.

    ``endpoint`` is the collector's address, such as http://localhost:4318. The standard ``OTEL_`` variables
    (sampler, headers, resource attributes, ...) are honoured. Raises SettingsRefused if OpenTelemetry is missing.
    """
    global _tracer
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsRefused(
            f"traces shall go to {endpoint}, but OpenTelemetry is not installed ({error}): "
            f"pip install 'understudy[otel]', or leave UNDERSTUDY_OTLP_ENDPOINT empty"
        ) from error
    named = {"service.name": program, "service.version": understudy.__version__}
    provider = TracerProvider(
        resource=Resource.create(named).merge(OTELResourceDetector().detect()),  # the user's word counts more
        shutdown_on_exit=False,
    )
    url = endpoint if endpoint.endswith(_TRACES_PATH) else endpoint.rstrip("/") + _TRACES_PATH
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=_EXPORT_TIMEOUT_S)))
    tracer = _tracer = provider.get_tracer(program, understudy.__version__)

    def stop() -> None:
        """A collector that is away must not hold up the end, and the library's own limits are not kept."""
        global _tracer
        if _tracer is tracer:
            _tracer = None
        last = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_FLUSH_S)

    return stop
