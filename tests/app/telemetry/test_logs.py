"""How the server's log looks."""

import io
import json
import logging
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvicorn

from app.main import create_app
from app.settings import Settings
from app.telemetry.logs import LogFormat, configure_logging
from index.answering.attribution import Attributor
from tests.app.test_errors import BrokenEmbedder
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """Give the root logger back as it was; uvicorn's as they are where it has set up none."""
    root = logging.getLogger()
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.contextvars.clear_contextvars()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configured(style: LogFormat = "json", level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, style, stream)
    return stream


def objects(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_warning_of_a_library_is_a_line_of_the_log() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stream = configured()
        warnings.warn("use another function", FutureWarning, stacklevel=1)
    [line] = objects(stream)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "use another function" in line["event"]


def test_libraries_that_tell_of_every_step_are_heard_from_warnings_on() -> None:
    stream = configured()
    for name in ("onnx_ir.passes", "onnxscript.optimizer"):
        logging.getLogger(name).info("folded a constant")
        logging.getLogger(name).warning("cannot fold")
    assert [line["event"] for line in objects(stream)] == ["cannot fold"] * 2


def test_each_line_is_an_object() -> None:
    stream = configured()
    structlog.contextvars.bind_contextvars(request_id="abc")
    logging.getLogger("app.x").warning("two\nlines of %s", "text", extra={"ms": 1.5})
    logging.getLogger("uvicorn.error").info("plain", extra={"color_message": "\x1b[36mplain"})
    first, second = objects(stream)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "two\nlines of text",
        "level": "warning",
        "logger": "app.x",
        "ms": 1.5,
        "request_id": "abc",
    }
    assert second["logger"] == "uvicorn.error"
    assert "\x1b" not in stream.getvalue()


def test_what_is_less_severe_is_left_out() -> None:
    stream = configured(level="warning")
    logging.getLogger("app").info("small talk")
    logging.getLogger("app").warning("news")
    assert [line["event"] for line in objects(stream)] == ["news"]


def test_the_default_depends_on_the_terminal() -> None:
    for stream, is_json in ((io.StringIO(), True), (Terminal(), False)):
        configure_logging("info", "auto", stream)
        logging.getLogger("app").info("hello")
        assert stream.getvalue().startswith("{") is is_json
        assert "hello" in stream.getvalue()


def test_the_console_names_level_and_fields() -> None:
    stream = configured("console")
    logging.getLogger("app").info("request", extra={"status": 200})
    assert "info" in stream.getvalue()
    assert "status=200" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()  # a file has no colours


@pytest.mark.parametrize("style", ["json", "console"])
def test_tracebacks_show_no_variables(style: LogFormat) -> None:
    stream = configured(style)
    upload = "".join(map(chr, range(97, 123)))
    try:
        int(upload[:0])
    except ValueError:
        logging.getLogger("app").exception("failed")
    assert "ValueError: invalid literal" in stream.getvalue()
    assert upload not in stream.getvalue()


def test_a_500_leaves_its_traceback_under_the_request_s_id(
    attributor: Attributor, tmp_path: Path, query: bytes
) -> None:
    stream = configured()
    app = create_app(Settings(data=tmp_path), Attributor(BrokenEmbedder(), attributor.snapshot))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/attribute"
            response = httpx.post(url, files={"image": query}, trust_env=False)
        finally:
            server.should_exit = True
            thread.join(30)
    assert "RuntimeError" not in response.text
    mine = [o for o in objects(stream) if o.get("request_id") == response.headers["x-request-id"]]
    [traced] = [line for line in mine if "exception" in line]
    assert traced["level"] == "error"
    assert "RuntimeError: secret: /home/someone/weights" in traced["exception"]
    assert [line["status"] for line in mine if line["event"] == "request"] == [500]
    assert not [o for o in objects(stream) if o["logger"] == "uvicorn.access"]
