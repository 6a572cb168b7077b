"""Text for terminals and logs: control and bidirectional characters are escaped."""

import logging
from types import TracebackType


def printable(text: str, kept: str = "") -> str:
    r"""Escape the characters of a text that a terminal would act on, as Python writes them.

    Names, file names, reports and servers' messages can hold escape sequences, line breaks and
    characters that change the direction of text (U+202E): with them a text could hide lines, or
    look like the program's own. Escaped is all that `str.isprintable` excludes.

    Args:
        text: from any source.
        kept: characters that are not escaped, such as ``"\n"`` of a traceback.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in kept else one.encode("unicode_escape").decode()
        for one in text
    )


class PrintableFormatter(logging.Formatter):
    """Formats a log record as one line, followed by its traceback, with characters escaped."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line."""
        return printable(super().formatMessage(record))

    def formatException(  # noqa: N802
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """Return the traceback."""
        return printable(super().formatException(ei), "\n")
