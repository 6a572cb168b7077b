"""Repeats a command's work, for sources that grow."""

import re
import time
from collections.abc import Callable
from datetime import timedelta

import typer

from app.cli.console import err, print_error
from model.errors import WhenceError

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"([0-9]{1,6})\s*([smhd])", re.I)


def duration(text: str) -> timedelta:
    """Return a duration such as ``30s``, ``10m``, ``2h`` or ``1d``, at least a second.

    Raises:
        typer.BadParameter: it is none.
    """
    found = _DURATION.fullmatch(text.strip())
    if not found or not int(found[1]):
        raise typer.BadParameter(f"{text!r} is no duration; write it as 30s, 10m, 2h or 1d")
    return timedelta(**{UNITS[found[2].lower()]: int(found[1])})


def repeat(
    work: Callable[[], None],
    pause: timedelta,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Do the work until the process is told to end, with a pause after each time.

    An error that has a name is printed, and the next time may do better: a disk is full, a source
    is out of reach, another rebuild runs.
    """
    while True:
        try:
            work()
        except WhenceError as error:
            print_error(str(error))
        err.print(f"the next look at the sources is in {pause}")
        sleep(pause.total_seconds())
