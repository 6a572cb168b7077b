"""Logging: one line an event on stderr, as JSON or for people, with the request's id."""

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from app.text import printable

LogFormat = Literal["auto", "json", "console"]

# These log every step of an export: more than a hundred lines at the first start.
VERBOSE = ("onnx_ir", "onnxscript")


def configure_logging(level: str, style: LogFormat, stream: TextIO | None = None) -> None:
    """Send the logs and warnings of all libraries to ``stream``, in one format.

    Args:
        level: the least severe level that is written, such as "info".
        style: "auto" is "console" on a terminal and "json" elsewhere.
        stream: default stderr.
    """
    stream = stream or sys.stderr
    if style == "auto":
        style = "console" if stream.isatty() else "json"
    render: list[Processor] = [
        structlog.processors.format_exc_info,  # the renderer's own shows local variables
        _printable,
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        ),
    ]
    if style == "json":
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_colours,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in VERBOSE:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def _without_colours(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop uvicorn's second, coloured copy of its message."""
    event.pop("color_message", None)
    return event


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control and bidirectional characters; JSON escapes them by itself."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = printable(value, "\n" if name in {"exception", "stack"} else "")
    return event
