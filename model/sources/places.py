"""Texts that say where pictures lie: addresses of single ones, and what an operator names."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import product
from pathlib import Path

from model.content import TAR
from model.errors import ImageError, UndecodableImageError
from model.sources.local import LocalFile
from model.sources.picture import Picture
from model.sources.remote import (
    HTTP,
    RemoteFile,
    files_below,
    is_there,
    is_url,
    known_file,
    split_url,
)
from model.sources.tar import Member, find_shard, members

_IN_SHARD = re.compile(r"(?<=.)\.tar#(?=.)", re.I | re.S)
_IN_TABLE = re.compile(r"(?P<table>.+\.parquet)#(?P<row>[0-9]+)", re.I | re.S)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
_WILD = re.compile(r"[*?\[]")


def picture_at(address: str) -> Picture:
    """Returns the picture of an address, as `Picture.address` gave it.

    A file of this very name comes before a member of a shard, and before a row of a table.

    Raises:
        ImageError: there is no such shard, or no such member or row in it.
        SourceError: the shard is damaged, or lies at a URL that cannot be read.
    """
    if not is_url(address) and Path(address).exists():
        return LocalFile(Path(address))
    fault: Exception | None = None
    for mark in _IN_SHARD.finditer(address):  # the names of folders and members can have it, too
        try:
            return _member(address[: mark.start() + len(TAR)], address[mark.end() :])
        except (ImageError, OSError) as error:
            fault = fault or error
    if found := _IN_TABLE.fullmatch(address):
        try:
            return _cell(found["table"], int(found["row"]))
        except (ImageError, OSError) as error:
            fault = fault or error
    return _own_file(address, fault) if fault else file_at(address)


def _own_file(address: str, error: Exception) -> Picture:
    """Returns the file at a URL whose own name looks like that of a picture in a shard.

    Raises:
        ImageError: there is none.
        SourceError: its server cannot be asked.
    """
    if is_url(address) and split_url(address).scheme not in HTTP and is_there(address):
        return RemoteFile(address)
    raise error if isinstance(error, ImageError) else UndecodableImageError(str(error)) from error


def file_at(text: str) -> Picture:
    """Returns the file of a path or a URL."""
    return RemoteFile(text) if is_url(text) else LocalFile(Path(text))


def local_path(text: str) -> str:
    """Returns the path of a URL of the scheme ``file``; any other text as it is."""
    return text.removeprefix("file://") if text.lower().startswith("file:///") else text


def expand(pattern: str) -> Iterator[str]:
    """Yield the paths or URLs that a text names: itself, unless it has braces or wildcards.

    ``{000..009}`` and ``{a,b}`` are expanded as by a shell; ``*``, ``?`` and ``[...]`` stand for
    files that are there, but ``?`` in a URL of HTTP begins its query. What is there under the very
    name stands for itself, and so does a wildcard that fits no file, as in a shell.

    Raises:
        SourceError: a wildcard in a URL whose server cannot be asked.
    """
    if not is_url(pattern) and Path(pattern).exists():
        yield pattern
        return
    parts = _BRACES.split(pattern)
    choices = [_choices(part) if odd % 2 else [part] for odd, part in enumerate(parts)]
    for text in map("".join, product(*choices)):
        place = _first_wildcard(text)
        if place is None or (is_url(text) and _is_key(text)):
            yield text
        else:
            yield from _fitting(text, place)


def _first_wildcard(text: str) -> int | None:
    """Return the place of the first wildcard; a URL's are in its path alone."""
    start, end = 0, len(text)
    if is_url(text):
        start = text.find("/", text.index("://") + 3)
        if start < 0:
            return None
        if split_url(text).scheme in HTTP:
            end = min([end, *(place for mark in "?#" if (place := text.find(mark)) >= 0)])
    found = _WILD.search(text, start, end)
    return found.start() if found else None


def _is_key(url: str) -> bool:
    """Return True if a URL with wildcards is that of a file, which can have them in its key."""
    return split_url(url).scheme not in HTTP and is_there(url)


def _choices(text: str) -> list[str]:
    if found := _RANGE.fullmatch(text):
        first, last = found.groups()
        step = 1 if int(first) <= int(last) else -1
        width = len(first) if first.startswith("0") else 1
        return [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]
    return text.split(",") if "," in text else [f"{{{text}}}"]


def _fitting(pattern: str, place: int) -> Iterator[str]:
    """Yield the files that fit a pattern whose first wildcard is at ``place``, in order."""
    root = pattern[: pattern.rfind("/", 0, place) + 1]
    if is_url(pattern):
        below = pattern[len(root) :]
        found = [file.url for path, file in files_below(root) if _fits(path, below)]
    else:
        folder = Path(root or ".")
        found = sorted(str(path) for path in folder.glob(pattern[len(root) :]))
    yield from found or [pattern]


def _fits(path: str, pattern: str) -> bool:
    own, wanted = path.split("/"), pattern.split("/")
    return len(own) == len(wanted) and all(map(fnmatchcase, own, wanted))


def _member(text: str, name: str) -> Picture:
    """Returns a member of a tar shard.

    Raises:
        UndecodableImageError: there is none of this name, or no such shard.
    """
    shard = known_file(text) if is_url(text) else find_shard(Path(text))
    if shard is None:
        raise UndecodableImageError(f"there is no file {text}")
    try:
        return _members(shard, shard.stamp.text)[name]
    except KeyError:
        raise UndecodableImageError(f"there is no {name} in it") from None


@lru_cache(maxsize=4)
def _members(shard: Picture, stamp: str) -> dict[str, Member]:  # noqa: ARG001 - of another content
    return {one.path: one for one in members(shard)}


def _cell(text: str, row: int) -> Picture:
    """Returns a picture in a row of a Parquet file."""
    from model.sources.parquet import Cell  # imported late, as Arrow is large

    table = known_file(text) if is_url(text) else LocalFile(Path(text))
    version = table.stamp.text
    return Cell(table, version, _image_column(table, version), row)


@lru_cache(maxsize=64)
def _image_column(table: Picture, stamp: str) -> str:  # noqa: ARG001 - of another content
    from model.sources.parquet import image_column, open_table

    column = image_column(open_table(table).schema_arrow)
    if column is None:
        raise UndecodableImageError(f"{table.address} has no column of images")
    return column
