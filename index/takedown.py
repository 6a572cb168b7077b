"""Works that must not be shown or counted any more: an append-only log, and whom it concerns.

data/takedowns.jsonl holds one JSON object a line, each written and synced as a whole:

    {"action": "add", "id": ..., "at": ..., "reason": ..., "kind": ..., "target": ..., "contents":
     [{"sha256": ..., "fingerprint": ...}, ...]}
    {"action": "lift", "takedown": <id of an add>, "at": ..., "reason": ...}

A takedown reaches every image with the content of one of its files, under whatever name and in
whatever concept; every image whose fingerprint is near one of theirs; and, if it is of a concept,
every image that a source files under the concept's id. A log that cannot be read stops rebuilds and
servers: what was withdrawn must not come back because a line was lost.
"""

import base64
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import filelock
import numpy as np
from pydantic import AfterValidator, AwareDatetime, Field, TypeAdapter, ValidationError

from index.catalog import Catalog
from index.embedding import thumbnail_of
from index.errors import NotFoundError, TakedownError
from index.fingerprint import LENGTH, Fingerprints, fingerprint, near_duplicates
from index.vectors import Rows
from model.config import Frozen
from model.images import decode_image

Kind = Literal["concept", "exemplar", "image"]


def _check_length(text: str) -> str:
    if len(base64.b64decode(text, validate=True)) != LENGTH:
        raise ValueError("not a fingerprint")
    return text


class Content(Frozen):
    """One file that was taken down."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    fingerprint: Annotated[str, AfterValidator(_check_length)]  # base64


class Takedown(Frozen):
    """A work that was withdrawn, by whom ever may demand it."""

    action: Literal["add"] = "add"
    id: str
    at: AwareDatetime
    reason: str
    kind: Kind
    target: str  # id of the concept or exemplar, or the image file's name
    contents: tuple[Content, ...]


class Lift(Frozen):
    """The end of a takedown."""

    action: Literal["lift"] = "lift"
    takedown: str
    at: AwareDatetime
    reason: str


Record = Annotated[Takedown | Lift, Field(discriminator="action")]
_RECORD: TypeAdapter[Takedown | Lift] = TypeAdapter(Record)


@dataclass(frozen=True)
class Takedowns:
    """The takedowns in force, and what was lifted."""

    active: tuple[Takedown, ...] = ()
    lifted: Mapping[str, tuple[Takedown, Lift]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        contents: dict[str, Takedown] = {}
        concepts: dict[str, Takedown] = {}
        owners: list[Takedown] = []
        keys: list[bytes] = []
        for takedown in self.active:
            if takedown.kind == "concept":
                concepts.setdefault(takedown.target, takedown)
            for content in takedown.contents:
                contents.setdefault(content.sha256, takedown)
                owners.append(takedown)
                keys.append(base64.b64decode(content.fingerprint))
        known = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, LENGTH)
        object.__setattr__(self, "_contents", contents)
        object.__setattr__(self, "_concepts", concepts)
        object.__setattr__(self, "_owners", owners)
        object.__setattr__(self, "_known", known)

    _contents: Mapping[str, Takedown] = field(init=False, repr=False, compare=False)
    _concepts: Mapping[str, Takedown] = field(init=False, repr=False, compare=False)
    _owners: Sequence[Takedown] = field(init=False, repr=False, compare=False)
    _known: Fingerprints = field(init=False, repr=False, compare=False)

    def of_exemplar(self, sha256: str, concept_id: str) -> Takedown | None:
        """The takedown that names this content or concept."""
        return self._contents.get(sha256) or self._concepts.get(concept_id)

    def of_pictures(self, fingerprints: Sequence[bytes]) -> list[Takedown | None]:
        """For each picture the takedown of one so near that both are the same work."""
        others = np.frombuffer(b"".join(fingerprints), dtype=np.uint8).reshape(-1, LENGTH)
        nearest = near_duplicates(self._known, others)
        return [self._owners[place] if place >= 0 else None for place in nearest]

    def rows(self, catalog: Catalog, fingerprints: Fingerprints) -> Rows:
        """Rows of an index that these takedowns reach, ascending.

        Args:
            catalog: what the index holds.
            fingerprints: of its rows.
        """
        if not self.active:
            return np.empty(0, dtype=np.int64)
        named = catalog.rows_of(list(self._contents), list(self._concepts))
        near = np.flatnonzero(near_duplicates(self._known, fingerprints) >= 0)
        return np.union1d(np.asarray(named, dtype=np.int64), near)


@dataclass(frozen=True)
class TakedownLog:
    """The log file; several processes may use it at once."""

    path: Path

    def read(self) -> Takedowns:
        """What the log says now.

        Raises:
            TakedownError: it cannot be read, or a line in it is damaged.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return Takedowns()
        except OSError as error:
            raise TakedownError(
                f"the takedown log {self.path} cannot be read ({error.strerror}); until it can, "
                "nothing is served or rebuilt, since withdrawn works could come back"
            ) from error
        # The last piece is what follows the last newline: a record whose writing never ended, and
        # that nobody was told is in force.
        return _replay(self.path, lines[:-1])

    def add(self, kind: Kind, target: str, contents: Iterable[Content], *, reason: str) -> Takedown:
        """Record a takedown; it is on disk when this returns.

        Raises:
            TakedownError: the log is damaged or cannot be written; nothing was recorded.
        """
        [takedown] = self.add_all([(kind, target, contents)], reason=reason)
        return takedown

    def add_all(
        self, works: Iterable[tuple[Kind, str, Iterable[Content]]], *, reason: str
    ) -> list[Takedown]:
        """Record takedowns, all or none: of each its kind, target and contents.

        Raises:
            TakedownError: the log is damaged or cannot be written; nothing was recorded.
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

    def _append(self, make: Callable[[Takedowns], Sequence[Takedown | Lift]]) -> None:
        """Write what ``make`` makes of the log as it is, synced, or nothing at all."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.path.with_suffix(".lock"), timeout=10):
                # No buffer: what the disk refused must not be written when the file is closed.
                file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
                try:
                    written = self.path.read_bytes()
                    # An unfinished record goes, so that the next begins on its own line.
                    whole = written.rfind(b"\n") + 1
                    records = make(_replay(self.path, written.split(b"\n")[:-1]))
                    lines = b"".join(one.model_dump_json().encode() + b"\n" for one in records)
                    if whole != len(written):
                        os.ftruncate(file, whole)
                    try:
                        _write_synced(file, lines)
                    except OSError as error:
                        self._take_back(file, whole, error)
                        raise
                finally:
                    os.close(file)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except filelock.Timeout:
            raise TakedownError(
                f"another process holds the takedown log {self.path}; try again"
            ) from None
        except OSError as error:
            raise TakedownError(
                f"the takedown log {self.path} cannot be written ({error.strerror or error}); "
                "nothing was recorded: make room or give write access, then try again"
            ) from error

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


