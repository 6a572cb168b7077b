"""Uploads: limits the size, time and memory of request bodies, and reads images from forms."""

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
MAX_PREAMBLE = 65_536  # bytes before the first boundary
EXTRA_PARTS = 16  # parsed beyond the allowed ones, so that a message can name the wrong part
EMPTY = "is empty: the file has 0 bytes"
MIN_SHARE = 4  # uploads that one caller may always have arriving


class _SharedLimit:
    """Limits an amount for all callers together, and for each caller.

    Args:
        limit: of all callers together.
        caller_limit: of one caller; this machine has none, since a proxy here stands for many.
        unit: for messages.
    """

    def __init__(self, limit: int, caller_limit: int, unit: str) -> None:
        self.taken = 0
        self._limit, self._caller_limit, self._unit = limit, caller_limit, unit
        self._by_caller: Counter[str | None] = Counter()

    @contextmanager
    def hold(self, caller: str | None, amount: int) -> Iterator[None]:
        """Take an amount for the block.

        Raises:
            QueueFullError: a limit would be exceeded.
        """
        reason = ""
        if self.taken + amount > self._limit:
            reason = f"of {self._limit:,} {self._unit} {self.taken:,} are taken"
        elif caller and self._by_caller[caller] + amount > self._caller_limit:
            reason = f"one caller may take {self._caller_limit:,} {self._unit} at the same time"
        if reason:
            raise QueueFullError(f"{reason}; try again in 1 second", retry_after=1)
        self._add(caller, amount)
        try:
            yield
        finally:
            self._add(caller, -amount)

    def _add(self, caller: str | None, amount: int) -> None:
        self.taken += amount
        self._by_caller[caller] += amount
        if not self._by_caller[caller]:
            del self._by_caller[caller]  # the number of callers is not bounded


