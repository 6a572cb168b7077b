"""Reads images from request bodies: a form's field, or the body itself."""

import re
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from email import message as email_message
from email.utils import collapse_rfc2231_value
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from app.errors import InvalidRequestError, MalformedFormError, NotAFormError
from whence_client.models import Fault

FIELD = "image"
FORM = "multipart/form-data"
MAX_PREAMBLE = 65_536  # bytes before the first boundary
EXTRA_PARTS = 16  # parsed beyond the allowed ones, so that a message can name the wrong part
MAX_NAME = 200  # characters of a file's name that are kept
UNNAMED = "blob"  # the name that browsers give to a file without one
EMPTY = "is empty: the file has 0 bytes"


class _InMemoryParser(MultiPartParser):
    """Keeps files of any size in memory; `app.http.body_limit` limits their total."""

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

        The parser takes only parts with a plain name for files.
        """
        value, self._value = self._value, b""
        if name := _coded_name(value):
            quoted = name.replace("\\", "\\\\").replace('"', '\\"')
            value += f'; filename="{quoted}"'.encode()
        super().on_header_value(value, 0, len(value))
        super().on_header_end()

    def on_end(self) -> None:
        """Note the closing boundary."""
        self.complete = True


def _coded_name(value: bytes) -> str | None:
    """Return the name of a file that a header gives only in a coded form (RFC 2231, RFC 5987)."""
    if b"*" not in value or b"filename" in parse_options_header(value)[1]:
        return None
    message = email_message.Message()
    message["content-disposition"] = value.decode("latin-1")
    coded = message.get_param("filename", header="content-disposition")
    if coded is None:
        return None
    return file_name(collapse_rfc2231_value(coded)) or UNNAMED


class NamedImage(NamedTuple):
    """An uploaded image."""

    data: bytes
    name: str | None  # of the file, as the sender gave it, without its folder


async def read_named_image(request: Request) -> NamedImage:
    """Read the file in the form's one field, or the whole body if its type is ``image/*``.

    Raises:
        NotAFormError: the body is of another type.
        MalformedFormError: the body is broken.
        InvalidRequestError: the field is missing, empty or repeated, or there are other fields.
        BodyTooLargeError: the body exceeds the limit.
    """
    if _content_type(request).startswith("image/"):
        try:
            image = NamedImage(await request.body(), None)
        except ClientDisconnect as error:
            raise _cut_short() from error
    else:
        [image] = await _read_named_images(request, limit=1)
    if not image.data:
        raise _invalid(FIELD, EMPTY)
    return image


async def read_image_fields(request: Request, *, limit: int) -> list[bytes]:
    """Read the bytes of the files in the form's one, repeated field; some may be empty.

    Raises: see `read_image_groups`.
    """
    return [image.data for image in await _read_named_images(request, limit=limit)]


def file_name(text: str | None) -> str | None:
    """Return a file's name as it may be shown: without folders and control characters.

    It is None for a file without a name: a form's part must have one, which is then `UNNAMED`.
    """
    name = re.split(r"[/\\]", text or "")[-1]
    # Category C: control characters, and such as change the direction of text.
    shown = "".join(one for one in name if unicodedata.category(one)[0] != "C").strip()
    return None if shown in {"", UNNAMED} else shown[:MAX_NAME]


async def _read_named_images(request: Request, *, limit: int) -> list[NamedImage]:
    """Read the files in the form's one, repeated field; some may be empty.

    Raises: see `read_image_groups`.
    """
    return (await read_image_groups(request, {FIELD: range(1, limit + 1)}))[FIELD]


async def read_image_groups(
    request: Request, counts: Mapping[str, range]
) -> dict[str, list[NamedImage]]:
    """Read the files in the form's repeated fields; some may be empty.

    Args:
        request: with the form.
        counts: for each field the allowed numbers of files.

    Raises:
        NotAFormError: the body is of another type.
        MalformedFormError: the body is broken.
        InvalidRequestError: a field has another number of files, or there is another field.
        BodyTooLargeError: the body exceeds the limit.
    """
    form = await _read_form(request, sum(allowed[-1] for allowed in counts.values()))
    fields = " and ".join(map(repr, counts))
    known = f"one field, {fields}" if len(counts) == 1 else f"the fields {fields}"
    for name in form:
        if name not in counts:
            raise _invalid(name, f"is not known: the form has {known}; parameters go in the URL")
    return {name: await _read_files(form, name, allowed) for name, allowed in counts.items()}


async def _read_files(form: FormData, name: str, allowed: range) -> list[NamedImage]:
    values = form.getlist(name)
    if not values and allowed[0]:
        raise _invalid(name, f"is missing: send the image as a file of this name, in {FORM}")
    if len(values) not in allowed:
        least, most = allowed[0], allowed[-1]
        wanted = f"{least} to {most} images" if least > 1 else f"at most {most} images"
        raise _invalid(
            name,
            f"was sent {len(values)} time{'s' * (len(values) > 1)}: send "
            f"{'one image' if most == 1 else wanted} a request",
        )
    files = [value for value in values if isinstance(value, UploadFile)]
    if len(files) < len(values):
        raise _invalid(name, "is text: send the image as a file, with a filename")
    return [NamedImage(await file.read(), file_name(file.filename)) for file in files]


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
    except (MultiPartException, FormParserError) as error:  # older Starlettes pass the second
        reason = getattr(error, "message", None) or str(error)
        raise MalformedFormError(f"the multipart body cannot be read: {reason}") from error
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
