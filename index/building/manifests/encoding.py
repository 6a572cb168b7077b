"""Decode text files of spreadsheet programs: UTF-8, UTF-16, UTF-32 or Windows-1252."""

import codecs
import re

from index.building.manifests.records import Note, RecordError

_MARKS = (  # UTF-32 before UTF-16, whose mark it begins with
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MULTIBYTE = re.compile(rb"[\xc3-\xf4][\x80-\xbf]")  # letters beyond Latin-1 in UTF-8
_HEAD = 64  # bytes of a file's first line, which has the names of columns
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]{4,}")


def decode(data: bytes, note: Note) -> str:
    """Returns the text of a file, without a byte order mark.

    A byte order mark tells UTF-8, UTF-16 and UTF-32; UTF-8 and UTF-16 are recognised without one,
    too. Any other file is read as Windows-1252, the Western European encoding of spreadsheet
    programs, unless its letters are of another alphabet.

    Args:
        data: the file's bytes.
        note: called if Windows-1252 was assumed.

    Raises:
        RecordError: the encoding is damaged, or none of these.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), _unmarked(data))
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "ignore").count("\n") + 1
        place = f"line {line}"
        if encoding != "utf-8":
            raise RecordError(f"damaged {encoding.upper()} ({error.reason})", place) from error
        fault = f"it is not UTF-8 ({error.reason}); save it as UTF-8"
        if _MULTIBYTE.search(data[: error.start]) or _other_alphabet(data):
            raise RecordError(fault, place) from error
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise RecordError(fault, place) from error
    note("it is not UTF-8 and was read as Windows-1252; if names look wrong, save it as UTF-8")
    return text


def _other_alphabet(data: bytes) -> bool:
    """Return True if text is of another alphabet than Western European.

    In Windows-1252 a run of four characters beyond ASCII is of dashes, dots or quotation marks,
    with at most one letter.
    """
    runs = _BEYOND_ASCII.findall(data)
    return any(sum(byte >= 0xC0 for byte in run) > 1 for run in runs)


def _unmarked(data: bytes) -> str:
    """Returns the encoding of text without a byte order mark.

    The names of columns are ASCII, which has a zero byte for each character in UTF-16: behind it
    in little-endian order, before it in big-endian order.
    """
    head = data[:_HEAD]
    before, behind = head[::2].count(0), head[1::2].count(0)
    if max(before, behind) < len(head) / 8:
        return "utf-8"
    return "utf-16-le" if behind > before else "utf-16-be"
