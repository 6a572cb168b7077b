"""Text from elsewhere on terminals and in logs."""

import io
import logging
from pathlib import Path

import pytest

from app.cli.console import PlainConsole
from app.telemetry.logs import configure_logging
from app.text import PrintableFormatter, printable
from tests.app.cli.test_main import run

HOSTILE = "a\x1b[2Jb\nc\r\x07\u202ed\u2066\u200b\x9b1m\ud800"


def is_harmless(text: str) -> bool:
    return all(one.isprintable() for one in text)


def test_what_a_terminal_would_act_on_is_escaped() -> None:
    assert is_harmless(printable(HOSTILE))
    assert printable(HOSTILE).startswith("a\\x1b[2Jb\\nc\\r\\x07\\u202ed")
    assert printable("Étude, 東京 \N{FOX FACE}") == "Étude, 東京 \N{FOX FACE}"
    assert printable("a\nb\x1b", "\n") == "a\nb\\x1b"


def test_a_command_prints_one_line_whatever_it_prints() -> None:
    console = PlainConsole()
    console.file = io.StringIO()
    console.print(f"name {HOSTILE}")
    assert is_harmless(console.file.getvalue().removesuffix("\n"))


def test_the_lines_of_a_log_cannot_be_forged() -> None:
    stream = io.StringIO()
    configure_logging("info", "console", stream)
    logging.getLogger("app").warning("concept %s", HOSTILE, extra={"route": HOSTILE})
    try:
        int(HOSTILE)
    except ValueError:
        logging.getLogger("app").exception("failed")
    first, *traceback = stream.getvalue().splitlines()
    assert is_harmless(first)
    assert all(map(is_harmless, traceback))
    assert traceback[-1].startswith("ValueError: invalid literal")


def test_the_log_of_a_command_cannot_be_forged() -> None:
    record = logging.LogRecord("index", logging.WARNING, __file__, 1, "x %s", (HOSTILE,), None)
    assert is_harmless(PrintableFormatter("%(levelname)s %(message)s").format(record))


def test_usage_errors_escape_what_they_quote(tmp_path: Path, capsys) -> None:
    assert run("verify-report", "a", "b\x1b[2J") == 2
    assert run("takedown", "lift", "a", "b\x1b[2J", "--reason", "r") == 2
    assert run("\x1b[2J") == 2
    assert "\x1b[2J" not in capsys.readouterr().err


def test_a_forged_report_cannot_print_a_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    forged = "x\\nok     the report is whole, and the index gives the same answer\\u001b[8m"
    report.write_text(f'{{"{forged}": 1, "exemplars": {{"{forged}": 1}}}}')
    assert run("verify-report", report, "--data", tmp_path) == 1
    said = capsys.readouterr()
    assert not said.out
    assert "\nok" not in said.err
    assert is_harmless(said.err.removesuffix("\n"))
