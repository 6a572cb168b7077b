"""Texts that say where pictures lie: addresses of single ones, and what an operator names."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import product
from pathlib import Path

from model.errors import UndecodableImageError
from model.sources.local import LocalFile
from model.sources.picture import Picture
from model.sources.remote import RemoteFile, files_below, is_url
from model.sources.tar import Member, find_shard, members

_IN_SHARD = re.compile(r"(?P<shard>.+?\.tar)#(?P<name>.+)", re.I | re.S)
_IN_TABLE = re.compile(r"(?P<table>.+?\.parquet)#(?P<row>[0-9]+)", re.I | re.S)
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
    if found := _IN_SHARD.fullmatch(address):
        try:
            return _members(found["shard"])[found["name"]]
        except KeyError:
            raise UndecodableImageError(f"there is no {found['name']} in it") from None
        except OSError as error:
            raise UndecodableImageError(str(error)) from error
    if found := _IN_TABLE.fullmatch(address):
        from model.sources.parquet import Cell  # imported late, as Arrow is large

        try:
            return Cell(file_at(found["table"]), _image_column(found["table"]), int(found["row"]))
        except OSError as error:
            raise UndecodableImageError(str(error)) from error
    return file_at(address)


def file_at(text: str) -> Picture:
    """Returns the file of a path or a URL."""
    return RemoteFile(text) if is_url(text) else LocalFile(Path(text))


def local_path(text: str) -> str:
    """Returns the path of a URL of the scheme ``file``; any other text as it is."""
    return text.removeprefix("file://") if text.lower().startswith("file:///") else text


def expand(pattern: str) -> Iterator[str]:
    """Yield the paths or URLs that a text names: itself, unless it has braces or wildcards.

    ``{000..009}`` and ``{a,b}`` are expanded as by a shell; ``*``, ``?`` and ``[...]`` stand for
    files that are there. A wildcard that fits no file stands for itself, as in a shell.
    """
    if not is_url(pattern) and Path(pattern).exists():
        yield pattern
        return
    parts = _BRACES.split(pattern)
    choices = [_choices(part) if odd % 2 else [part] for odd, part in enumerate(parts)]
    for text in map("".join, product(*choices)):
        if _WILD.search(text) and not (is_url(text) and "?" in text and "*" not in text):
            yield from _fitting(text)
        else:
            yield text


def _choices(text: str) -> list[str]:
    if found := _RANGE.fullmatch(text):
        first, last = found.groups()
        step = 1 if int(first) <= int(last) else -1
        width = len(first) if first.startswith("0") else 1
        return [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]
    return text.split(",") if "," in text else [f"{{{text}}}"]


def _fitting(pattern: str) -> Iterator[str]:
    """Yield the files that fit a pattern with wildcards, in order."""
    before = pattern[: _WILD.search(pattern).start()]  # type: ignore[union-attr]
    root = before[: before.rfind("/") + 1]
    if is_url(pattern):
        below = pattern[len(root) :]
        found = [file.url for path, file in files_below(root) if _fits(path, below)]
    else:
        place = Path(root or ".")
        found = sorted(str(path) for path in place.glob(pattern[len(root) :]))
    yield from found or [pattern]


def _fits(path: str, pattern: str) -> bool:
    own, wanted = path.split("/"), pattern.split("/")
    return len(own) == len(wanted) and all(map(fnmatchcase, own, wanted))


@lru_cache(maxsize=4)
def _members(shard: str) -> dict[str, Member]:
    file = RemoteFile(shard) if is_url(shard) else find_shard(Path(shard))
    if file is None:
        raise UndecodableImageError(f"there is no file {shard}")
    return {one.path: one for one in members(file)}


@lru_cache(maxsize=64)
def _image_column(table: str) -> str:
    from model.sources.parquet import image_column, open_table

    column = image_column(open_table(file_at(table)).schema_arrow)
    if column is None:
        raise UndecodableImageError(f"{table} has no column of images")
    return column
