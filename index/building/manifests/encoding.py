"""Decodes text files as spreadsheet programs write them: UTF-8, UTF-16, UTF-32, Windows-1252."""

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
_MULTIBYTE = re.compile(rb"[\xc3-\xf4][\x80-\xbf]")  # how UTF-8 writes letters beyond Latin-1's
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]{4,}")


def decode(data: bytes, note: Note) -> str:
    """Returns the text of a file, without a byte order mark.

    UTF-8, and UTF-16 and UTF-32 by their byte order mark; UTF-16 also without one. A file that is
    none of these is read as Windows-1252, the Western European encoding of spreadsheet programs,
    unless its letters speak against it.

    Args:
        data: the file's bytes.
        note: told when Windows-1252 was taken.

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
    """Tells text of other alphabets, which has few ASCII letters, from Western European text.

    In Windows-1252 four characters in a row beyond ASCII are dashes, dots or quotation marks, with
    one letter among them at most.
    """
    runs = _BEYOND_ASCII.findall(data)
    return any(sum(byte >= 0xC0 for byte in run) > 1 for run in runs)


def _unmarked(data: bytes) -> str:
    """Tells UTF-16 without a mark by the zeros that it gives to ASCII letters."""
    head = data[:4096]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if odd > len(head) / 4 and not even:
        return "utf-16-le"
    if even > len(head) / 4 and not odd:
        return "utf-16-be"
    return "utf-8"
