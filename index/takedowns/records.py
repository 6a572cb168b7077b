"""The records of the takedown log, one JSON object a line.

{"action": "add", "id": ..., "at": ..., "reason": ..., "kind": ..., "target": ..., "name": ...,
"contents": [{"sha256": ..., "fingerprint": ...}, ...]}
{"action": "lift", "takedown": <id of an add>, "at": ..., "reason": ...}
{"action": "accept", "extents": [...], "at": ..., "reason": ...}
"""

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    AwareDatetime,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from index.errors import TakedownError
from index.takedowns.fingerprints import LENGTH, fingerprint
from index.thumbnails import thumbnail_of
from model.config import Frozen
from model.images import DEFAULT_LIMITS, ImageLimits, decode_image
from model.regular_files import read_file

Kind = Literal["concept", "exemplar", "image"]


def _check_length(text: str) -> str:
    if len(base64.b64decode(text, validate=True)) != LENGTH:
        raise ValueError("not a fingerprint")
    return text


def _check_reason(text: str, info: ValidationInfo) -> str:
    if info.mode == "json":  # read from the log
        return text
    if not text.strip():
        raise TakedownError("a takedown, its lift and an accept need a reason that is not blank")
    return text.strip()


Reason = Annotated[str, AfterValidator(_check_reason)]


class Content(Frozen):
    """One file that was taken down."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    fingerprint: Annotated[str, AfterValidator(_check_length)]  # base64

    @classmethod
    def of(cls, sha256: str, fingerprint: bytes) -> Self:
        """Return the content of a file with this fingerprint."""
        return cls(sha256=sha256, fingerprint=base64.b64encode(fingerprint).decode())


class Takedown(Frozen):
    """A takedown of a concept, an exemplar or an image."""

    action: Literal["add"] = "add"
    id: str
    at: AwareDatetime
    reason: Reason
    kind: Kind
    target: str  # id of the concept or exemplar, or the image file's name
    name: str | None = None  # of the concept; None in records of earlier versions
    contents: tuple[Content, ...]


class Lift(Frozen):
    """The end of a takedown."""

    action: Literal["lift"] = "lift"
    takedown: str
    at: AwareDatetime
    reason: Reason


class Extent(Frozen):
    """Number of a log's records, and their digest."""

    records: int = Field(0, ge=0)
    sha256: str = hashlib.sha256().hexdigest()  # of these records, each with a newline


class Accept(Frozen):
    """An operator's decision to use the log though it does not begin with these extents."""

    action: Literal["accept"] = "accept"
    extents: tuple[Extent, ...]
    at: AwareDatetime
    reason: Reason


AnyRecord: TypeAlias = Takedown | Lift | Accept
RECORD: TypeAdapter[AnyRecord] = TypeAdapter(Annotated[AnyRecord, Field(discriminator="action")])


def content_of_file(path: Path, limits: ImageLimits = DEFAULT_LIMITS) -> Content:
    """Return the hash and fingerprint of an image file, which need not be in an index.

    Raises:
        ImageError: it cannot be read or is no image.
        TakedownError: there is no such file.
    """
    try:
        image = decode_image(read_file(path), limits)
    except OSError as error:
        raise TakedownError(f"--image {path} cannot be read: {error.strerror}") from error
    return Content.of(image.sha256, fingerprint(thumbnail_of(image.pixels)))


def split_records(written: bytes) -> tuple[list[bytes], int]:
    """Return the log's complete lines and the offset of their end.

    A last record that lacks only its newline is complete; any other remainder is left out.
    """
    *lines, last = written.split(b"\n")
    try:
        RECORD.validate_json(last)
    except ValidationError:
        return lines, len(written) - len(last)
    return [*lines, last], len(written)


def extents_of(lines: Iterable[bytes]) -> list[Extent]:
    """Return the extents after the first 0, 1, 2, ... records."""
    digest = hashlib.sha256()
    extents = [Extent()]
    for number, line in enumerate(lines, start=1):
        digest.update(line + b"\n")
        extents.append(Extent(records=number, sha256=digest.hexdigest()))
    return extents
