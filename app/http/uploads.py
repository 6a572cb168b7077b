"""Reads uploads: bounds their bytes and time while they arrive, and takes the form's one field."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from email import message as email_message

from python_multipart.multipart import parse_options_header
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
MOST_PREAMBLE = 65_536  # bytes before the first boundary
SPARE = 16  # parts beyond those that are right, so that what is wrong can be said
EMPTY = "is empty: the file has 0 bytes"
LEAST_SHARE = 4  # uploads that one caller may always have arriving


class _Share:
    """An amount that all callers share, and of which one may have a part.

    Args:
        most: of all callers together.
        most_each: of one caller. Loopback addresses may be proxies of many, and have no such limit.
        unit: for messages.
    """

    def __init__(self, most: int, most_each: int, unit: str) -> None:
        self.taken = 0
        self._most, self._most_each, self._unit = most, most_each, unit
        self._by_caller: Counter[str | None] = Counter()

    @contextmanager
    def hold(self, caller: str | None, amount: int) -> Iterator[None]:
        """Take an amount for the block.

        Raises:
            QueueFullError: it is not there, or over the caller's part.
        """
        why = ""
        if self.taken + amount > self._most:
            why = f"of {self._most:,} {self._unit} {self.taken:,} are taken"
        elif caller and self._by_caller[caller] + amount > self._most_each:
            why = f"one caller may take {self._most_each:,} {self._unit} at the same time"
        if why:
            raise QueueFullError(f"{why}; try again in 1 second", retry_after=1)
        self._add(caller, amount)
        try:
            yield
        finally:
            self._add(caller, -amount)

    def _add(self, caller: str | None, amount: int) -> None:
        self.taken += amount
        self._by_caller[caller] += amount
        if not self._by_caller[caller]:
            del self._by_caller[caller]  # callers come and go


class UploadRoom:
    """Bounds the bodies that arrive at the same time, and the bytes of all that are held.

    A caller may have a quarter of each, so that nobody keeps out all others by sending slowly.

    Args:
        memory: bytes of all bodies, from when their reading begins to the end of their requests.
        largest: bytes of the largest body, which one caller may send in any case.
        uploads: bodies that may arrive at the same time.
    """

    def __init__(self, memory: int, largest: int, uploads: int) -> None:
        self.bytes = _Share(memory, max(memory // 4, largest), "bytes of uploads")
        self.arriving = _Share(uploads, max(LEAST_SHARE, uploads // 4), "arriving uploads")


class BodyLimit:
    """Middleware that stops reading a body that is too large or too slow, or has no room.

    A body has as many bytes as are announced, and if none are, as many as it may have.

    Args:
        app: reads the bodies.
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
        size = _announced(Headers(scope=scope), max_bytes)
        deadline = asyncio.get_running_loop().time() + self.seconds
        received, begun, whole = 0, size == 0, False

        async def receive_within_limits() -> Message:
            nonlocal received, begun, whole
            if whole:  # somebody waits for the client to leave
                return await receive()
            if size > max_bytes:
                raise _too_large(max_bytes)
            if not begun:
                begun, caller = True, caller_of(scope)
                arriving.enter_context(self.room.arriving.hold(caller, 1))
                held.enter_context(self.room.bytes.hold(caller, size))
            message = await self._before(deadline, receive)
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise _too_large(max_bytes)
            whole = not message.get("more_body", False)
            if whole:
                arriving.close()
            return message

        with ExitStack() as held, ExitStack() as arriving:
            await self.app(scope, receive_within_limits, send)

    async def _before(self, deadline: float, receive: Receive) -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                return await receive()
        except TimeoutError:
            raise BodyTooSlowError(
                f"the body was not here after {self.seconds:g} seconds: send a smaller "
                "image, or over a faster connection"
            ) from None


def _too_large(most: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body is larger than {most:,} bytes, the most that is accepted: send less"
    )


