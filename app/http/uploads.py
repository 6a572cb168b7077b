"""How an image comes in: counted and timed while it arrives, one form field, never on disk."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth.security import caller_of
from app.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    InvalidRequestError,
    MalformedFormError,
    NotAFormError,
    QueueFullError,
)
from app.http.paths import route_path
from whence_client.models import Fault

FIELD = "image"
FORM = "multipart/form-data"
SPARE = 16  # parts beyond those that are right, so that what is wrong can be said
EMPTY = "is empty: the file has 0 bytes"
LEAST_SHARE = 4  # uploads that one caller may always have arriving


@dataclass
class UploadRoom:
    """What the bodies of all requests may take together, and those of one caller.

    A body has its bytes from when its reading begins, as many as are announced, to the end of its
    request. A quarter of everything is the most for one caller, so that one cannot keep out all
    others by sending slowly. Loopback addresses may be proxies, and so have no such share.

    Args:
        memory: bytes of all bodies.
        largest: bytes of one body, which fits into a share in any case.
        uploads: bodies that may arrive at the same time.
    """

    memory: int
    largest: int
    uploads: int
    held: int = 0
    arriving: int = 0
    _of: Counter[str] = field(default_factory=Counter)  # bytes by caller
    _arriving: Counter[str] = field(default_factory=Counter)  # bodies by caller

    @contextmanager
    def body(self) -> Iterator["_Body"]:
        """Room for one request's body, given back at the end of the block."""
        body = _Body(self)
        try:
            yield body
        finally:
            body.arrived()
            self._take(body.caller, -body.size)

    def _take(self, caller: str | None, size: int) -> None:
        self.held += size
        if caller:
            _add(self._of, caller, size)


