"""Works that must not be shown or counted any more: an append-only log, and whom it concerns.

data/takedowns.jsonl holds one JSON object a line, each written and synced as a whole:

    {"action": "add", "id": ..., "at": ..., "reason": ..., "kind": ..., "target": ..., "contents":
     [{"sha256": ..., "fingerprint": ...}, ...]}
    {"action": "lift", "takedown": <id of an add>, "at": ..., "reason": ...}
    {"action": "accept", "extents": [...], "at": ..., "reason": ...}

How far it had been written (its *extent*: how many records, and their digest) stands in a file
beside it and in the manifest of each index version. A log that is shorter than that, or another
one, is refused, unless an accept names the extents that it does not reach.

A takedown reaches every image with the content of one of its files, under whatever name and in
whatever concept; every image whose fingerprint is near one of theirs; and, if it is of a concept,
every image that a source files under the concept's id. A log that cannot be read stops rebuilds and
servers: what was withdrawn must not come back because a line was lost.
"""

import base64
import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import filelock
import numpy as np
from pydantic import (
    AfterValidator,
    AwareDatetime,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from index.catalog import Catalog, Exemplar
from index.errors import NotFoundError, TakedownError
from index.locks import file_lock
from index.stores.vectors import Rows
from index.takedowns.fingerprints import (
    LENGTH,
    Fingerprints,
    Pictures,
    as_fingerprints,
    fingerprint,
)
from index.thumbnails import thumbnail_of
from model.config import Frozen
from model.files import sync_to_disk
from model.images import DEFAULT_LIMITS, ImageLimits, decode_image
from model.regular_files import read_file

Kind = Literal["concept", "exemplar", "image"]


def _check_length(text: str) -> str:
    if len(base64.b64decode(text, validate=True)) != LENGTH:
        raise ValueError("not a fingerprint")
    return text


def _check_reason(text: str, info: ValidationInfo) -> str:
    if info.mode == "json":  # as it was recorded once
        return text
    if not text.strip():
        raise TakedownError("a takedown, its lift and an accept need a reason that is not blank")
    return text.strip()


Reason = Annotated[str, AfterValidator(_check_reason)]


class Content(Frozen):
    """One file that was taken down."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    fingerprint: Annotated[str, AfterValidator(_check_length)]  # base64


class Takedown(Frozen):
    """A work that was withdrawn, by whom ever may demand it."""

    action: Literal["add"] = "add"
    id: str
    at: AwareDatetime
    reason: Reason
    kind: Kind
    target: str  # id of the concept or exemplar, or the image file's name
    contents: tuple[Content, ...]


class Lift(Frozen):
    """The end of a takedown."""

    action: Literal["lift"] = "lift"
    takedown: str
    at: AwareDatetime
    reason: Reason


class Extent(Frozen):
    """How far a log had been written."""

    records: int = Field(0, ge=0)
    sha256: str = hashlib.sha256().hexdigest()  # of these records, a newline after each


class Accept(Frozen):
    """Somebody's word that the log is to be used though it does not reach these extents."""

    action: Literal["accept"] = "accept"
    extents: tuple[Extent, ...]
    at: AwareDatetime
    reason: Reason


AnyRecord: TypeAlias = Takedown | Lift | Accept
_RECORD: TypeAdapter[AnyRecord] = TypeAdapter(Annotated[AnyRecord, Field(discriminator="action")])

How = Literal["named", "same content", "near-duplicate"]
Reached = Mapping[str, Rows]  # id of a takedown -> the rows of an index that it hides, ascending


@dataclass(frozen=True)
class Takedowns:
    """The takedowns in force, what was lifted, and the log that says so."""

    active: tuple[Takedown, ...] = ()
    lifted: Mapping[str, tuple[Takedown, Lift]] = field(default_factory=dict)
    path: Path = Path("takedowns.jsonl")
    digests: tuple[str, ...] = (Extent().sha256,)  # of the first 0, 1, 2, ... records
    accepted: frozenset[Extent] = frozenset()

    def __post_init__(self) -> None:
        contents: dict[str, Takedown] = {}
        concepts: dict[str, Takedown] = {}
        owners: list[Takedown] = []
        for takedown in self.active:
            if takedown.kind == "concept":
                concepts.setdefault(takedown.target, takedown)
            for content in takedown.contents:
                contents.setdefault(content.sha256, takedown)
                owners.append(takedown)
        object.__setattr__(self, "_contents", contents)
        object.__setattr__(self, "_concepts", concepts)
        object.__setattr__(self, "_owners", owners)

    _contents: Mapping[str, Takedown] = field(init=False, repr=False, compare=False)
    _concepts: Mapping[str, Takedown] = field(init=False, repr=False, compare=False)
    _owners: Sequence[Takedown] = field(init=False, repr=False, compare=False)

    @property
    def extent(self) -> Extent:
        """How far the log is written."""
        return Extent(records=len(self.digests) - 1, sha256=self.digests[-1])

    def reaches(self, extent: Extent) -> bool:
        """Whether the log begins with those records."""
        return self.digests[extent.records : extent.records + 1] == (extent.sha256,)

    def require(self, extent: Extent, witness: str) -> None:
        """Refuse a log that is not the one ``witness`` saw, or that has lost records since.

        Raises:
            TakedownError: it is, and nobody has accepted it.
        """
        if self.reaches(extent) or extent in self.accepted:
            return
        fault = (
            f"holds {len(self.digests) - 1} records of at least {extent.records}"
            if extent.records >= len(self.digests)
            else f"is another one than the log of {extent.records} records"
        )
        raise TakedownError(
            f"the takedown log {self.path} {fault} that {witness} tells of; nothing is served or "
            "rebuilt, and no takedown recorded, since withdrawn works could come back: restore it "
            "from a backup, or, if there is none, go on with it as it is by `whence takedown "
            "accept --reason TEXT` and name the lost works again"
        )

    def of_exemplar(self, sha256: str, concept_id: str) -> Takedown | None:
        """The takedown that names this content or concept."""
        return self._contents.get(sha256) or self._concepts.get(concept_id)

    def of_pictures(self, fingerprints: Sequence[bytes]) -> list[Takedown | None]:
        """For each picture the takedown of one so near that both are the same work."""
        found: list[Takedown | None] = [None] * len(fingerprints)
        pictures = Pictures(as_fingerprints(fingerprints))
        for place, row in zip(*pictures.near(_fingerprints(self.active)), strict=True):
            found[row] = found[row] or self._owners[place]
        return found

    def reached(self, catalog: Catalog, pictures: Pictures, before: Reached) -> dict[str, Rows]:
        """The rows of an index that each takedown in force hides.

        Args:
            catalog: what the index holds.
            pictures: of its rows.
            before: what was found for some of the takedowns already; only the others are compared
                with the index.
        """
        fresh = [takedown for takedown in self.active if takedown.id not in before]
        found = {takedown.id: [_named(takedown, catalog)] for takedown in fresh}
        owners = [takedown.id for takedown in fresh for _ in takedown.contents]
        places, rows = pictures.near(_fingerprints(fresh))
        for place in np.unique(places):
            found[owners[place]].append(rows[places == place])
        fresh_rows = {identifier: np.unique(np.concatenate(r)) for identifier, r in found.items()}
        return {t.id: before[t.id] if t.id in before else fresh_rows[t.id] for t in self.active}


@dataclass(frozen=True)
class TakedownLog:
    """The log file; several processes may use it at once."""

    path: Path

    @property
    def extent_file(self) -> Path:
        """Where it is told how far the log was written last."""
        return self.path.with_suffix(".extent")

    def read(self) -> Takedowns:
        """What the log says now.

        Raises:
            TakedownError: it cannot be read, a line in it is damaged, or records are missing.
        """
        try:
            extent = self._extent()  # first: the log only grows
            return self._checked(_records(self._bytes())[0], extent)
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
        """Record takedowns, all or none: of each its kind, target and contents.

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
        self._append(lambda _: takedowns)
        return takedowns

    def lift(self, takedown_id: str, *, reason: str) -> Takedown:
        """End a takedown: its images may come back with the next rebuild, and served ones at once.

        Raises:
            NotFoundError: none of that id is in force.
            TakedownError: the log is damaged or cannot be written; nothing was recorded.
        """
        lifted: list[Takedown] = []

        def end(known: Takedowns) -> list[Lift]:
            lifted.extend(one for one in known.active if one.id == takedown_id)
            if not lifted:
                raise NotFoundError(
                    f"no takedown {takedown_id!r} is in force; `whence takedown list` shows those "
                    "that are"
                )
            return [Lift(takedown=takedown_id, at=datetime.now(UTC), reason=reason)]

        self._append(end)
        return lifted[0]

    def accept(self, told: Iterable[Extent], *, reason: str) -> Accept:
        """Go on with a log that has lost records, or took the place of another one.

        Args:
            told: extents that the manifests of index versions tell of.
            reason: why.

        Raises:
            TakedownError: nothing is missing, a line is damaged, or the log cannot be written.
        """
        accepts: list[Accept] = []

        def make(known: Takedowns) -> list[Accept]:
            with contextlib.suppress(TakedownError):  # an extent that cannot be read is replaced
                extents.add(self._extent())
            missed = sorted(
                (one for one in extents - known.accepted if not known.reaches(one)),
                key=lambda one: (one.records, one.sha256),
            )
            if not missed:
                raise TakedownError(f"the takedown log {self.path} lacks no record")
            accepts.append(Accept(extents=tuple(missed), at=datetime.now(UTC), reason=reason))
            return accepts

        extents = set(told)
        self._append(make, whole=False)
        return accepts[0]

    def _append(
        self, make: Callable[[Takedowns], Sequence[AnyRecord]], *, whole: bool = True
    ) -> None:
        """Write what ``make`` makes of the log as it is, synced, or nothing at all.

        Args:
            make: gives the records.
            whole: refuse a log that lacks records.
        """
        draft = self.extent_file.with_suffix(".extent-draft")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(self.path.with_suffix(".lock"), seconds=10):
                # No buffer: what the disk refused must not be written when the file is closed.
                file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
                try:
                    sync_to_disk(self.path.parent)
                    written = self._bytes()
                    lines, end = _records(written)
                    known = self._checked(lines, self._extent() if whole else Extent())
                    fresh = [one.model_dump_json().encode() for one in make(known)]
                    extent = _extents([*lines, *fresh])[-1]
                    draft.write_text(extent.model_dump_json() + "\n", encoding="utf-8")
                    sync_to_disk(draft)
                    if end != len(written):
                        # An unfinished record goes, so that the next begins on its own line.
                        os.ftruncate(file, end)
                    try:
                        unended = b"\n" if end and written[end - 1 : end] != b"\n" else b""
                        _write_synced(file, unended + b"".join(line + b"\n" for line in fresh))
                        draft.replace(self.extent_file)
                    except OSError as error:
                        self._take_back(file, end, error)
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
                "nothing was recorded: make room or give write access, then try again"
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
                f"{self.extent_file}, which tells how long the takedown log is, is damaged; if "
                f"{self.path.name} is whole (`whence takedown list` after that), delete it"
            ) from error

    def _checked(self, lines: Sequence[bytes], extent: Extent) -> Takedowns:
        takedowns = _replay(self.path, lines)
        takedowns.require(extent, str(self.extent_file))
        return takedowns

    def _take_back(self, file: int, size: int, cause: OSError) -> None:
        try:
            os.ftruncate(file, size)
            os.fsync(file)
        except OSError as error:
            raise TakedownError(
                f"the takedown log {self.path} cannot be written ({cause.strerror or cause}), and "
                f"what was written cannot be taken back ({error.strerror or error}); mend the "
                "disk, look with `whence takedown list` what is in force, then try again"
            ) from cause


def content_of_file(path: Path, limits: ImageLimits = DEFAULT_LIMITS) -> Content:
    """What identifies an image file that may be in no index.

    Raises:
        ImageError: it cannot be read or is no image.
        TakedownError: there is no such file.
    """
    try:
        image = decode_image(read_file(path), limits)
    except OSError as error:
        raise TakedownError(f"--image {path} cannot be read: {error.strerror}") from error
    key = fingerprint(thumbnail_of(image.pixels))
    return Content(sha256=image.sha256, fingerprint=base64.b64encode(key).decode())


@dataclass(frozen=True)
class Hidden:
    """An exemplar that a takedown hides."""

    exemplar: Exemplar
    how: How


def hidden_by(takedown: Takedown, catalog: Catalog, pictures: Pictures) -> list[Hidden]:
    """The exemplars of an index that a takedown hides, by row, and why each.

    Args:
        takedown: the one.
        catalog: what is visible now; what is hidden already is not listed.
        pictures: of the index's rows.
    """
    [rows] = Takedowns((takedown,)).reached(catalog, pictures, {}).values()
    contents = {content.sha256 for content in takedown.contents}
    hidden = []
    for _, exemplar in sorted(catalog.exemplars_by_row(rows.tolist()).items()):
        how: How = "same content" if exemplar.sha256 in contents else "near-duplicate"
        if (takedown.kind, takedown.target) in {
            ("concept", exemplar.concept_id),
            ("exemplar", exemplar.id),
        }:
            how = "named"
        hidden.append(Hidden(exemplar, how))
    return hidden


def rows_of(reached: Reached) -> Rows:
    """All rows that takedowns hide, ascending."""
    return np.unique(np.concatenate([[], *reached.values()]).astype(np.int64))


def _named(takedown: Takedown, catalog: Catalog) -> Rows:
    concepts = [takedown.target] if takedown.kind == "concept" else []
    hashes = [content.sha256 for content in takedown.contents]
    return np.asarray(catalog.rows_of(hashes, concepts), dtype=np.int64)


def _fingerprints(takedowns: Iterable[Takedown]) -> Fingerprints:
    """One row for each content of each takedown, in order."""
    return as_fingerprints(
        [base64.b64decode(content.fingerprint) for one in takedowns for content in one.contents]
    )


def _records(written: bytes) -> tuple[list[bytes], int]:
    """The log's lines, and where they end; a record whose writing never ended is none.

    One that lacks only its newline is whole: it is kept, as somebody may rely on it.
    """
    *lines, last = written.split(b"\n")
    try:
        _RECORD.validate_json(last)
    except ValidationError:
        return lines, len(written) - len(last)
    return [*lines, last], len(written)


def _extents(lines: Iterable[bytes]) -> list[Extent]:
    """Those of the first 0, 1, 2, ... records."""
    digest = hashlib.sha256()
    extents = [Extent()]
    for number, line in enumerate(lines, start=1):
        digest.update(line + b"\n")
        extents.append(Extent(records=number, sha256=digest.hexdigest()))
    return extents


def _replay(path: Path, lines: Sequence[bytes]) -> Takedowns:
    active: dict[str, Takedown] = {}
    lifted: dict[str, tuple[Takedown, Lift]] = {}
    accepted: set[Extent] = set()
    for number, line in enumerate(lines, start=1):
        try:
            record = _RECORD.validate_json(line)
        except ValidationError as error:
            raise _damaged(path, number) from error
        if isinstance(record, Takedown):
            if record.id in active or record.id in lifted:  # a line that was copied
                raise _damaged(path, number)
            active[record.id] = record
        elif isinstance(record, Accept):
            accepted.update(record.extents)
        elif record.takedown in active:
            lifted[record.takedown] = (active.pop(record.takedown), record)
    digests = tuple(extent.sha256 for extent in _extents(lines))
    return Takedowns(tuple(active.values()), lifted, path, digests, frozenset(accepted))


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
