"""Shows what a command has not used: a line for each kind, not for each file."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from app.cli.console import err
from model.folders import NOT_AN_IMAGE, Skipped

EACH = 3  # up to so many of one kind have a line each; of more the first are named in one line
LINES = 20
_PARTICULARS = re.compile(r"\S*/\S*|\d[\d,]*")  # paths and numbers within a reason


def print_skipped(skipped: Iterable[Skipped]) -> None:
    """Print what was skipped and why, in `LINES` lines and one more at most."""
    lines = skipped_lines(list(skipped))
    for line in lines[:LINES]:
        err.print(line)
    if len(lines) > LINES:
        err.print(f"... and {len(lines) - LINES} more lines; --json FILE lists every file")


def skipped_lines(skipped: Sequence[Skipped]) -> list[str]:
    """Returns a line for each skipped file, and one for all of a kind where there are many.

    Files are of a kind if they were skipped for one reason, paths and numbers in it apart, and, of
    those that are no images at all, if their names end alike. These come last.
    """
    kinds: dict[tuple[bool, str, str], list[Skipped]] = defaultdict(list)
    for one in skipped:
        other = one.reason == NOT_AN_IMAGE
        suffix = PurePath(one.path).suffix.lower() if other else ""
        kinds[other, _PARTICULARS.sub("...", one.reason), suffix].append(one)
    lines = []
    for (_, reason, suffix), group in sorted(kinds.items(), key=lambda kind: kind[0][0]):
        if len(group) <= EACH:
            lines += [f"skipped {one.path}: {one.reason}" for one in group]
            continue
        folders = len({PurePath(one.path).parent for one in group})
        names = ", ".join(PurePath(one.path).name for one in group[:EACH])
        alike = len({one.reason for one in group}) == 1
        lines.append(
            f"skipped {len(group):,} {f'{suffix} files' if suffix else 'files'} in {folders:,} "
            f"folder{'s' * (folders > 1)} ({names}, ...): {group[0].reason if alike else reason}"
        )
    return lines
