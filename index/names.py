"""Ids of concepts, and the normal form in which names are compared.

An id is the slug of the text by which a source calls a concept: lower case, with a dash for every
run of other characters. Combining marks that spell a word (vowel signs of Hindi, Thai, Tamil and
Bengali, the points of Hebrew and Arabic) are kept.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import count

from slugify import slugify

# Marks of these ranges are no part of an id: accents and ornaments of Latin, Greek, Cyrillic, Han
# and Kana letters that have no composed form, and variation selectors.
_DROPPED_MARKS = (
    (0x0300, 0x036F), (0x0483, 0x0489), (0x180B, 0x180F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF),
    (0x20D0, 0x20FF), (0x2DE0, 0x2DFF), (0x302A, 0x302F), (0x3099, 0x309A), (0xA66F, 0xA67D),
    (0xFE00, 0xFE0F), (0xFE20, 0xFE2F),
)  # fmt: skip
_LAST_MARK = 0x1FFFF  # above it Unicode has variation selectors alone
_ASCII_SEPARATORS = re.compile(r"[\W_]+")
_DIGITS = 8  # hexadecimal, of the hash that tells two concepts of one slug apart


def concept_id(text: str) -> str:
    """Returns the id of the concept that a source calls ``text``.

    All normal forms of a text give the same id. A text without letters and digits gets a hash as
    its id. Two texts can have one id: see `distinct_ids`.
    """
    return _slug(nfc(text)) or f"concept-{_hash(text)}"


def former_id(text: str) -> str:
    """Returns the id that versions of the index before marks counted gave to ``text``."""
    return str(slugify(nfc(text), allow_unicode=True))


def distinct_ids(texts: Iterable[str]) -> Mapping[str, str]:
    """Returns a distinct id for each of ``texts``.

    A text whose slug is unique has `concept_id`. Texts that share a slug get their hash appended;
    an id that is the slug of another text, too, gets a further hash. No id depends on the order of
    the texts.

    Args:
        texts: in NFC, without repeats.
    """
    sharing: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        sharing[concept_id(text)].append(text)
    ids: dict[str, str] = {}
    taken = set(sharing)
    for slug, group in sharing.items():
        if len(group) == 1:
            ids[group[0]] = slug
            continue
        # Ids of two slugs differ in what comes before the last dash, so groups need no order.
        for text in sorted(group):
            hashes = (_hash(text, attempt) for attempt in count())
            ids[text] = next(own for end in hashes if (own := f"{slug}-{end}") not in taken)
            taken.add(ids[text])
    return ids


def nfc(text: str) -> str:
    """Returns a text in Unicode's normal form NFC; file systems and keyboards differ in forms."""
    return unicodedata.normalize("NFC", text)


def lower(text: str) -> str:
    """Returns a text in lower case and NFC: concepts of one source must differ in this form."""
    return nfc(nfc(text).lower())


def fold(text: str) -> str:
    """Returns a text in the form in which names and ids are compared: NFC, without case.

    Canonical caseless matching folds the decomposed text (The Unicode Standard, 3.13, D145).
    """
    if text.isascii():
        return text.lower()
    return nfc(unicodedata.normalize("NFD", text).casefold())


def words(text: str) -> str:
    """Returns a text folded, with one space for each run of marks between words."""
    folded = fold(text)
    return (_ASCII_SEPARATORS if folded.isascii() else _separators()).sub(" ", folded)


def _hash(text: str, attempt: int = 0) -> str:
    """Returns digits made of a text; other digits for each attempt."""
    hashed = nfc(text) + f"\0{attempt}" * (attempt > 0)
    return hashlib.sha256(hashed.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _slug(text: str) -> str:
    if text.isascii():
        return str(slugify(text, allow_unicode=True))
    return str(slugify(text, allow_unicode=True, regex_pattern=_separators()))


@cache
def _separators() -> re.Pattern[str]:
    """Matches characters that no id has: neither letters nor digits nor marks that spell a word."""
    kept = [
        chr(code)
        for code in range(_LAST_MARK + 1)
        if unicodedata.category(chr(code)) in {"Mn", "Mc"}
        and not any(first <= code <= last for first, last in _DROPPED_MARKS)
    ]
    return re.compile(rf"(?:[^\w{''.join(map(re.escape, kept))}]|_)+")