def withdraw(
    log: TakedownLog,
    catalog: Catalog,
    fingerprints: Fingerprints,
    kind: Literal["concept", "exemplar"],
    target: str,
    *,
    reason: str,
) -> Takedown:
    """Take down a concept or an exemplar of an index.

    Args:
        log: where to record it.
        catalog: of the index.
        fingerprints: of the index's rows.
        kind: what ``target`` names.
        target: its id.
        reason: why.

    Raises:
        NotFoundError: the index has none of that id.
        TakedownError: the log is damaged or cannot be written; nothing was recorded.
    """
    return log.add(kind, target, contents_of(catalog, fingerprints, kind, target), reason=reason)


def contents_of(
    catalog: Catalog,
    fingerprints: Fingerprints,
    kind: Literal["concept", "exemplar"],
    target: str,
) -> list[Content]:
    """What identifies the files of a concept or exemplar of an index.

    Raises:
        NotFoundError: the index has none of that id.
    """
    if kind == "concept":
        exemplars = catalog.exemplars_of(catalog.concept(target).id)
    else:
        exemplars = [catalog.exemplar(target)]
    return [
        Content(
            sha256=exemplar.sha256,
            fingerprint=base64.b64encode(fingerprints[exemplar.row].tobytes()).decode(),
        )
        for exemplar in exemplars
    ]


def content_of_file(path: Path) -> Content:
    """What identifies an image file that may be in no index.

    Raises:
        ImageError: it cannot be read or is no image.
        TakedownError: there is no such file.
    """
    try:
        image = decode_image(path.read_bytes())
    except OSError as error:
        raise TakedownError(f"--image {path} cannot be read: {error.strerror}") from error
    key = fingerprint(thumbnail_of(image.pixels))
    return Content(sha256=image.sha256, fingerprint=base64.b64encode(key).decode())


def _replay(path: Path, lines: Sequence[bytes]) -> Takedowns:
    active: dict[str, Takedown] = {}
    lifted: dict[str, tuple[Takedown, Lift]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = _RECORD.validate_json(line)
        except ValidationError as error:
            raise _damaged(path, number) from error
        if isinstance(record, Takedown):
            if record.id in active or record.id in lifted:  # a line that was copied
                raise _damaged(path, number)
            active[record.id] = record
        elif record.takedown in active:
            lifted[record.takedown] = (active.pop(record.takedown), record)
    return Takedowns(tuple(active.values()), lifted)


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