class UploadCapacity:
    """Limits the bodies that arrive at the same time, and the memory of all bodies.

    One caller may use a quarter of each, so that a slow sender cannot exclude all others.

    Args:
        memory: bytes of all bodies, from the first read to the end of the request.
        largest: bytes of the largest body; one caller may always send one.
        uploads: bodies that may arrive at the same time.
    """

    def __init__(self, memory: int, largest: int, uploads: int) -> None:
        self.bytes = _SharedLimit(memory, max(memory // 4, largest), "bytes of uploads")
        self.arriving = _SharedLimit(uploads, max(MIN_SHARE, uploads // 4), "arriving uploads")


class BodyLimit:
    """Middleware that refuses bodies that are too large or too slow, or exceed the capacity.

    A body reserves the memory of its Content-Length, or, if sent in chunks, of the largest body.

    Args:
        app: the application; it reads the bodies.
        capacity: of all bodies together.
        max_bytes: of a body.
        exceptions: other limits, by path.
        seconds: from the end of the headers to the end of the body.
    """

    def __init__(
        self,
        app: ASGIApp,
        capacity: UploadCapacity,
        max_bytes: int,
        exceptions: Mapping[str, int],
        seconds: float,
    ) -> None:
        self.app = app
        self.capacity = capacity
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
            if whole:  # the caller waits for a disconnect
                return await receive()
            if size > max_bytes:
                raise _too_large(max_bytes)
            if not begun:
                begun, caller = True, caller_of(scope)
                arriving.enter_context(self.capacity.arriving.hold(caller, 1))
                memory.enter_context(self.capacity.bytes.hold(caller, size))
            message = await self._receive_before(deadline, receive)
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise _too_large(max_bytes)
            whole = not message.get("more_body", False)
            if whole:
                arriving.close()
            return message

        with ExitStack() as memory, ExitStack() as arriving:
            await self.app(scope, receive_within_limits, send)

    async def _receive_before(self, deadline: float, receive: Receive) -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                return await receive()
        except TimeoutError:
            raise BodyTooSlowError(
                f"the body did not arrive within {self.seconds:g} seconds: send a smaller image, "
                "or use a faster connection"
            ) from None


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body is larger than {limit:,} bytes, the limit: send less")


class _InMemoryParser(MultiPartParser):
    """Keeps files of any size in memory; `BodyLimit` limits their total."""

    spool_max_size = 0  # `tempfile.SpooledTemporaryFile` then never writes to disk
    complete = False
    _value = b""  # of the current header

    def on_part_begin(self) -> None:
        """Begin a part with no header value."""
        self._value = b""
        super().on_part_begin()

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        """Collect a header's value, which may arrive in pieces."""
        self._value += data[start:end]

    def on_header_end(self) -> None:
        """Add a plain ``filename`` to a part with only a coded one (RFC 2231, RFC 5987).

        The parser takes only parts with a plain name for files. The name itself is not used.
        """
        value, self._value = self._value, b""
        if _has_only_coded_name(value):
            value += b"; filename=image"
        super().on_header_value(value, 0, len(value))
        super().on_header_end()

    def on_end(self) -> None:
        """Note the closing boundary."""
        self.complete = True


def _has_only_coded_name(value: bytes) -> bool:
    """Return True if a header names a file only in a coded form (RFC 2231, RFC 5987)."""
    if b"*" not in value or b"filename" in parse_options_header(value)[1]:
        return False
    message = email_message.Message()
    message["content-disposition"] = value.decode("latin-1")
    return message.get_param("filename", header="content-disposition") is not None


async def read_image_field(request: Request) -> bytes:
    """Read the file in the form's one field, or the whole body if its type is ``image/*``.

    Raises:
        NotAFormError: the body is of another type.
        MalformedFormError: the body is broken.
        InvalidRequestError: the field is missing, empty or repeated, or there are other fields.
        BodyTooLargeError: the body exceeds the limit.
    """
    if _content_type(request).startswith("image/"):
        try:
            data = await request.body()
        except ClientDisconnect as error:
            raise _cut_short() from error
    else:
        [data] = await read_image_fields(request, limit=1)
    if not data:
        raise _invalid(FIELD, EMPTY)
    return data


async def read_image_fields(request: Request, *, limit: int) -> list[bytes]:
    """Read the files in the form's one, repeated field; some may be empty.

    Raises:
        NotAFormError: the body is of another type.
        MalformedFormError: the body is broken.
        InvalidRequestError: there is no such field, more than ``limit``, or another field.
        BodyTooLargeError: the body exceeds the limit.
    """
    form = await _read_form(request, limit)
    others = [name for name in form if name != FIELD]
    if others:
        raise _invalid(
            others[0], f"is not known: the form has one field, {FIELD!r}; parameters go in the URL"
        )
    values = form.getlist(FIELD)
    if not values:
        raise _invalid(FIELD, f"is missing: send the image as a file of this name, in {FORM}")
    if len(values) > limit:
        allowed = "one image" if limit == 1 else f"at most {limit} images"
        raise _invalid(FIELD, f"was sent {len(values)} times: send {allowed} a request")
    files = [value for value in values if isinstance(value, UploadFile)]
    if len(files) < len(values):
        raise _invalid(FIELD, "is text: send the image as a file, with a filename")
    return [await file.read() for file in files]


def _announced(headers: Headers, max_bytes: int) -> int:
    """Return a body's Content-Length, or ``max_bytes`` if it is sent in chunks."""
    length = headers.get("content-length", "")
    if length.isdecimal():
        return int(length[:20])
    return max_bytes if "transfer-encoding" in headers else 0


async def _read_form(request: Request, limit: int) -> FormData:
    content_type = _content_type(request)
    if not content_type:
        return FormData()
    if content_type != FORM:
        raise NotAFormError(
            f"the body is {content_type[:100]}; send {FORM} with the image in the field {FIELD!r}"
        )
    options = parse_options_header(request.headers["content-type"])[1]
    stream = _without_preamble(request.stream(), options.get(b"boundary", b""))
    parser = _InMemoryParser(
        request.headers, stream, max_files=limit + EXTRA_PARTS, max_fields=EXTRA_PARTS
    )
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
    """Skip the preamble before the first boundary, as RFC 2046, 5.1.1 requires."""
    delimiter = b"--" + boundary
    begin: bytes | None = b""  # until the delimiter
    async for chunk in stream:
        if begin is None:
            yield chunk
            continue
        begin += chunk
        place = 0 if begin.startswith(delimiter) else begin.find(b"\r\n" + delimiter) + 2
        if place != 1:
            yield begin[place:]
            begin = None
        elif len(begin) > MAX_PREAMBLE:
            yield begin  # the parser reports the error
            begin = None
    if begin:
        yield begin


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _cut_short() -> MalformedFormError:
    return MalformedFormError("the connection closed before the end of the body")


def _invalid(name: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError(Fault(place="body", name=name[:100], detail=detail))
