"""The log of takedowns: data/takedowns.jsonl, append-only, each record synced as a whole.

The log's *extent* (the number of its records, and their digest) is stored by witnesses
(`index.takedowns.witnesses`). A log that does not begin with the records of each witness is
refused, unless an accept names its extent. A log that cannot be read stops rebuilds and servers:
withdrawn works must not come back because a line was lost.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import filelock
from pydantic import ValidationError

from index.errors import NotFoundError, TakedownError
from index.locks import file_lock
from index.takedowns.in_force import REMEDY, Takedowns
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
from index.takedowns.witnesses import (
    attest,
    attest_versions,
    read_extent,
    recorded_extents,
    write_extent,
)
from model.files import sync_to_disk, this_user
from model.regular_files import read_file

NO_NAMES: Mapping[str, str] = MappingProxyType({})
NOTHING = Extent()
LOCK_SECONDS = 10.0  # to wait for another process
MOMENT = timedelta(minutes=1)  # a client or a proxy may send a request again for that long


@dataclass(frozen=True)
class TakedownLog:
    """Reads and appends to the log file; several processes may use it at once.

    Args:
        path: of the log, in the data folder.
        seen: the records that a running server has read before, another witness.
    """

    path: Path
    seen: Extent = NOTHING

    @property
    def extent_file(self) -> Path:
        """Return the path of the file that holds the log's extent."""
        return self.path.with_suffix(".extent")

    @property
    def rescue_file(self) -> Path:
        """Return the path of the copy that a running server leaves of a log that was lost."""
        return self.path.with_suffix(".rescue.jsonl")

    def read(self) -> Takedowns:
        """Read the log.

        Raises:
            TakedownError: it cannot be read, a line is damaged, or records are missing.
        """
        try:
            witnesses = self._witnesses()  # first: the log only grows
            return _checked(self.path, split_records(self._bytes())[0], witnesses)
        except OSError as error:
            raise TakedownError(
                f"the takedown log {self.path} cannot be read ({error.strerror}); until it can, "
                "nothing is served or rebuilt, since withdrawn works could come back: mend its "
                "permissions, or run `whence takedown repair --from BACKUP`"
            ) from error

    def add(
        self,
        kind: Kind,
        target: str,
        contents: Iterable[Content],
        *,
        reason: str,
        name: str | None = None,
    ) -> Takedown:
        """Record a takedown, of a concept with its name; it is on disk when this returns.

        Raises:
            TakedownError: the reason is blank, or the log is damaged or cannot be written; nothing
                was recorded.
        """
        names = {target: name} if name else {}
        [takedown] = self.add_all([(kind, target, contents)], reason=reason, names=names)
        return takedown

    def add_all(
        self,
        works: Iterable[tuple[Kind, str, Iterable[Content]]],
        *,
        reason: str,
        names: Mapping[str, str] = NO_NAMES,
    ) -> list[Takedown]:
        """Record takedowns, given as (kind, target, contents): all or none.

        A takedown that is in force, has the same reason and was recorded within the last `MOMENT`
        is returned instead of a second record.

        Args:
            works: to take down.
            reason: recorded with each.
            names: of the concepts among them, by id.

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
                name=names.get(target) if kind == "concept" else None,
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

    def accept(self, *, reason: str) -> Accept:
        """Accept a log that has lost records, or that replaced another one.

        Args:
            reason: recorded in the log.

        Raises:
            TakedownError: nothing is missing, a line is damaged, or the log cannot be written.
        """
        accepts: list[Accept] = []

        def make(known: Takedowns) -> list[Accept]:
            extents = {extent for extent, _ in self._witnesses(beside=False)}
            # An extent that cannot be read is replaced.
            with contextlib.suppress(OSError, ValidationError):
                extents.add(read_extent(self.extent_file))
            missing = sorted(
                (one for one in extents - known.accepted if not known.begins_with(one)),
                key=lambda one: (one.records, one.sha256),
            )
            if not missing:
                raise TakedownError(f"the takedown log {self.path} lacks no record")
            accepts.append(Accept(extents=tuple(missing), at=datetime.now(UTC), reason=reason))
            return accepts

        self._append(make, whole=False)
        return accepts[0]

    def repair(self, copy: Path | None = None) -> int:
        """Write the log anew from a copy, so that it agrees with every witness.

        Records that the log holds and the copy does not are kept, after those of the copy; damaged
        lines of the log are dropped. A missing or damaged `extent_file` is written again.

        Args:
            copy: a backup of the log; by default the one that a running server has left.

        Returns:
            The number of records that the log had lost.

        Raises:
            TakedownError: the copy cannot be read or is damaged, a witness knows of more records,
                or the log cannot be written; the log stays as it was.
        """
        if copy is None and self.rescue_file.exists():
            copy = self.rescue_file
        with self._writing():
            before = [line for line in self._bytes().split(b"\n") if _is_record(line)]
            lines = before if copy is None else _merged(_records_of(copy), before)
            witnesses = self._witnesses(beside=False)
            with contextlib.suppress(OSError, ValidationError):  # the file beside is repaired, too
                witnesses.append((read_extent(self.extent_file), str(self.extent_file)))
            lost = len(lines) - len(before)
            lines = _reconciled(self.path, lines, before, witnesses)
            self._replace(self.path, lines)
            extent = extents_of(lines)[-1]
            write_extent(self.extent_file, extent)
            attest_versions(self.path.parent, extent)
            self.rescue_file.unlink(missing_ok=True)
        return lost

    def rescue(self, known: Takedowns) -> None:
        """Save the records that a running server knows, and attest them, after the log was lost.

        Raises:
            OSError: the data folder cannot be written to.
        """
        with file_lock(self.path.with_suffix(".lock"), seconds=LOCK_SECONDS):
            for place in (self.rescue_file, self.path):
                with contextlib.suppress(OSError, TakedownError):
                    if _replay(place, _records_of(place)).begins_with(known.extent):
                        return  # another server was faster, or the log is back
            self._replace(self.rescue_file, known.lines)
            folder = self.path.parent
            attest(folder, known.extent, keep_longer=True)
            attest_versions(folder, known.extent, keep_longer=True)

    def _append(
        self, make: Callable[[Takedowns], Sequence[AnyRecord]], *, whole: bool = True
    ) -> None:
        """Append records and sync them, all or none.

        Args:
            make: returns the records to append, given the log's present state.
            whole: refuse a log that lacks records.
        """
        draft = self.extent_file.with_suffix(".extent-draft")
        with self._writing():
            # Unbuffered: bytes that the disk refused must not be written on close.
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                sync_to_disk(self.path.parent)
                written = self._bytes()
                lines, end = split_records(written)
                known = _checked(self.path, lines, self._witnesses() if whole else ())
                # Without absent fields, so that earlier versions can read the record.
                fresh = [one.model_dump_json(exclude_none=True).encode() for one in make(known)]
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
            attest_versions(self.path.parent, extent)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the log's lock; errors of the disk become a `TakedownError`."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(self.path.with_suffix(".lock"), seconds=LOCK_SECONDS):
                yield
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

    def _replace(self, path: Path, lines: Sequence[bytes]) -> None:
        """Write records to a file: all or none, and synced."""
        draft = path.with_name(f"{path.name}-draft")
        try:
            draft.write_bytes(b"".join(line + b"\n" for line in lines))
            sync_to_disk(draft)
            draft.replace(path)
            sync_to_disk(path.parent)
        finally:
            draft.unlink(missing_ok=True)

    def _bytes(self) -> bytes:
        try:
            return read_file(self.path)
        except FileNotFoundError:
            return b""

    def _witnesses(self, *, beside: bool = True) -> list[tuple[Extent, str]]:
        """Return the extents that witnesses have recorded, each with its place.

        Args:
            beside: include the file beside the log.

        Raises:
            TakedownError: that file is damaged.
        """
        found = [(self.seen, "the memory of this running server")]
        found += recorded_extents(self.path.parent)
        if beside:
            try:
                found.append((read_extent(self.extent_file), str(self.extent_file)))
            except FileNotFoundError:
                pass
            except ValidationError as error:
                raise TakedownError(
                    f"{self.extent_file}, which holds the length of the takedown log, is damaged: "
                    "run `whence takedown repair`, which writes it again if the log is whole"
                ) from error
        return found

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


def _checked(
    path: Path, lines: Sequence[bytes], witnesses: Iterable[tuple[Extent, str]]
) -> Takedowns:
    takedowns = _replay(path, lines)
    # The one that knows most comes first: its number is the one to look for in backups.
    for extent, witness in sorted(witnesses, key=lambda one: -one[0].records):
        takedowns.require(extent, witness)
    return takedowns


def _merged(copy: list[bytes], log: list[bytes]) -> list[bytes]:
    """Return the records of a copy, and after them those that the log alone holds."""
    if log[: len(copy)] == copy:
        return log
    known = set(copy)
    return [*copy, *(line for line in log if line not in known)]


def _reconciled(
    path: Path,
    lines: list[bytes],
    before: list[bytes],
    witnesses: Sequence[tuple[Extent, str]],
) -> list[bytes]:
    """Return the records of a repaired log, with which every witness agrees.

    Args:
        path: of the log.
        lines: its records, those of ``before`` among them.
        before: its records before the repair. A witness of these stays true: an accept names it.
        witnesses: extents, each with its place.

    Raises:
        TakedownError: a witness knows of other records.
    """
    repaired, old = _replay(path, lines), _replay(path, before)
    moved = {
        extent
        for extent, _ in witnesses
        if old.begins_with(extent) and not repaired.begins_with(extent)
    }
    if missing := sorted(moved - repaired.accepted, key=lambda one: one.records):
        accept = Accept(
            extents=tuple(missing), at=datetime.now(UTC), reason="a repair moved their records"
        )
        lines = [*lines, accept.model_dump_json().encode()]
    _checked(path, lines, witnesses)
    return lines


def _records_of(path: Path) -> list[bytes]:
    """Return the records in a copy of the log.

    Raises:
        TakedownError: it cannot be read, or holds something else.
    """
    try:
        lines = split_records(read_file(path))[0]
    except OSError as error:
        raise TakedownError(
            f"the copy {path} of the takedown log cannot be read ({error.strerror})"
        ) from error
    if not all(map(_is_record, lines)):
        raise TakedownError(f"{path} is no whole copy of a takedown log: take another backup")
    return lines


def _is_record(line: bytes) -> bool:
    try:
        RECORD.validate_json(line)
    except ValidationError:
        return False
    return True


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
    return Takedowns(
        tuple(active.values()), lifted, path, digests, frozenset(accepted), tuple(lines)
    )


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
        f"line {number} of the takedown log {path} is damaged; nothing is served or rebuilt, and "
        f"no takedown recorded, since withdrawn works could come back: {REMEDY}"
    )


def _write_synced(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
    os.fsync(file)
