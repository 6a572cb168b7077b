"""How an image comes in: counted and timed while it arrives, one form field, never on disk."""

import asyncio
from collections.abc import Mapping

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    Fault,
    InvalidRequestError,
    MalformedFormError,
    NotAFormError,
)

FIELD = "image"
FORM = "multipart/form-data"
SPARE = 16  # parts beyond those that are right, so that what is wrong can be said
EMPTY = "is empty: the file has 0 bytes"


class BodyLimit:
    """Middleware that stops reading a body that is too large, announced or not, or too slow.

    Args:
        app: what it guards.
        max_bytes: of a body.
        exceptions: other limits of single paths.
        seconds: from the end of the headers to the end of the body.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, exceptions: Mapping[str, int], seconds: float
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.exceptions = exceptions
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; reading it raises `BodyTooLargeError` or `BodyTooSlowError`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes = self.exceptions.get(scope["path"], self.max_bytes)
        announced = Headers(scope=scope).get("content-length", "")
        too_large = announced.isdecimal() and int(announced[:20]) > max_bytes
        deadline = asyncio.get_running_loop().time() + self.seconds
        received = 0
        whole = False

        async def receive_within_limits() -> Message:
            nonlocal received, whole
            if whole:  # what is waited for now is that the client leaves
                return await receive()
            if not too_large:
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
            if too_large or received > max_bytes:
                raise BodyTooLargeError(
                    f"the body is larger than {max_bytes:,} bytes, the most that is "
                    "accepted: send less"
                )
            return message

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


async def drain(request: Request) -> None:
    """Read a body away, so that a client that still sends it gets to see the answer."""
    async for _ in request.stream():
        pass


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