@dataclass
class _Body:
    room: UploadRoom
    caller: str | None = None
    size: int = 0
    arriving: bool = False

    def begin(self, caller: str | None, announced: int) -> None:
        """Take room for what is announced.

        Raises:
            QueueFullError: there is not enough, or the caller has had his share.
        """
        self.caller = caller
        if self.room.arriving >= self.room.uploads:
            raise _full(f"{self.room.arriving} uploads are arriving, the most at once")
        if caller:
            most = max(LEAST_SHARE, self.room.uploads // 4)
            if self.room._arriving[caller] >= most:
                raise _full(f"{most} of your uploads are arriving, the most for one caller")
            _add(self.room._arriving, caller, 1)
        self.arriving = True
        self.room.arriving += 1
        self.grow(announced)

    def grow(self, size: int) -> None:
        """Take room up to ``size`` bytes.

        Raises:
            QueueFullError: there is not enough.
        """
        more = size - self.size
        if more <= 0:
            return
        room = self.room
        if room.held + more > room.memory:
            raise _full(f"uploads take {room.held:,} bytes and may take {room.memory:,}")
        share = max(room.memory // 4, room.largest)
        if self.caller and room._of[self.caller] + more > share:
            raise _full(f"your uploads may take {share:,} bytes at the same time")
        room._take(self.caller, more)
        self.size = size

    def arrived(self) -> None:
        """Note that nothing more comes."""
        if not self.arriving:
            return
        self.arriving = False
        self.room.arriving -= 1
        if self.caller:
            _add(self.room._arriving, self.caller, -1)


def _add(counter: Counter[str], caller: str, count: int) -> None:
    counter[caller] += count
    if not counter[caller]:
        del counter[caller]  # callers come and go


def _full(why: str) -> QueueFullError:
    return QueueFullError(f"{why}; try again in 1 second", retry_after=1)


class BodyLimit:
    """Middleware that stops reading a body that is too large, announced or not, or too slow.

    Nor is one read for which there is no room.

    Args:
        app: what it guards.
        room: for all bodies.
        max_bytes: of a body.
        exceptions: other limits of single paths.
        seconds: from the end of the headers to the end of the body.
    """

    def __init__(
        self,
        app: ASGIApp,
        room: UploadRoom,
        max_bytes: int,
        exceptions: Mapping[str, int],
        seconds: float,
    ) -> None:
        self.app = app
        self.room = room
        self.max_bytes = max_bytes
        self.exceptions = exceptions
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on.

        Reading it raises `BodyTooLargeError`, `BodyTooSlowError` or `QueueFullError`.
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes = self.exceptions.get(route_path(scope), self.max_bytes)
        headers = Headers(scope=scope)
        announced = _announced(headers)
        too_large = announced > max_bytes
        empty = not announced and "transfer-encoding" not in headers
        deadline = asyncio.get_running_loop().time() + self.seconds
        received = 0
        whole = False

        async def receive_within_limits() -> Message:
            nonlocal received, whole
            if whole:  # what is waited for now is that the client leaves
                return await receive()
            if not too_large:
                if not (body.arriving or empty):
                    body.begin(caller_of(scope), announced)
                try:
                    async with asyncio.timeout_at(deadline):
                        message = await receive()
                except TimeoutError:
                    raise BodyTooSlowError(
                        f"the body was not here after {self.seconds:g} seconds: send a smaller "
                        "image, or over a faster connection"
                    ) from None
                received += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if received <= max_bytes:
                    body.grow(received)
                if whole:
                    body.arrived()
            if too_large or received > max_bytes:
                raise BodyTooLargeError(
                    f"the body is larger than {max_bytes:,} bytes, the most that is "
                    "accepted: send less"
                )
            return message

        with self.room.body() as body:
            await self.app(scope, receive_within_limits, send)


class _InMemoryParser(MultiPartParser):
    """Keeps files in memory, whatever their size: `BodyLimit` bounds them all together."""

    spool_max_size = 0  # how `tempfile.SpooledTemporaryFile` says "never on disk"
    complete = False

    def on_end(self) -> None:
        """Note that the closing boundary was there."""
        self.complete = True


async def read_image_field(request: Request) -> bytes:
    """The file in the form's one field.

    Raises:
        NotAFormError: the body is of another type.
        MalformedFormError: the body is broken.
        InvalidRequestError: the field is missing, empty, repeated, or there are others.
        BodyTooLargeError: the body exceeds the limit.
    """
    [data] = await read_image_fields(request, most=1)
    if not data:
        raise _invalid(FIELD, EMPTY)
    return data


async def read_image_fields(request: Request, *, most: int) -> list[bytes]:
    """The files of the form's one field, which is repeated for each; some may be empty.

    Raises:
        NotAFormError: the body is of another type.
        MalformedFormError: the body is broken.
        InvalidRequestError: the field is missing, there are more than ``most``, or others.
        BodyTooLargeError: the body exceeds the limit.
    """
    form = await _read_form(request, most)
    others = [name for name in form if name != FIELD]
    if others:
        raise _invalid(
            others[0], f"is not known: the form has one field, {FIELD!r}; parameters go in the URL"
        )
    values = form.getlist(FIELD)
    if not values:
        raise _invalid(FIELD, f"is missing: send the image as a file of this name, in {FORM}")
    if len(values) > most:
        allowed = "one image" if most == 1 else f"at most {most} images"
        raise _invalid(FIELD, f"was sent {len(values)} times: send {allowed} a request")
    files = [value for value in values if isinstance(value, UploadFile)]
    if len(files) < len(values):
        raise _invalid(FIELD, "is text: send the image as a file, with a filename")
    return [await file.read() for file in files]


def _announced(headers: Headers) -> int:
    """Bytes that a body is said to have; 0 if nothing is said."""
    length = headers.get("content-length", "")
    return int(length[:20]) if length.isdecimal() else 0


async def _read_form(request: Request, most: int) -> FormData:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not content_type:
        return FormData()
    if content_type != FORM:
        raise NotAFormError(
            f"the body is {content_type[:100]}; send {FORM} with the image in the field {FIELD!r}"
        )
    parser = _InMemoryParser(
        request.headers, request.stream(), max_files=most + SPARE, max_fields=SPARE
    )
    try:
        form = await parser.parse()
    except ClientDisconnect as error:
        raise MalformedFormError("the connection closed before the whole body was here") from error
    except MultiPartException as error:
        raise MalformedFormError(f"the multipart body cannot be read: {error.message}") from error
    if not parser.complete:
        raise MalformedFormError("the multipart body cannot be read: it ends before its boundary")
    return form


def _invalid(name: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError(Fault(place="body", name=name[:100], detail=detail))
