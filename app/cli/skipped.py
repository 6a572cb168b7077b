"""Prints the files that a command skipped, with similar ones combined in one line."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from app.cli.console import err
from model.folders import NOT_AN_IMAGE, Skipped

EACH = 3  # largest group with a line for each file; of larger groups the first files are named
LINES = 20
_PARTICULARS = re.compile(r"\S*/\S*|\d[\d,]*")  # paths and numbers within a reason


def print_skipped(skipped: Iterable[Skipped]) -> None:
    """Print skipped files and reasons, in at most `LINES` lines and one more."""
    lines = skipped_lines(list(skipped))
    for line in lines[:LINES]:
        err.print(line)
    if len(lines) > LINES:
        err.print(f"... and {len(lines) - LINES} more lines; --json FILE lists every file")


def skipped_lines(skipped: Sequence[Skipped]) -> list[str]:
    """Return a line for each skipped file, or one line for a large group of similar files.

    A group has one reason, apart from paths and numbers in it. Files that are no images are also
    grouped by suffix, and come last.
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
