"""The log of takedowns: data/takedowns.jsonl, append-only, each record synced as a whole.

The log's *extent* (the number of its records, and their digest) is stored in a file beside it and
in the manifest of each index version. A log that does not begin with these extents' records is
refused, unless an accept names them. A log that cannot be read stops rebuilds and servers:
withdrawn works must not come back because a line was lost.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import filelock
from pydantic import ValidationError

from index.errors import NotFoundError, TakedownError
from index.locks import file_lock
from index.takedowns.in_force import Takedowns
from index.takedowns.records import (
    RECORD,
    Accept,
    AnyRecord,
    Content,
    Extent,
    Kind,
    Lift,
    Takedown,
    extents_of,
    split_records,
)
from model.files import sync_to_disk, this_user

MOMENT = timedelta(minutes=1)  # a client or a proxy may send a request again for that long


@dataclass(frozen=True)
class TakedownLog:
    """Reads and appends to the log file; several processes may use it at once."""

    path: Path

    @property
    def extent_file(self) -> Path:
        """Return the path of the file that holds the log's extent."""
        return self.path.with_suffix(".extent")

    def read(self) -> Takedowns:
        """Read the log.

        Raises:
            TakedownError: it cannot be read, a line is damaged, or records are missing.
        """
        try:
            extent = self._extent()  # first: the log only grows
            return self._checked(split_records(self._bytes())[0], extent)
        except OSError as error:
            raise TakedownError(
                f"the takedown log {self.path} cannot be read ({error.strerror}); until it can, "
                "nothing is served or rebuilt, since withdrawn works could come back"
            ) from error

    def add(self, kind: Kind, target: str, contents: Iterable[Content], *, reason: str) -> Takedown:
        """Record a takedown; it is on disk when this returns.

        Raises:
            TakedownError: the reason is blank, or the log is damaged or cannot be written; nothing
                was recorded.
        """
        [takedown] = self.add_all([(kind, target, contents)], reason=reason)
        return takedown

    def add_all(
        self, works: Iterable[tuple[Kind, str, Iterable[Content]]], *, reason: str
    ) -> list[Takedown]:
        """Record takedowns, given as (kind, target, contents): all or none.

        A takedown that is in force, has the same reason and was recorded within the last `MOMENT`
        is returned instead of a second record.

        Raises:
            TakedownError: the reason is blank, or the log is damaged or cannot be written; nothing
                was recorded.
        """
        takedowns = [
            Takedown(
                id=f"td-{uuid.uuid4().hex}",
                at=datetime.now(UTC),
                reason=reason,
                kind=kind,
                target=target,
                contents=tuple({content.sha256: content for content in contents}.values()),
            )
            for kind, target, contents in works
        ]
        recorded: list[Takedown] = []

        def make(known: Takedowns) -> list[Takedown]:
            fresh: list[Takedown] = []
            for takedown in takedowns:
                before = (*known.active, *fresh)
                same = next((one for one in before if _is_repeated(one, takedown)), None)
                recorded.append(same or takedown)
                fresh.extend([] if same else [takedown])
            return fresh

        self._append(make)
        return recorded

    def lift(self, takedown_id: str, *, reason: str) -> Takedown:
        """Lift a takedown; an index that still holds its images shows them again at once.

        Raises:
            NotFoundError: none of that id is in force.
            TakedownError: the log is damaged or cannot be written; nothing was recorded.
        """
        lifted: list[Takedown] = []

        def end(known: Takedowns) -> list[Lift]:
            lifted.extend(one for one in known.active if one.id == takedown_id)
            if not lifted:
                raise NotFoundError(
                    f"no takedown {takedown_id!r} is in force; `whence takedown list` shows all "
                    "that are"
                )
            return [Lift(takedown=takedown_id, at=datetime.now(UTC), reason=reason)]

        self._append(end)
        return lifted[0]

    def accept(self, recorded: Iterable[Extent], *, reason: str) -> Accept:
        """Accept a log that has lost records, or that replaced another one.

        Args:
            recorded: extents in the manifests of the index versions.
            reason: recorded in the log.

        Raises:
            TakedownError: nothing is missing, a line is damaged, or the log cannot be written.
        """
        accepts: list[Accept] = []

        def make(known: Takedowns) -> list[Accept]:
            with contextlib.suppress(TakedownError):  # an extent that cannot be read is replaced
                extents.add(self._extent())
            missing = sorted(
                (one for one in extents - known.accepted if not known.begins_with(one)),
                key=lambda one: (one.records, one.sha256),
            )
            if not missing:
                raise TakedownError(f"the takedown log {self.path} lacks no record")
            accepts.append(Accept(extents=tuple(missing), at=datetime.now(UTC), reason=reason))
            return accepts

        extents = set(recorded)
        self._append(make, whole=False)
        return accepts[0]

    def _append(
        self, make: Callable[[Takedowns], Sequence[AnyRecord]], *, whole: bool = True
    ) -> None:
        """Append records and sync them, all or none.

        Args:
            make: returns the records to append, given the log's present state.
            whole: refuse a log that lacks records.
        """
        draft = self.extent_file.with_suffix(".extent-draft")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(self.path.with_suffix(".lock"), seconds=10):
                # Unbuffered: bytes that the disk refused must not be written on close.
                file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
                try:
                    sync_to_disk(self.path.parent)
                    written = self._bytes()
                    lines, end = split_records(written)
                    known = self._checked(lines, self._extent() if whole else Extent())
                    fresh = [one.model_dump_json().encode() for one in make(known)]
                    extent = extents_of([*lines, *fresh])[-1]
                    draft.write_text(extent.model_dump_json() + "\n", encoding="utf-8")
                    sync_to_disk(draft)
                    if end != len(written):
                        # An unfinished record is removed, so that the next begins a line.
                        os.ftruncate(file, end)
                    try:
                        unended = b"\n" if end and written[end - 1 : end] != b"\n" else b""
                        _write_synced(file, unended + b"".join(line + b"\n" for line in fresh))
                        draft.replace(self.extent_file)
                    except OSError as error:
                        self._undo(file, end, error)
                        raise
                finally:
                    os.close(file)
                    draft.unlink(missing_ok=True)
        except filelock.Timeout:
            raise TakedownError(
                f"another process holds the takedown log {self.path}; try again"
            ) from None
        except OSError as error:
            raise TakedownError(
                f"the takedown log {self.path} cannot be written ({error.strerror or error}); "
                f"nothing was recorded: make room or give {this_user()} write access, then try "
                "again"
            ) from error

    def _bytes(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""

    def _extent(self) -> Extent:
        try:
            return Extent.model_validate_json(self.extent_file.read_bytes())
        except FileNotFoundError:
            return Extent()
        except ValidationError as error:
            raise TakedownError(
                f"{self.extent_file}, which holds the length of the takedown log, is damaged; if "
                f"{self.path.name} is whole (`whence takedown list` after that), delete it"
            ) from error

    def _checked(self, lines: Sequence[bytes], extent: Extent) -> Takedowns:
        takedowns = _replay(self.path, lines)
        takedowns.require(extent, str(self.extent_file))
        return takedowns

    def _undo(self, file: int, size: int, cause: OSError) -> None:
        try:
            os.ftruncate(file, size)
            os.fsync(file)
        except OSError as error:
            raise TakedownError(
                f"the takedown log {self.path} cannot be written ({cause.strerror or cause}), and "
                f"the part written cannot be removed ({error.strerror or error}); mend the "
                "disk, run `whence takedown list` to see the takedowns in force, then try again"
            ) from cause


def _replay(path: Path, lines: Sequence[bytes]) -> Takedowns:
    active: dict[str, Takedown] = {}
    lifted: dict[str, tuple[Takedown, Lift]] = {}
    accepted: set[Extent] = set()
    for number, line in enumerate(lines, start=1):
        try:
            record = RECORD.validate_json(line)
        except ValidationError as error:
            raise _damaged(path, number) from error
        if isinstance(record, Takedown):
            if record.id in active or record.id in lifted:  # a copied line
                raise _damaged(path, number)
            active[record.id] = record
        elif isinstance(record, Accept):
            accepted.update(record.extents)
        elif record.takedown in active:
            lifted[record.takedown] = (active.pop(record.takedown), record)
    digests = tuple(extent.sha256 for extent in extents_of(lines))
    return Takedowns(tuple(active.values()), lifted, path, digests, frozenset(accepted))


def _is_repeated(known: Takedown, takedown: Takedown) -> bool:
    """Return True if a takedown has been recorded already, a moment before."""
    return (
        (known.kind, known.target, known.reason)
        == (takedown.kind, takedown.target, takedown.reason)
        and set(takedown.contents) <= set(known.contents)
        and abs(takedown.at - known.at) <= MOMENT
    )


def _damaged(path: Path, number: int) -> TakedownError:
    return TakedownError(
        f"line {number} of the takedown log {path} is damaged; until it is mended from a backup, "
        "nothing is served or rebuilt, and no takedown recorded, since withdrawn works could come "
        "back"
    )


def _write_synced(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
    os.fsync(file)
