"""An encoded picture that lies somewhere, and its decoding.

Rebuild, training, pre-training and evaluation read pictures through `Picture` alone, so that each
of them takes every kind of place.
"""

import hashlib
import io
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, Protocol

from model.errors import ImageTooLargeError, SourceError, UnreadableImageError
from model.images import DEFAULT_LIMITS, DecodedImage, ImageLimits, decode_image
from model.regular_files import shown

MAX_BYTES_PER_PIXEL = 4  # of the pixel limit; larger pictures are refused unread
# A file changed less than this before it is read could change again with the same times: they can
# be as coarse as two seconds, and a file server's clock may be behind this machine's.
SETTLED = 60.0  # seconds
BUFFER = 8192  # bytes read at once at least, of a file that is opened


@dataclass(frozen=True, slots=True)
class Stamp:
    """Identifies the content of a picture without reading it.

    Attributes:
        text: equal as long as the content is; empty if its place tells nothing of the kind.
        changed: time of the last change, in seconds since the epoch.
        sha256: of the content, hexadecimal, if it is known already.
    """

    text: str
    changed: float = 0.0
    sha256: str = ""

    @property
    def settled(self) -> bool:
        """Return True if a later change of the content changes ``text`` for certain."""
        return bool(self.text) and time.time() - self.changed > SETTLED


class Refusal(NamedTuple):
    """A picture that was refused.

    Attributes:
        reason: why.
        lasting: its content alone is to blame, so that it will be refused again.
    """

    reason: str
    lasting: bool


class Picture(Protocol):
    """An encoded picture that lies somewhere, or a file that holds pictures."""

    def __hash__(self) -> int:
        """Return a hash of its place: pictures are values."""

    @property
    def address(self) -> str:
        """Return the text that the catalog keeps: `model.sources.places.picture_at` reads it."""

    @property
    def name(self) -> str:
        """Return its own file name, without the folders above or the shard around it."""

    @property
    def size(self) -> int:
        """Return the number of its bytes; raise OSError if it cannot be read."""

    @property
    def stamp(self) -> Stamp:
        """Return the stamp of its content; raise OSError if it cannot be read."""

    @property
    def identity(self) -> Hashable:
        """Return a value that is equal for one file under several names; raise OSError as above."""

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """Return its bytes from a position on, all or at most ``size``.

        Raises:
            OSError: it cannot be read.
        """


@contextmanager
def unchanged(shard: Picture, version: str) -> Iterator[None]:
    """Read from a shard, which must be the one that was listed.

    Without it, many pictures would silently be left out; and in another shard, other pictures lie
    at the places that the labels were read for.

    Args:
        shard: the shard.
        version: text of its stamp when it was listed.

    Raises:
        SourceError: there is no such file any more, or it has changed.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise _gone(shard) from error
    require_version(shard, version)


def require_version(shard: Picture, version: str) -> Stamp:
    """Return a shard's stamp, whose text must still be ``version``.

    Raises:
        SourceError: as `unchanged`.
        OSError: its stamp cannot be read.
    """
    try:
        stamp = shard.stamp
    except FileNotFoundError as error:
        raise _gone(shard) from error
    if stamp.text != version:
        raise changed_error(shown(shard.address))
    return stamp


def _gone(shard: Picture) -> SourceError:
    return SourceError(
        f"{shown(shard.address)} is not there any more; run the command again once it is"
    )


def changed_error(address: str) -> SourceError:
    """Return the error for a file that changed after it was listed."""
    return SourceError(
        f"{address} changed after it was listed; nothing was published: run the command again once "
        "it is whole"
    )


def opened(file: Picture) -> BinaryIO:
    """Returns a picture, or a shard of pictures, as a binary file of Python."""
    return io.BufferedReader(_Raw(file), buffer_size=BUFFER)


def max_bytes(limits: ImageLimits) -> int:
    """Return the largest number of bytes of an encoded picture."""
    return MAX_BYTES_PER_PIXEL * limits.max_pixels


def read_picture(picture: Picture, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """Return the bytes of a picture, which are not read if there are too many.

    Raises:
        ImageTooLargeError: more than `max_bytes`.
        OSError: the picture cannot be read.
    """
    size, most = picture.size, max_bytes(limits)
    if size > most:
        raise ImageTooLargeError(f"it has {size:,} bytes, over {most:,}")
    return picture.read()


def decode_picture(
    picture: Picture, limits: ImageLimits = DEFAULT_LIMITS, *, min_decode_side: int | None = None
) -> DecodedImage:
    """Read and decode a picture; see `model.images.decode_image`.

    Raises:
        ImageError: as in `decode_image`, or the picture has too many bytes or cannot be read.
        SourceError: a remote place failed.
        DecodersUnavailableError: as in `decode_image`.
    """
    try:
        data = read_picture(picture, limits)
    except OSError as error:
        raise UnreadableImageError(
            f"the file could not be read: {error.strerror or error}"
        ) from error
    return decode_image(data, limits, min_decode_side=min_decode_side)


def hash_picture(picture: Picture, limits: ImageLimits = DEFAULT_LIMITS) -> str:
    """Return the SHA-256 of a picture's bytes, hexadecimal.

    Raises:
        ImageTooLargeError, OSError: as `read_picture`.
    """
    return picture.stamp.sha256 or hashlib.sha256(read_picture(picture, limits)).hexdigest()


class _Raw(io.RawIOBase):
    """Reads a picture by position."""

    def __init__(self, file: Picture) -> None:
        self._file = file
        self._size = file.size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}
        self._place = origin[whence] + offset
        return self._place

    def readall(self) -> bytes:
        data = self._file.read(None, self._place)
        self._place += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        data = self._file.read(len(buffer), self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
