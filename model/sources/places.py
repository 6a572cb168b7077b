"""Addresses: the texts that say where a picture lies."""

import re
from functools import lru_cache
from pathlib import Path

from model.errors import UndecodableImageError
from model.sources.local import LocalFile
from model.sources.picture import Picture
from model.sources.tar import Member, find_shard, members

_IN_SHARD = re.compile(r"(?P<shard>.+?\.tar)#(?P<name>.+)", re.I | re.S)


def picture_at(address: str) -> Picture:
    """Returns the picture of an address, as `Picture.address` gave it.

    A file of this very name comes before a member of a shard.

    Raises:
        ImageError: there is no such shard, or no such member in it.
    """
    file = Path(address)
    if file.exists() or not (found := _IN_SHARD.fullmatch(address)):
        return LocalFile(file)
    try:
        return _members(found["shard"])[found["name"]]
    except KeyError:
        raise UndecodableImageError(f"there is no {found['name']} in {found['shard']}") from None


@lru_cache(maxsize=4)
def _members(path: str) -> dict[str, Member]:
    shard = find_shard(Path(path))
    if shard is None:
        raise UndecodableImageError(f"there is no file {path}")
    return {one.path: one for one in members(shard)}
