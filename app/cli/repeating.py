"""Repeats a command's work, for sources that grow."""

import re
import time
from collections.abc import Callable
from datetime import timedelta

import typer

from app.cli.console import err, print_error, text_of
from model.errors import WhenceError

LONGEST = timedelta(days=366)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"([0-9]{1,6})\s*([smhd])", re.I)


def duration(text: str) -> timedelta:
    """Return a duration such as ``30s``, ``10m``, ``2h`` or ``1d``: a second to a year.

    Raises:
        typer.BadParameter: it is none.
    """
    found = _DURATION.fullmatch(text.strip())
    pause = timedelta(**{UNITS[found[2].lower()]: int(found[1])}) if found else timedelta()
    if not timedelta() < pause <= LONGEST:
        raise typer.BadParameter(
            f"{text!r} is no duration; write it as 30s, 10m, 2h or 1d, up to a year"
        )
    return pause


def repeat(
    work: Callable[[], None],
    pause: timedelta,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Do the work until the process is told to end, with a pause after each time.

    An error is printed, and the next time may do better: a disk was full, a source out of reach,
    another rebuild running.
    """
    while True:
        try:
            work()
        except (WhenceError, OSError) as error:
            print_error(text_of(error))
        err.print(f"the next look at the sources is in {pause}")
        sleep(pause.total_seconds())