class _InMemoryParser(MultiPartParser):
    """Keeps files in memory, whatever their size: `BodyLimit` bounds them all together."""

    spool_max_size = 0  # how `tempfile.SpooledTemporaryFile` says "never on disk"
    complete = False
    _value = b""  # of the header that is being read

    def on_part_begin(self) -> None:
        """Begin a part, of which no header has been read."""
        self._value = b""
        super().on_part_begin()

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        """Collect a header's value, which may come in pieces."""
        self._value += data[start:end]

    def on_header_end(self) -> None:
        """Give a part that has ``filename*`` alone (RFC 5987) the plain name that makes it a file.

        The name is not used.
        """
        value, self._value = self._value, b""
        if _has_coded_name(value):
            value += b"; filename=image"
        super().on_header_value(value, 0, len(value))
        super().on_header_end()

    def on_end(self) -> None:
        """Note that the closing boundary was there."""
        self.complete = True


def _has_coded_name(value: bytes) -> bool:
    """Tell whether a header names a file in the coded forms alone (RFC 2231 and 5987)."""
    if b"*" not in value or b"filename" in parse_options_header(value)[1]:
        return False
    message = email_message.Message()
    message["content-disposition"] = value.decode("latin-1")
    return message.get_param("filename", header="content-disposition") is not None


async def read_image_field(request: Request) -> bytes:
    """Read the file in the form's one field, or the body itself where it is of a type ``image/*``.

    Raises:
        NotAFormError: the body is of another type.
        MalformedFormError: the body is broken.
        InvalidRequestError: the field is missing, empty, repeated, or there are others.
        BodyTooLargeError: the body exceeds the limit.
    """
    if _content_type(request).startswith("image/"):
        try:
            data = await request.body()
        except ClientDisconnect as error:
            raise _cut_short() from error
    else:
        [data] = await read_image_fields(request, most=1)
    if not data:
        raise _invalid(FIELD, EMPTY)
    return data


async def read_image_fields(request: Request, *, most: int) -> list[bytes]:
    """Read the files of the form's one field, repeated for each; some may be empty.

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


def _announced(headers: Headers, most: int) -> int:
    """Return the bytes that a body is said to have, ``most`` where it comes in chunks."""
    length = headers.get("content-length", "")
    if length.isdecimal():
        return int(length[:20])
    return most if "transfer-encoding" in headers else 0


async def _read_form(request: Request, most: int) -> FormData:
    content_type = _content_type(request)
    if not content_type:
        return FormData()
    if content_type != FORM:
        raise NotAFormError(
            f"the body is {content_type[:100]}; send {FORM} with the image in the field {FIELD!r}"
        )
    options = parse_options_header(request.headers["content-type"])[1]
    stream = _without_preamble(request.stream(), options.get(b"boundary", b""))
    parser = _InMemoryParser(request.headers, stream, max_files=most + SPARE, max_fields=SPARE)
    try:
        form = await parser.parse()
    except ClientDisconnect as error:
        raise _cut_short() from error
    except MultiPartException as error:
        raise MalformedFormError(f"the multipart body cannot be read: {error.message}") from error
    if not parser.complete:
        raise MalformedFormError("the multipart body cannot be read: it ends before its boundary")
    return form


async def _without_preamble(
    stream: AsyncIterator[bytes], boundary: bytes
) -> AsyncGenerator[bytes, None]:
    """Leave out what stands before the first boundary, which means nothing (RFC 2046, 5.1.1)."""
    mark = b"--" + boundary
    begin: bytes | None = b""
    async for chunk in stream:
        if begin is None:
            yield chunk
            continue
        begin += chunk
        place = 0 if begin.startswith(mark) else begin.find(b"\r\n" + mark) + 2
        if place != 1:
            yield begin[place:]
            begin = None
        elif len(begin) > MOST_PREAMBLE:
            yield begin  # and the parser says what is wrong
            begin = None
    if begin:
        yield begin


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _cut_short() -> MalformedFormError:
    return MalformedFormError("the connection closed before the whole body was here")


def _invalid(name: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError(Fault(place="body", name=name[:100], detail=detail))
